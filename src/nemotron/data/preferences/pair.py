"""The one form of a preference: what was asked, and two answers of which one is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemotron.data.fields import message_list, refuse

Row = dict[str, Any]
Message = dict[str, Any]

_KEYS = frozenset(("context", "completions", "tools"))
_COMPLETION_KEYS = frozenset(("rank", "completion", "score"))


@dataclass(frozen=True)
class Pair:
    """Two answers to one context.

    context: messages, the last of them not the assistant's. chosen, rejected: messages, the last of them
    the assistant's. tools: the definitions the row has, None without. scores: of chosen and rejected, None
    without.
    """

    context: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: Any = None
    scores: tuple[Any, Any] | None = None


@dataclass(frozen=True)
class Judged:
    """One answer and whether it is wanted. good: None where the row does not say."""

    context: tuple[Message, ...]
    completion: tuple[Message, ...]
    good: bool | None


def pair_row(pair: Pair) -> Row:
    """The pair as a row of `preference_jsonl`: `context` and two ranked `completions`."""
    completions = []
    for rank, answer in enumerate((pair.chosen, pair.rejected)):
        completion: Row = {"rank": rank}
        if pair.scores is not None:
            completion["score"] = pair.scores[rank]
        completions.append({**completion, "completion": list(answer)})
    row: Row = {"context": list(pair.context), "completions": completions}
    return row if pair.tools is None else {**row, "tools": pair.tools}


def read_ranked(row: Row, *, extra: bool = False) -> Pair:
    """The pair in a row of `context` and `completions`.

    extra: whether keys that are not known are left away; else they raise `RefusedRowError`, as does
    everything that is missing or of the wrong type.
    """
    no_extra(row, _KEYS, extra)
    context = message_list(row, "context")
    completions = row.get("completions")
    if not isinstance(completions, list):
        refuse("missing_field" if completions is None else "wrong_type", "completions is not a list")
    if len(completions) != 2:
        refuse("wrong_number", f"completions has {len(completions)} entries, not 2")
    for index, completion in enumerate(completions):
        if not isinstance(completion, dict):
            refuse("wrong_type", f"completions[{index}] is not an object")
        no_extra(completion, _COMPLETION_KEYS, extra, f"completions[{index}].")
        rank = completion.get("rank")
        if not isinstance(rank, int) or isinstance(rank, bool):
            refuse("wrong_type" if "rank" in completion else "missing_field", f"completions[{index}].rank")
    if completions[0]["rank"] == completions[1]["rank"]:
        refuse("equal_ranks", f"both completions have rank {completions[0]['rank']}")
    best, worst = sorted(completions, key=lambda completion: int(completion["rank"]))
    scores = (best["score"], worst["score"]) if "score" in best and "score" in worst else None
    answers = (message_list(best, "completion"), message_list(worst, "completion"))
    return Pair(context, *answers, tools=row.get("tools"), scores=scores)


def no_extra(row: Row, known: frozenset[str], allowed: bool, where: str = "") -> None:
    """Raise `RefusedRowError` when the row has keys that are not `known`, unless that is allowed."""
    extra = sorted(row.keys() - known)
    if extra and not allowed:
        names = ", ".join(f"{where}{name}"[:80] for name in extra[:5])
        refuse("extra_field", names)


def checked(pair: Pair) -> Pair:
    """The pair, or `RefusedRowError` where a trainer could not take it."""
    _asked(pair.context)
    for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        _answered(answer, name)
    if pair.chosen == pair.rejected:
        refuse("same_answers", "chosen and rejected are the same")
    return pair


def checked_judged(judged: Judged) -> Judged:
    """As `checked`, for one judged answer."""
    _asked(judged.context)
    _answered(judged.completion, "completion")
    return judged


def _asked(context: tuple[Message, ...]) -> None:
    if not context or context[-1]["role"] not in ("user", "tool"):
        refuse("no_prompt", "nothing of the user before the answers")


def _answered(answer: tuple[Message, ...], name: str) -> None:
    if not answer or answer[-1]["role"] != "assistant":
        refuse("no_answer", f"{name} does not end with the assistant")
    last = answer[-1]
    content = last.get("content")
    if not last.get("tool_calls") and (not content or (isinstance(content, str) and not content.strip())):
        refuse("empty_answer", f"{name} is empty")
