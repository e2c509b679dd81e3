"""A chat as tokens, with a mask that says which of them the assistant wrote."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from nemotron.data.chats.templates import choose_template
from nemotron.data.conversation import tool_from
from nemotron.data.fields import Message, refuse
from nemotron.errors import UsageError

Row = dict[str, Any]
_PROBE = '{"probe": 1}'


class Tokenizer(Protocol):
    """As much of a tokenizer of `transformers` as is used."""

    chat_template: Any
    is_fast: bool
    all_special_tokens: list[str]

    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any: ...

    def __call__(self, text: str, **options: Any) -> Any: ...


class Sequence(NamedTuple):
    """ids: the tokens. mask: 1 for each that is trained on. notes: what is to be counted about it."""

    ids: array[int]
    mask: bytes
    notes: tuple[str, ...]


class TemplateRefusedError(Exception):
    """The template raised on a conversation."""


@dataclass
class ChatTokens:
    """Turns rows of `training_jsonl` into sequences.

    load: makes the tokenizer, once in each process. template: see `choose_template`. An answer is trained
    on where the whole conversation shows it as it is when it is the newest one; templates that rewrite
    earlier answers, by taking their thoughts away, leave those untrained.
    """

    load: Callable[[], Tokenizer]
    template: str | None = "default"
    _ready: _Ready | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}

    @property
    def ready(self) -> _Ready:
        """The tokenizer with its template. Raises `UsageError` where it cannot be used."""
        if self._ready is None:
            self._ready = _Ready.of(self.load(), self.template)
        return self._ready

    def sequence(self, row: Row) -> Sequence:
        """The tokens of a row. Raises `RefusedRowError` for a row that the template or the mask refuses."""
        ready = self.ready
        messages = ready.messages(row)
        tools = ready.tools(row)
        try:
            made = ready.marked(messages, tools) if ready.has_marks else ready.compared(messages, tools)
        except TemplateRefusedError as exc:
            refuse("template_refused", str(exc)[:120])
        if not made.ids:
            refuse("no_tokens", "the template makes nothing of it")
        if 1 not in made.mask:
            refuse("nothing_to_train", "no token of the assistant")
        return made


@dataclass(frozen=True)
class _Ready:
    tokenizer: Tokenizer
    template: str
    # Whether the template says itself what the assistant wrote.
    has_marks: bool
    # Whether arguments of calls stay strings, or the template writes objects only.
    string_arguments: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer, setting: str | None) -> _Ready:
        own = tokenizer.chat_template
        if isinstance(own, dict):
            own = own.get("default")
        template = choose_template(setting, own)
        if not tokenizer.is_fast:
            what = "the tokenizer does not tell where in the text its tokens are"
            raise UsageError(
                what, where="tokenizer.name", next="save it with a tokenizer.json beside the model"
            )
        # A template with one mark only, as a word in a text, is not meant.
        has_marks = "endgeneration" in template
        first = cls(tokenizer, template, has_marks, string_arguments=True)
        try:
            written = first.rendered(first.messages(_CALLED), None)
        except TemplateRefusedError:
            written = ""
        return cls(tokenizer, template, has_marks, string_arguments=_PROBE in written)

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """The messages of a row as templates take them."""
        if "messages" not in row:
            return [
                {"role": "user", "content": row.get("input")},
                {"role": "assistant", "content": row.get("output")},
            ]
        return [self._message(said) for said in row["messages"]]

    def _message(self, said: Message) -> Message:
        calls = said.get("tool_calls")
        if not calls:
            # A null beside nothing is written as the word None by some templates.
            return {key: value for key, value in said.items() if value is not None or key == "content"}
        made = {**said, "tool_calls": [self._call(call) for call in calls]}
        return {**made, "content": said.get("content") or ""}

    def _call(self, call: Row) -> Row:
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        if isinstance(arguments, str) and not self.string_arguments:
            arguments = json.loads(arguments or "{}")
        made: Row = {"type": "function", "function": {"name": function.get("name"), "arguments": arguments}}
        return {"id": call["id"], **made} if "id" in call else made

    @staticmethod
    def tools(row: Row) -> list[Row] | None:
        """The tools of a row in the notation that templates take."""
        return [dict(tool_from(tool).as_nested()) for tool in row.get("tools") or ()] or None

    def rendered(self, messages: list[Message], tools: list[Row] | None, *, ask: bool = False) -> str:
        """The text of messages. ask: with what goes before an answer."""
        return str(self._apply(messages, tools, tokenize=False, add_generation_prompt=ask))

    def _apply(self, messages: list[Message], tools: list[Row] | None, **options: Any) -> Any:
        from jinja2.exceptions import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=self.template, **options
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as exc:
            raise TemplateRefusedError(f"the template refuses it: {exc}") from exc

    def marked(self, messages: list[Message], tools: list[Row] | None) -> Sequence:
        """Where the template marks what the assistant wrote."""
        made = self._apply(
            messages, tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return Sequence(array("i", made["input_ids"]), bytes(made["assistant_masks"]), ())

    def compared(self, messages: list[Message], tools: list[Row] | None) -> Sequence:
        """Where only the texts tell: with an answer, and with what goes before it."""
        whole = self.rendered(messages, tools)
        spans, notes = list[tuple[int, int]](), set[str]()
        for at, said in enumerate(messages):
            if said["role"] != "assistant":
                continue
            span = self._span(whole, messages, at, tools, notes)
            if span is not None:
                spans.append(span)
        made = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        mask, at = bytearray(len(made["input_ids"])), 0
        for index, (begin, end) in enumerate(made["offset_mapping"]):
            while at < len(spans) and spans[at][1] <= begin:
                at += 1
            if at < len(spans) and begin < end and end > spans[at][0]:
                if begin >= spans[at][0]:
                    mask[index] = end <= spans[at][1]
                else:
                    notes.add("a token reaches from the question into the answer, and is not trained on")
        return Sequence(array("i", made["input_ids"]), bytes(mask), tuple(sorted(notes)))

    def _span(
        self, whole: str, messages: list[Message], at: int, tools: list[Row] | None, notes: set[str]
    ) -> tuple[int, int] | None:
        """Where in the whole text an answer stands; None where it is shown in another way there."""
        upto = self.rendered(messages[: at + 1], tools)
        before = self.rendered(messages[:at], tools, ask=True) if at else ""
        begin = _same(before, upto)
        if begin < len(before):
            plain = self.rendered(messages[:at], tools)
            if not upto.startswith(plain):
                notes.add("the template rewrites the question when it is answered; not trained on")
                return None
            notes.add("an answer does not begin as the template begins answers")
        ended = upto.rstrip()
        # What follows an end of turn is written by the template, never by the model.
        end = len(ended) if ended.endswith(tuple(self.tokenizer.all_special_tokens)) else len(upto)
        if not whole.startswith(upto[:end]) or begin >= end:
            notes.add("an earlier answer is shown otherwise than when it was the newest; not trained on")
            return None
        return begin, end


_CALLED: Mapping[str, Any] = MappingProxyType(
    {
        "messages": [
            {"role": "user", "content": "probe"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "probe0001",
                        "type": "function",
                        "function": {"name": "probe", "arguments": _PROBE},
                    }
                ],
            },
        ]
    }
)


def _same(first: str, second: str) -> int:
    """How many characters two texts begin with that are the same."""
    if second.startswith(first):
        return len(first)
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
