"""Pairwise generative judging: pairs, verdict parsing, rewards. Standard library only.

The arithmetic is that of NeMo-Gym's `genrm_compare` resources server, so that a policy trained here and
one trained on a cluster are rewarded by the same rule. Scores run from 1 to 5 (higher is better), a
ranking from 1 (first much better) to 6 (second much better).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEFAULT_SCORE = 3.0
DEFAULT_RANKING = 3.5

_FENCED = re.compile(r"```json(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """What a judge said of two responses; `fallback` when nothing usable was said."""

    score_1: float
    score_2: float
    ranking: float
    fallback: bool = False


@dataclass(frozen=True)
class GroupRewards:
    """Rewards of one group, in the order of its responses, with the shares that explain them.

    tie_rate: verdicts with equal scores, which the ranking had to decide. fallback_rate: verdicts that
    could not be read and counted as neutral.
    """

    rewards: tuple[float, ...]
    tie_rate: float
    fallback_rate: float


def comparison_pairs(responses: int, strategy: str = "circular") -> tuple[tuple[int, int], ...]:
    """Which responses are compared, as index pairs (first shown, second shown).

    `circular`: each with the next and the last with the first, so that every response is seen once in
    each position. `all_pairs`: every unordered pair once. Raises ValueError for another strategy and
    for fewer than two responses.
    """
    if responses < 2:
        raise ValueError(f"a comparison needs at least 2 responses, not {responses}")
    if strategy == "circular":
        return tuple((i, (i + 1) % responses) for i in range(responses))
    if strategy == "all_pairs":
        return tuple((i, j) for i in range(responses) for j in range(i + 1, responses))
    raise ValueError(f"comparison_strategy is {strategy!r}; valid: circular, all_pairs")


def parse_verdict(
    text: str, *, default_score: float = DEFAULT_SCORE, default_ranking: float = DEFAULT_RANKING
) -> Verdict:
    """The verdict in a judge's answer: the first in a block fenced as json, else the last object that is one.

    One of the three keys is enough, the others take the defaults; keys may be nested under `overall`. A key
    whose value is no finite number makes the object no verdict. Without any the verdict is neutral and
    `fallback` is set.
    """
    for candidate in _json_objects(text):
        overall = candidate.get("overall")
        fields = overall if isinstance(overall, Mapping) else candidate
        found = {k: _number(fields[k]) for k in ("score_1", "score_2", "ranking") if k in fields}
        if found and None not in found.values():
            return Verdict(
                score_1=_or(found.get("score_1"), default_score),
                score_2=_or(found.get("score_2"), default_score),
                ranking=_or(found.get("ranking"), default_ranking),
            )
    return Verdict(default_score, default_score, default_ranking, fallback=True)


def group_rewards(
    responses: int, judged: Sequence[tuple[tuple[int, int], Verdict]], *, default_score: float = DEFAULT_SCORE
) -> GroupRewards:
    """Mean score of each response over the comparisons it took part in.

    Equal scores are separated by the ranking: `3.5 - ranking` is added to the first and taken from the
    second. A response without any comparison gets `default_score`.
    """
    totals = [0.0] * responses
    counts = [0] * responses
    ties = fallbacks = 0
    for (first, second), verdict in judged:
        score_1, score_2 = verdict.score_1, verdict.score_2
        if score_1 == score_2:
            ties += 1
            score_1 += DEFAULT_RANKING - verdict.ranking
            score_2 -= DEFAULT_RANKING - verdict.ranking
        fallbacks += verdict.fallback
        for index, score in ((first, score_1), (second, score_2)):
            totals[index] += score
            counts[index] += 1
    rewards = tuple(t / n if n else default_score for t, n in zip(totals, counts, strict=True))
    total = max(1, len(judged))
    return GroupRewards(rewards, tie_rate=ties / total, fallback_rate=fallbacks / total)


def verdict_text(score_1: int, score_2: int) -> str:
    """The JSON a judge is taught to say for two scores; the ranking follows from their difference."""
    ranking = min(6, max(1, round(DEFAULT_RANKING - (score_1 - score_2) * 0.75)))
    return json.dumps({"score_1": score_1, "score_2": score_2, "ranking": ranking})


def judge_messages(
    conversation: Sequence[Mapping[str, str]], response_1: str, response_2: str, principle: str | None = None
) -> list[dict[str, str]]:
    """The chat a generative judge reads: the conversation, then both responses under their own roles."""
    messages = [dict(m) for m in conversation]
    if principle:
        messages.append({"role": "principle", "content": principle})
    messages.append({"role": "response_1", "content": response_1})
    messages.append({"role": "response_2", "content": response_2})
    return messages


def _json_objects(text: str) -> list[dict[str, object]]:
    """JSON objects in the order they are to be tried: fenced ones forwards, then all of them backwards."""
    fenced = [found for block in _FENCED.findall(text) for found in _outermost(block)]
    return [*fenced, *reversed(_outermost(text))]


def _outermost(text: str) -> list[dict[str, object]]:
    """The JSON objects of a text that stand in no other one: a part of a verdict is no verdict of its own."""
    decoder = json.JSONDecoder()
    found = []
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            end = start + 1
        except RecursionError:
            break  # nested a thousand deep: whatever this is, reading it from every depth costs seconds
        else:
            found.append(value)
        start = text.find("{", end)
    return found


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if number == number and abs(number) != float("inf") else None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
