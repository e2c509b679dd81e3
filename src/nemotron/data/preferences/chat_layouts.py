"""Layouts whose answers are messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.data.fields import ROLES, message, message_list, optional_text, refuse, text

from .pair import Judged, Message, Pair, Row, no_extra, pair_row, read_ranked
from .text_layouts import label_of, no_tools, one_text, said


@dataclass(frozen=True)
class Conversations:
    """Two whole conversations, the same but for the last message of each.

    alternating: user and assistant have to take turns; `system` and `prompt` may stand beside the lists,
    and `prompt` is the question where the lists have one. left_away: columns that say nothing of the pair.
    """

    alternating: bool = False
    left_away: tuple[str, ...] = ()

    def read(self, row: Row, extra: bool) -> tuple[Pair, ...]:
        beside = ("system", "prompt") if self.alternating else ()
        no_extra(row, frozenset(("chosen", "rejected", *beside, *self.left_away)), extra)
        chosen, rejected = message_list(row, "chosen"), message_list(row, "rejected")
        if self.alternating:
            chosen, rejected = self._with_beside(row, chosen), self._with_beside(row, rejected)
        context = chosen[:-1]
        if context != rejected[:-1]:
            refuse("prompts_differ", "chosen and rejected differ before their last message")
        return (Pair(context, chosen[-1:], rejected[-1:]),)

    @staticmethod
    def _with_beside(row: Row, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        turns = ("user", "assistant") * (len(messages) // 2)
        if tuple(said["role"] for said in messages) != turns:
            refuse("not_alternating", "the messages are not user and assistant in turn, an even number")
        prompt, system = row.get("prompt"), optional_text(row, "system")
        if prompt is not None:
            if len(messages) > 2 and messages[0].get("content") != text(row, "prompt"):
                refuse("prompts_differ", "the first message is not the prompt")
            messages = ({"role": "user", "content": text(row, "prompt")}, *messages[1:])
        return messages if system is None else ({"role": "system", "content": system}, *messages)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        context, head = list(pair.context), dict[str, Any]()
        if self.alternating and context[0]["role"] == "system":
            head["system"] = context.pop(0).get("content")
        if len(pair.chosen) != 1 or len(pair.rejected) != 1:
            refuse("many_turns", "an answer has several messages; this type has one")
        row = {**head, "chosen": [*context, *pair.chosen], "rejected": [*context, *pair.rejected]}
        if self.alternating:
            self._with_beside(row, tuple(row["chosen"]))
        return (row,)


@dataclass(frozen=True)
class JudgedConversation:
    """`completion`: a conversation or its last message, with what comes before it in `before`.

    before: the name of that column, None where the type has none.
    """

    before: str | None = None
    label: str = "label"

    def read(self, row: Row, extra: bool) -> tuple[Judged, ...]:
        columns = ("completion", self.label, self.before or "completion")
        no_extra(row, frozenset(columns), extra)
        messages = message_list(row, "completion")
        context, answer = messages[:-1], messages[-1:]
        if self.before is not None and (self.before in row or not context):
            before = message_list(row, self.before)
            if context and context != before:
                refuse("prompts_differ", f"completion does not begin with {self.before}")
            context = before
        return (Judged(context, answer, label_of(row, self.label)),)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        rows = []
        for answer, good in ((pair.chosen, True), (pair.rejected, False)):
            if len(answer) != 1:
                refuse("many_turns", "an answer has several messages; this type has one")
            if self.before is None:
                rows.append({"completion": [*pair.context, *answer], self.label: good})
            else:
                rows.append({self.before: list(pair.context), "completion": list(answer), self.label: good})
        return tuple(rows)


@dataclass(frozen=True)
class MessagesAndAnswers:
    """A list of messages and two messages that may follow it, under names of the user's.

    roles: pairs of a role in the data and what it means. tools: the column of tool definitions.
    """

    messages: str = "messages"
    chosen: str = "chosen"
    rejected: str = "rejected"
    role_key: str = "role"
    content_key: str = "content"
    roles: tuple[tuple[str, str], ...] = tuple(ROLES.items())
    tools: str = "tools"

    def read(self, row: Row, extra: bool) -> tuple[Pair, ...]:
        no_extra(row, frozenset((self.messages, self.chosen, self.rejected, self.tools)), extra)
        named: dict[str, Any] = {"role_key": self.role_key, "content_key": self.content_key}
        named["roles"] = dict(self.roles)
        value = row.get(self.messages)
        if isinstance(value, str):
            context: tuple[Message, ...] = ({"role": "user", "content": text(row, self.messages)},)
        else:
            context = message_list(row, self.messages, **named)
        chosen, rejected = (self._answer(row, key, named) for key in (self.chosen, self.rejected))
        return (Pair(context, chosen, rejected, tools=row.get(self.tools)),)

    @staticmethod
    def _answer(row: Row, key: str, named: Mapping[str, Any]) -> tuple[Message, ...]:
        """A text, a message or a list of messages."""
        value = row.get(key)
        if isinstance(value, str):
            return ({"role": "assistant", "content": text(row, key)},)
        if isinstance(value, dict):
            return (message(value, key, **named),)
        return message_list(row, key, **named)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        theirs = {role: name for name, role in reversed(self.roles)}
        names = {"role": self.role_key, "content": self.content_key}

        def back(said: Message) -> Row:
            if said["role"] not in theirs:
                refuse("unknown_role", f"no name for the role {said['role']}")
            renamed = {names.get(key, key): value for key, value in said.items()}
            return {**renamed, self.role_key: theirs[said["role"]]}

        row: Row = {self.messages: [back(said) for said in pair.context]}
        for key, answer in ((self.chosen, pair.chosen), (self.rejected, pair.rejected)):
            messages = [back(said) for said in answer]
            row[key] = messages[0] if len(messages) == 1 else messages
        if pair.tools is not None:
            row[self.tools] = pair.tools
        return (row,)


@dataclass(frozen=True)
class Ranked:
    """`context` and two ranked `completions`: what the other types become."""

    def read(self, row: Row, extra: bool) -> tuple[Pair, ...]:
        return (read_ranked(row, extra=extra),)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        return (pair_row(pair),)


@dataclass(frozen=True)
class Binary:
    """A prompt, a text or messages, and two texts or lists of messages, under names of the user's."""

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"

    def read(self, row: Row, extra: bool) -> tuple[Pair, ...]:
        no_extra(row, frozenset((self.prompt, self.chosen, self.rejected)), extra)
        context = self._said(row, self.prompt, "user")
        chosen, rejected = (self._said(row, key, "assistant") for key in (self.chosen, self.rejected))
        return (Pair(context, chosen, rejected),)

    @staticmethod
    def _said(row: Row, key: str, role: str) -> tuple[Message, ...]:
        if isinstance(row.get(key), list):
            return message_list(row, key)
        return ({"role": role, "content": text(row, key)},)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        parts = ((self.prompt, pair.context), (self.chosen, pair.chosen), (self.rejected, pair.rejected))
        if all(len(part) == 1 and _is_text(part[0]) for _, part in parts):
            return ({key: part[0]["content"] for key, part in parts},)
        return ({key: list(part) for key, part in parts},)


_JUDGED_COLUMNS = frozenset(
    ("context", "response1", "response2", "overall_preference", "individual_preference", "domain", "language")
)


@dataclass(frozen=True)
class TwoResponses:
    """HelpSteer3: `context`, two texts, and `overall_preference`: below 0 the first is better, above 0 the
    second. Its size becomes the score of the better one."""

    def read(self, row: Row, extra: bool) -> tuple[Pair, ...]:
        no_extra(row, _JUDGED_COLUMNS, extra)
        if isinstance(row.get("context"), str):
            context: tuple[Message, ...] = ({"role": "user", "content": text(row, "context")},)
        else:
            context = message_list(row, "context")
        first, second = said(text(row, "response1")), said(text(row, "response2"))
        found = row.get("overall_preference")
        if isinstance(found, bool) or not isinstance(found, int | float):
            refuse("wrong_type" if "overall_preference" in row else "missing_field", "overall_preference")
        if found == 0:
            refuse("equal_ranks", "overall_preference is 0: neither response is better")
        better, worse = (first, second) if found < 0 else (second, first)
        return (Pair(context, better, worse, scores=(abs(found), 0)),)

    def write(self, pair: Pair) -> tuple[Row, ...]:
        no_tools(pair)
        texts = [one_text(answer) for answer in (pair.chosen, pair.rejected)]
        better, worse = pair.scores or (1, 0)
        found = worse - better if isinstance(better, int | float) and isinstance(worse, int | float) else -1
        answers = {"response1": texts[0], "response2": texts[1]}
        return ({"context": list(pair.context), **answers, "overall_preference": found if found < 0 else -1},)


def _is_text(said: Message) -> bool:
    return isinstance(said.get("content"), str) and said.keys() == {"role", "content"}
