"""Layouts whose prompt is one text: the columns of the data sets that the type names come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar

from nemotron.data.fields import message_list, optional_text, plain_text, refuse, text

from .pair import Judged, Message, Pair, Row, no_extra

_SYSTEM = "system"
_LABELS = MappingProxyType({"true": True, "1": True, "false": False, "0": False})
_PLACE = re.compile(r"\{(\w+)\}")


def label_of(row: Mapping[str, Any], key: str) -> bool | None:
    """The label of a judged answer: true, false, 1 or 0, as a string too; None when absent."""
    if key not in row:
        return None
    value = row[key]
    name = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if name not in _LABELS:
        refuse("unknown_label", f"{key} is {value!r:.60}, neither true nor false")
    return _LABELS[name]


def asked(system: str | None, prompt: str) -> tuple[Message, ...]:
    """A context of one question."""
    question = {"role": "user", "content": prompt}
    return (question,) if system is None else ({"role": "system", "content": system}, question)


def said(answer: str) -> tuple[Message, ...]:
    """An answer that is one text."""
    return ({"role": "assistant", "content": answer},)


def one_question(context: tuple[Message, ...]) -> tuple[str | None, str]:
    """The system text, if any, and the question of a context that is no more than that."""
    roles = tuple(message["role"] for message in context)
    if roles not in (("user",), ("system", "user")):
        refuse("many_turns", f"the context is {', '.join(roles)}; this type has one question")
    texts = [plain_text(message, "the context") for message in context]
    return (texts[0] if len(texts) == 2 else None), texts[-1]


def one_text(answer: tuple[Message, ...]) -> str:
    """The text of an answer that is one message."""
    if len(answer) != 1:
        refuse("many_turns", f"an answer has {len(answer)} messages; this type has one text")
    return plain_text(answer[0], "an answer")


def no_tools(pair: Pair) -> None:
    """Refuse a pair that a layout without tools cannot hold."""
    if pair.tools:
        refuse("has_tools", "this type has no place for tools")


@dataclass(frozen=True)
class TextPair:
    """`system` if there is one, a question and two texts. prompt, chosen, rejected: the names of the
    columns; of several the first that the row has.
    """

    sound: ClassVar[bool] = True

    prompt: tuple[str, ...]
    chosen: tuple[str, ...] = ("chosen",)
    rejected: tuple[str, ...] = ("rejected",)

    def read(self, row: Row, extra: bool) -> tuple[Pair, ...]:
        prompt, chosen = _there(row, self.prompt), _there(row, self.chosen)
        rejected = _there(row, self.rejected)
        no_extra(row, _columns(_SYSTEM, prompt, chosen, rejected), extra)
        context = asked(optional_text(row, _SYSTEM), text(row, prompt))
        return (Pair(context, said(text(row, chosen)), said(text(row, rejected))),)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        system, prompt = one_question(pair.context)
        answers = {self.chosen[0]: one_text(pair.chosen), self.rejected[0]: one_text(pair.rejected)}
        return ({**_system(system), self.prompt[0]: prompt, **answers},)


@dataclass(frozen=True)
class TextJudged:
    """`system` if there is one, a question, a text and, if the row says it, a label."""

    prompt: str
    completion: str = "completion"
    label: str = "label"

    def read(self, row: Row, extra: bool) -> tuple[Judged, ...]:
        no_extra(row, _columns(_SYSTEM, self.prompt, self.completion, self.label), extra)
        context = asked(optional_text(row, _SYSTEM), text(row, self.prompt))
        return (Judged(context, said(text(row, self.completion)), label_of(row, self.label)),)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        system, prompt = one_question(pair.context)
        head = {**_system(system), self.prompt: prompt}
        answers = ((pair.chosen, True), (pair.rejected, False))
        return tuple({**head, self.completion: one_text(a), self.label: good} for a, good in answers)


@dataclass(frozen=True)
class PromptAndLists:
    """`system` if there is one, `prompt`, and two conversations that begin with the same question."""

    def read(self, row: Row, extra: bool) -> tuple[Pair, ...]:
        no_extra(row, _columns(_SYSTEM, "prompt", "chosen", "rejected"), extra)
        prompt, system = text(row, "prompt"), optional_text(row, _SYSTEM)
        answers = []
        for key in ("chosen", "rejected"):
            messages = message_list(row, key)
            roles = tuple(message["role"] for message in messages)
            if roles != ("user", "assistant"):
                refuse("many_turns", f"{key} is {', '.join(roles)}; this type has a question and an answer")
            if messages[0].get("content") != prompt:
                refuse("prompts_differ", f"{key}[0] is not the prompt")
            answers.append(messages[1:])
        return (Pair(asked(system, prompt), answers[0], answers[1]),)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        system, prompt = one_question(pair.context)
        head = {"role": "user", "content": prompt}
        lists = {}
        for key, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            if len(answer) != 1:
                refuse("many_turns", f"{key} has {len(answer)} messages; this type has one answer")
            lists[key] = [head, *answer]
        return ({**_system(system), "prompt": prompt, **lists},)


@dataclass(frozen=True)
class RankedAnswers:
    """`prompt` and `answers`, each with its `rank`, 1 the best.

    every: a pair of every two answers whose ranks differ, not of the best and the worst alone.
    """

    every: bool = False

    def read(self, row: Row, extra: bool) -> tuple[Pair, ...]:
        no_extra(row, _columns("prompt", "answers"), extra)
        context = asked(None, text(row, "prompt"))
        answers = row.get("answers")
        if not isinstance(answers, list):
            refuse("wrong_type" if "answers" in row else "missing_field", "answers is not a list")
        ranked = []
        for index, answer in enumerate(answers):
            if not isinstance(answer, dict):
                refuse("wrong_type", f"answers[{index}] is not an object")
            no_extra(answer, _columns("answer", "rank"), extra, f"answers[{index}].")
            rank = answer.get("rank")
            if isinstance(rank, bool) or not isinstance(rank, int | float):
                refuse("wrong_type" if "rank" in answer else "missing_field", f"answers[{index}].rank")
            ranked.append((rank, said(text(answer, "answer"))))
        if len(ranked) < 2:
            refuse("wrong_number", f"answers has {len(ranked)} entries, fewer than 2")
        ranked.sort(key=lambda entry: entry[0])
        if ranked[0][0] == ranked[-1][0]:
            refuse("equal_ranks", f"all answers have rank {ranked[0][0]}")
        if not self.every:
            return (Pair(context, ranked[0][1], ranked[-1][1]),)
        places = range(len(ranked))
        return tuple(
            Pair(context, ranked[good][1], ranked[bad][1])
            for good in places
            for bad in places
            if ranked[good][0] < ranked[bad][0]
        )

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        system, prompt = one_question(pair.context)
        if system is not None:
            refuse("has_system", "this type has no place for a system text")
        answers = [
            {"answer": one_text(answer), "rank": rank}
            for rank, answer in enumerate((pair.chosen, pair.rejected), start=1)
        ]
        return ({"prompt": prompt, "answers": answers},)


@dataclass(frozen=True)
class UserDefined:
    """Columns under names of the user's, each put into a format of the user's.

    prompt_format: where `{system}` is in it, the system text is put there, else it becomes a message of
    its own.
    """

    prompt: str = "prompt"
    system: str = "system"
    chosen: str = "chosen"
    rejected: str = "rejected"
    prompt_format: str = "{prompt}"
    chosen_format: str = "{chosen}"
    rejected_format: str = "{rejected}"

    def read(self, row: Row, extra: bool) -> tuple[Pair, ...]:
        no_extra(row, _columns(self.system, self.prompt, self.chosen, self.rejected), extra)
        chosen = _fill(self.chosen_format, {"chosen": text(row, self.chosen)})
        rejected = _fill(self.rejected_format, {"rejected": text(row, self.rejected)})
        return (Pair(_asked_so(self, row), said(chosen), said(rejected)),)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        formats = (self.prompt_format, self.chosen_format, self.rejected_format)
        if formats != ("{prompt}", "{chosen}", "{rejected}"):
            refuse("has_format", "what a format has put together is not taken apart")
        system, prompt = one_question(pair.context)
        head = {} if system is None else {self.system: system}
        answers = {self.chosen: one_text(pair.chosen), self.rejected: one_text(pair.rejected)}
        return ({**head, self.prompt: prompt, **answers},)


@dataclass(frozen=True)
class UserJudged:
    """As `UserDefined`, for judged answers."""

    prompt: str = "prompt"
    system: str = "system"
    completion: str = "completion"
    label: str = "label"
    prompt_format: str = "{prompt}"
    completion_format: str = "{completion}"

    def read(self, row: Row, extra: bool) -> tuple[Judged, ...]:
        no_extra(row, _columns(self.system, self.prompt, self.completion, self.label), extra)
        answer = _fill(self.completion_format, {"completion": text(row, self.completion)})
        return (Judged(_asked_so(self, row), said(answer), label_of(row, self.label)),)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        if (self.prompt_format, self.completion_format) != ("{prompt}", "{completion}"):
            refuse("has_format", "what a format has put together is not taken apart")
        system, prompt = one_question(pair.context)
        head = {} if system is None else {self.system: system}
        head[self.prompt] = prompt
        answers = ((pair.chosen, True), (pair.rejected, False))
        return tuple({**head, self.completion: one_text(a), self.label: good} for a, good in answers)


def _asked_so(names: UserDefined | UserJudged, row: Row) -> tuple[Message, ...]:
    system, prompt = optional_text(row, names.system), text(row, names.prompt)
    # Without a system text its place stays empty, as the frame around it is the user's.
    filled = _fill(names.prompt_format, {"prompt": prompt, "system": system or ""})
    return asked(None if "{system}" in names.prompt_format else system, filled)


def _there(row: Row, keys: tuple[str, ...]) -> str:
    if keys[0] in row:
        return keys[0]
    return next((key for key in keys if key in row), keys[0])


@lru_cache(maxsize=64)
def _columns(*names: str) -> frozenset[str]:
    """The names as a set, of which there are few and rows many."""
    return frozenset(names)


def _system(system: str | None) -> Row:
    return {} if system is None else {_SYSTEM: system}


def _fill(frame: str, values: Mapping[str, str]) -> str:
    """The frame with each `{name}` replaced; str.format would also follow attributes of what it is given."""
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), frame)
