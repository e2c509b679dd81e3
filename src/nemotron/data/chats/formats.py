"""What one row of a chat data set becomes: rows with `messages`.

Each format is called with a row and returns the rows it becomes, and raises `RefusedRowError` where that is
none. Values are handed on as they are: nothing is filled in, converted or put in another order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from nemotron.data.fields import Message, optional_text, refuse, text

Row = dict[str, Any]


@dataclass(frozen=True)
class Squad:
    """`context` as system text, `question`, and the first of `answers.text`."""

    sound: ClassVar[bool] = True

    def __call__(self, row: Row) -> tuple[Row, ...]:
        answers = row.get("answers")
        if not isinstance(answers, dict):
            refuse("missing_field" if answers is None else "wrong_type", "answers is not an object")
        texts = answers.get("text")
        if not isinstance(texts, list) or not texts:
            refuse("no_answer", "answers.text has no answer")
        answer = text({"answers.text[0]": texts[0]}, "answers.text[0]")
        return (_chat(text(row, "question"), answer, text(row, "context")),)


@dataclass(frozen=True)
class OpenMathInstruct2:
    """`problem` and what stands at `output_key`: the bare answer, or `generated_solution`."""

    sound: ClassVar[bool] = True

    output_key: str = "expected_answer"

    def __call__(self, row: Row) -> tuple[Row, ...]:
        return (_chat(text(row, "problem"), text(row, self.output_key)),)


@dataclass(frozen=True)
class Response:
    """A question at `input_key` and its answer at `output_key`; a row with `messages` is taken as it is."""

    input_key: str = "input"
    output_key: str = "output"

    def __call__(self, row: Row) -> tuple[Row, ...]:
        if "messages" in row:
            return OpenAIFormat()(row)
        return (_chat(text(row, self.input_key), text(row, self.output_key)),)


@dataclass(frozen=True)
class OpenAIFormat:
    """Messages at `chat_key`, tools at `tool_key`; the other columns stay beside them.

    system_key: a column whose text becomes the first message. system_prompt: the first message of a row
    that has neither that column nor a system message. trim: cut what follows the last message of the
    assistant, instead of leaving the row out.
    """

    chat_key: str = "messages"
    system_key: str | None = None
    system_prompt: str | None = None
    tool_key: str | None = "tools"
    trim: bool = False

    def __call__(self, row: Row) -> tuple[Row, ...]:
        messages = _messages(row, self.chat_key)
        kept = self._answered(messages)
        head = self._system(row, kept)
        if kept is messages and not head and self._is_plain:
            return (row,)
        renamed = {self.chat_key: "messages"} | ({self.tool_key: "tools"} if self.tool_key else {})
        for name in renamed.values():
            if name in row and name not in renamed:
                refuse("extra_field", f"a column {name} beside the one that is to become it")
        left = {self.system_key} if self.tool_key else {self.system_key, "tools"}
        named = {renamed.get(key, key): value for key, value in row.items() if key not in left}
        return ({**named, "messages": [*head, *kept]},)

    @property
    def _is_plain(self) -> bool:
        """Whether the columns are called as they are to be."""
        return (self.chat_key, self.tool_key, self.system_key) == ("messages", "tools", None)

    def _answered(self, messages: list[Message]) -> list[Message]:
        """The messages up to the last of the assistant, which has to be the last where nothing is cut."""
        if messages[-1].get("role") == "assistant":
            return messages
        if not self.trim:
            refuse("no_answer", f"the last message is of {messages[-1].get('role')!r:.40}")
        ends = [index for index, said in enumerate(messages, start=1) if said.get("role") == "assistant"]
        if not ends:
            refuse("no_answer", "no message of the assistant")
        return messages[: ends[-1]]

    def _system(self, row: Row, messages: list[Message]) -> list[Message]:
        own = messages[0].get("role") == "system"
        given = optional_text(row, self.system_key) if self.system_key is not None else None
        if given is not None and own and messages[0].get("content") != given:
            refuse("two_systems", f"a system message beside another text at {self.system_key}")
        chosen = given if given is not None else self.system_prompt
        return [] if own or not chosen else [{"role": "system", "content": chosen}]


@dataclass(frozen=True)
class OpenAssistant:
    """A tree of messages: a conversation for every last answer in it.

    system_prompt: the first message of each. What follows the last answer of a branch is no part of it, and
    a question that nobody answered is none.
    """

    system_prompt: str | None = None

    def __call__(self, row: Row) -> tuple[Row, ...]:
        head = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        root = row.get("prompt", row)
        branches = tuple({"messages": [*head, *branch]} for branch in _branches(root))
        if not branches:
            refuse("no_answer", "a tree without an answer")
        return branches


_ROLES: Mapping[object, str] = MappingProxyType({"prompter": "user", "assistant": "assistant"})
_DEEPEST = 500


def _branches(root: object) -> list[list[Message]]:
    """The conversations of a tree, depth first, each to an answer below which there is no other."""
    pending: list[tuple[object, list[Message]]] = [(root, [])]
    found: list[list[Message]] = []
    while pending:
        node, before = pending.pop()
        if not isinstance(node, dict):
            refuse("wrong_type", "a message of the tree is not an object")
        role = node.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            refuse("unknown_role", f"a message of the tree has the role {role!r:.40}")
        if len(before) == _DEEPEST:
            refuse("too_deep", f"a tree deeper than {_DEEPEST} messages")
        path = [*before, {"role": _ROLES[role], "content": text(node, "text")}]
        if role == "assistant":
            found.append(path)
        replies = node.get("replies", [])
        if not isinstance(replies, list):
            refuse("wrong_type", "replies is not a list")
        pending += [(reply, path) for reply in reversed(replies)]
    # An answer that another one follows ends no conversation.
    passed = {id(said) for branch in found for said in branch[:-1]}
    return [branch for branch in found if id(branch[-1]) not in passed]


_SENDERS: Mapping[str, str] = MappingProxyType(
    {
        "system": "system",
        **dict.fromkeys(("human", "user"), "user"),
        **dict.fromkeys(("gpt", "agent", "assistant"), "assistant"),
    }
)
_MEDIA = ("image", "video", "audio", "sound", "speech")
_TAG = re.compile(r"(<(?:image|video|audio|sound|speech)>)")


@dataclass(frozen=True)
class GeneralConversation:
    """`conversations` of `from` and `value`, with tags such as `<image>` where media of the row belong.

    media_data_dir: put before the names of the media. A message without a tag stays a text.
    """

    media_data_dir: str | None = None

    def __call__(self, row: Row) -> tuple[Row, ...]:
        waiting = {kind: self._files(row, kind) for kind in _MEDIA}
        messages = []
        for index, said in enumerate(_messages(row, "conversations")):
            sender = said.get("from")
            if not isinstance(sender, str) or sender not in _SENDERS:
                refuse("unknown_role", f"conversations[{index}].from is {sender!r:.40}")
            content = self._content(text(said, "value"), waiting, index)
            messages.append({"role": _SENDERS[sender], "content": content})
        over = [kind for kind, files in waiting.items() if files]
        if over:
            refuse("media_left_over", f"more files at {over[0]} than tags in the messages")
        return ({"messages": messages},)

    def _files(self, row: Row, kind: str) -> list[str]:
        value = row.get(kind, [])
        files = value if isinstance(value, list) else [value]
        if not all(isinstance(file, str) for file in files):
            refuse("wrong_type", f"{kind} is not a name or a list of names")
        prefix = f"{self.media_data_dir.rstrip('/')}/" if self.media_data_dir else ""
        return [file if file.startswith("/") else prefix + file for file in files]

    @staticmethod
    def _content(value: str, waiting: dict[str, list[str]], index: int) -> str | list[Row]:
        pieces = [piece for piece in _TAG.split(value) if piece]
        if not any(_TAG.fullmatch(piece) for piece in pieces):
            return value
        parts: list[Row] = []
        for piece in pieces:
            if not _TAG.fullmatch(piece):
                parts.append({"type": "text", "text": piece})
                continue
            kind = piece[1:-1]
            if not waiting[kind]:
                refuse("media_missing", f"conversations[{index}] has more {piece} than the row has files")
            parts.append({"type": kind, kind: waiting[kind].pop(0)})
        return parts


def _chat(question: str, answer: str, system: str | None = None) -> Row:
    head = [] if system is None else [{"role": "system", "content": system}]
    return {
        "messages": [*head, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    }


def _messages(row: Row, key: str) -> list[Message]:
    messages = row.get(key)
    if key not in row:
        refuse("missing_field", f"no {key}")
    if not isinstance(messages, list) or not all(isinstance(said, dict) for said in messages):
        refuse("wrong_type", f"{key} is not a list of messages")
    if not messages:
        refuse("no_messages", f"{key} is an empty list")
    return messages
