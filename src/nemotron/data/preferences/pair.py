"""The one form of a preference: what was asked, and two answers of which one is better."""

from __future__ import annotations

from typing import Any, NamedTuple

from nemotron.data.fields import message_list, refuse

Row = dict[str, Any]
Message = dict[str, Any]

_KEYS = frozenset(("context", "completions", "tools"))
_COMPLETION_KEYS = frozenset(("rank", "completion", "score"))


class Pair(NamedTuple):
    """Two answers to one context. A named tuple, as there are millions.

    context: messages, the last of them not the assistant's. chosen, rejected: messages, the last of them
    the assistant's. tools: the definitions the row has, None without. scores: of chosen and rejected, None
    without.
    """

    context: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: Any = None
    scores: tuple[Any, Any] | None = None


class Judged(NamedTuple):
    """One answer and whether it is wanted. good: None where the row does not say."""

    context: tuple[Message, ...]
    completion: tuple[Message, ...]
    good: bool | None


def pair_row(pair: Pair) -> Row:
    """The pair as a row of `preference_jsonl`: `context` and two ranked `completions`."""
    context, chosen, rejected, tools, scores = pair
    best: Row = {"rank": 0, "completion": list(chosen)}
    worst: Row = {"rank": 1, "completion": list(rejected)}
    if scores is not None:
        best = {"rank": 0, "score": scores[0], "completion": best["completion"]}
        worst = {"rank": 1, "score": scores[1], "completion": worst["completion"]}
    row: Row = {"context": list(context), "completions": [best, worst]}
    return row if tools is None else {**row, "tools": tools}


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
    if allowed or row.keys() <= known:
        return
    extra = sorted(row.keys() - known)
    if extra:
        names = ", ".join(f"{where}{name}"[:80] for name in extra[:5])
        refuse("extra_field", names)


def check(said: Pair | Judged) -> None:
    """Raise `RefusedRowError` where a trainer could not take a pair or a judged answer."""
    _asked(said.context)
    if isinstance(said, Judged):
        _answered(said.completion, "completion")
        return
    _answered(said.chosen, "chosen")
    _answered(said.rejected, "rejected")
    differ(said)


def differ(pair: Pair) -> None:
    """Raise `RefusedRowError` where the two answers of a pair are the same."""
    if pair.chosen == pair.rejected:
        refuse("same_answers", "chosen and rejected are the same")


def _asked(context: tuple[Message, ...]) -> None:
    if not context or context[-1]["role"] not in ("user", "tool"):
        refuse("no_prompt", "nothing of the user before the answers")


def _answered(answer: tuple[Message, ...], name: str) -> None:
    if not answer or answer[-1]["role"] != "assistant":
        refuse("no_answer", f"{name} does not end with the assistant")
    last = answer[-1]
    content = last.get("content")
    if content and not (type(content) is str and content.isspace()):
        return
    if not last.get("tool_calls"):
        refuse("empty_answer", f"{name} is empty")
