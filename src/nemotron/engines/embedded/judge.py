"""Judges in process: a generative model that compares two answers, and a classifier that scores one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nemotron.engines.embedded.generation import generate
from nemotron.engines.embedded.models import (
    from_pretrained,
    is_classifier,
    load_causal,
    load_classifier,
)
from nemotron.engines.embedded.reading import COMPARE, JUDGE_MODEL, lookup
from nemotron.engines.genrm import (
    GroupRewards,
    Verdict,
    comparison_pairs,
    group_rewards,
    judge_messages,
    parse_verdict,
)
from nemotron.errors import CheckFailed, WorkFailed

Message = dict[str, Any]
# The limit on unread verdicts is a share of the latest so many. Before there are so many it takes as many
# unread ones to stop: one bad verdict among the first four is no reason to.
FALLBACK_WINDOW = 100


@dataclass(frozen=True)
class Group:
    """Answers to one prompt, as texts, in rollout order."""

    prompt: list[Message]
    responses: tuple[str, ...]
    principle: str = ""


class Judge(Protocol):
    """What rewards a group of answers."""

    def rewards(self, groups: Sequence[Group]) -> list[GroupRewards]:
        """Rewards of every group, in order."""

    def preferences(self, pairs: Sequence[tuple[list[Message], str, str]]) -> list[float]:
        """For each (prompt, first, second): 1.0 when the first is better, 0.0 the second, 0.5 a tie."""


class GenerativeJudge:
    """A causal model that reads both answers under their roles and writes a JSON verdict.

    With temperature 0 a verdict depends on its text alone and is remembered; `cache` goes into the
    checkpoint, because a batch of other composition can differ in the last bit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: Mapping[str, Any],
        *,
        batch_size: int,
        max_fallback_rate: float,
    ) -> None:
        params = settings.get("genrm_responses_create_params") or {}
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._max_new_tokens = int(params.get("max_output_tokens", 16384))
        self._temperature = float(params.get("temperature", 0.6))
        self._top_p = float(params.get("top_p", 0.95))
        self._strategy = str(settings.get("comparison_strategy", "circular"))
        self._passes = int(settings.get("num_judges_per_comparison", 1))
        self._retries = int(settings.get("genrm_parse_retries", 3)) if self._temperature > 0 else 0
        self._principle = (
            str(settings.get("default_principle") or "") if settings.get("use_principle") else None
        )
        self._default_score = float(settings.get("default_score", 3.0))
        self._default_ranking = float(settings.get("default_ranking", 3.5))
        self._max_fallback_rate = max_fallback_rate
        self._recent: deque[bool] = deque(maxlen=FALLBACK_WINDOW)
        self.cache: dict[str, str] = {}

    def rewards(self, groups: Sequence[Group]) -> list[GroupRewards]:
        """Pairwise within each group; raises WorkFailed when too many verdicts cannot be read."""
        asked: list[list[Message]] = []
        owners: list[tuple[int, tuple[int, int]]] = []
        for index, group in enumerate(groups):
            for pair in comparison_pairs(len(group.responses), self._strategy):
                first, second = (group.responses[i] for i in pair)
                for _ in range(self._passes):
                    asked.append(self._chat(group.prompt, first, second, group.principle))
                    owners.append((index, pair))
        judged: list[list[tuple[tuple[int, int], Verdict]]] = [[] for _ in groups]
        for (index, pair), verdict in zip(owners, self._verdicts(asked), strict=True):
            judged[index].append((pair, verdict))
        self._watch([v.fallback for group in judged for _, v in group])
        return [
            group_rewards(len(g.responses), j, default_score=self._default_score)
            for g, j in zip(groups, judged, strict=True)
        ]

    def preferences(self, pairs: Sequence[tuple[list[Message], str, str]]) -> list[float]:
        """Mean over both orders of who scored higher; an unreadable verdict counts as a tie."""
        asked = [self._chat(p, a, b, "") for p, a, b in pairs] + [
            self._chat(p, b, a, "") for p, a, b in pairs
        ]
        verdicts = self._verdicts(asked)
        forward, backward = verdicts[: len(pairs)], verdicts[len(pairs) :]
        return [(_first_wins(f) + 1.0 - _first_wins(b)) / 2 for f, b in zip(forward, backward, strict=True)]

    def probe(self, prompt: list[Message], first: str, second: str) -> None:
        """Ask about two answers in both orders. Raises CheckFailed when neither verdict can be read."""
        answers = self._answers(
            [self._chat(prompt, first, second, ""), self._chat(prompt, second, first, "")]
        )
        if all(parse_verdict(a).fallback for a in answers):
            raise CheckFailed(
                f"the judge writes no verdict that can be read; it said {answers[0][:120]!r}",
                where=JUDGE_MODEL,
                next="train one with `nemotron steps run rm/nemo_rl`, or name a generative reward model",
            )

    def _chat(self, prompt: list[Message], first: str, second: str, principle: str) -> list[Message]:
        # An empty answer is shown as the word None, as NeMo-Gym's genrm_compare shows it.
        wanted = (principle or self._principle) if self._principle is not None else None
        return judge_messages(
            prompt, first if first.strip() else "None", second if second.strip() else "None", wanted
        )

    def _verdicts(self, asked: Sequence[list[Message]]) -> list[Verdict]:
        verdicts = [self._parse(a) for a in self._answers(asked)]
        for _ in range(self._retries):
            failed = [i for i, v in enumerate(verdicts) if v.fallback]
            if not failed:
                break
            for i, answer in zip(failed, self._answers([asked[i] for i in failed]), strict=True):
                verdicts[i] = self._parse(answer)
        return verdicts

    def _parse(self, answer: str) -> Verdict:
        return parse_verdict(answer, default_score=self._default_score, default_ranking=self._default_ranking)

    def _answers(self, asked: Sequence[list[Message]]) -> list[str]:
        texts = [
            str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
            for chat in asked
        ]
        if self._temperature > 0:
            return self._generate(texts)
        new = sorted({t for t in texts if t not in self.cache}, key=lambda t: (len(t), t))
        self.cache.update(zip(new, self._generate(new), strict=True))
        return [self.cache[t] for t in texts]

    def _generate(self, texts: Sequence[str]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(texts), self._batch_size):
            found += generate(
                self._model,
                self._tokenizer,
                texts[start : start + self._batch_size],
                max_new_tokens=self._max_new_tokens,
                temperature=self._temperature,
                top_p=self._top_p,
            )
        return found

    def _watch(self, fallbacks: Sequence[bool]) -> None:
        self._recent.extend(fallbacks)
        unread = sum(self._recent)
        if unread > self._max_fallback_rate * FALLBACK_WINDOW:
            raise WorkFailed(
                f"{unread} of the last {len(self._recent)} verdicts could not be read, "
                f"the limit is {self._max_fallback_rate:.0%} of {FALLBACK_WINDOW}",
                where=JUDGE_MODEL,
                next="check the judge, or raise embedded.judge.max_fallback_rate",
            )


class ClassifierJudge:
    """A Bradley-Terry reward model: one score for each answer, no pairs."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._batch_size = batch_size

    def rewards(self, groups: Sequence[Group]) -> list[GroupRewards]:
        """The score of each answer after its prompt."""
        chats = [[*g.prompt, {"role": "assistant", "content": r}] for g in groups for r in g.responses]
        scores = iter(self._scores(chats))
        return [GroupRewards(tuple(next(scores) for _ in g.responses), 0.0, 0.0) for g in groups]

    def preferences(self, pairs: Sequence[tuple[list[Message], str, str]]) -> list[float]:
        """Whose score is higher; a classifier knows no order."""
        chats = [[*p, {"role": "assistant", "content": text}] for p, a, b in pairs for text in (a, b)]
        scores = self._scores(chats)
        return [_compare(scores[2 * i], scores[2 * i + 1]) for i in range(len(pairs))]

    def _scores(self, chats: Sequence[list[Message]]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(chats), self._batch_size):
            texts = [
                str(self._tokenizer.apply_chat_template(c, tokenize=False))
                for c in chats[start : start + self._batch_size]
            ]
            batch = self._tokenizer(
                texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
            ).to(self._model.device)
            with torch.inference_mode():
                found += self._model(**batch).logits[:, 0].float().tolist()
        return found


def load_judge(config: Mapping[str, Any]) -> GenerativeJudge | ClassifierJudge:
    """The judge a config names: its kind is what the checkpoint says it is."""
    name = str(lookup(config, JUDGE_MODEL))
    batch_size = int(lookup(config, "embedded.judge.batch_size", 64))
    tokenizer = _judge_tokenizer(name)
    if is_classifier(name, JUDGE_MODEL):
        model = load_classifier(config, name, JUDGE_MODEL, tokenizer.pad_token_id)
        return ClassifierJudge(model, tokenizer, batch_size=batch_size)
    tokenizer.padding_side = "left"
    return GenerativeJudge(
        load_causal(config, name, JUDGE_MODEL).eval(),
        tokenizer,
        lookup(config, COMPARE, {}),
        batch_size=batch_size,
        max_fallback_rate=float(lookup(config, "embedded.judge.max_fallback_rate", 0.2)),
    )


def _judge_tokenizer(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = from_pretrained(AutoTokenizer, name, JUDGE_MODEL)
    if tokenizer.chat_template is None:
        raise CheckFailed("the judge's tokenizer has no chat template", where=name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _first_wins(verdict: Verdict) -> float:
    """1.0, 0.0 or 0.5; equal scores are separated by the ranking."""
    if verdict.score_1 != verdict.score_2:
        return float(verdict.score_1 > verdict.score_2)
    return _compare(3.5, verdict.ranking)


def _compare(first: float, second: float) -> float:
    # One text in two rows of a batch may score differently in the last bit.
    return 0.5 if math.isclose(first, second, abs_tol=1e-5) else float(first > second)
