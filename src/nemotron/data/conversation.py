"""The canonical conversation: what every data format is read into and written from.

A conversation is a sequence of items in the order in which they happened: messages, reasoning, calls of
tools, their results. Nothing is merged, dropped or renamed on the way in; what a trainer cannot take is
decided where rows are written.

Every item has typed fields for what it says, and `origin`: the object it was read from (empty for one made
here). Whoever writes an item back into its own format begins with `origin` and sets the typed fields, so
that ids, annotations and keys that nobody here knows come back, in their order. Whoever writes another
format reads the typed fields only. Nobody changes an `origin`.

Items are named tuples: a row has dozens, a file millions, and frozen dataclasses take three times as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

JsonObject: TypeAlias = Mapping[str, Any]

NOTHING: JsonObject = MappingProxyType({})

# Of messages. Results of tools are items of their own, not messages with the role `tool`.
ROLES = ("system", "developer", "user", "assistant")


class Part(NamedTuple):
    """A piece of content.

    kind: `text`, `refusal`, `image`, `audio`, `video`, `file`, or the type as it was found.
    text: what a `text` or `refusal` says, None for the others, whose content is in `origin`.
    """

    kind: str
    text: str | None
    origin: JsonObject = NOTHING


Content: TypeAlias = str | tuple[Part, ...] | None


class Message(NamedTuple):
    """What one side said.

    role: one of `ROLES`; a role that none knows stays as it is.
    content: a string or parts, as found. None where the source said null, or nothing beside calls.
    generated: it is part of what the model (or its environment) answered, not of the prompt.
    """

    role: str
    content: Content
    generated: bool = False
    origin: JsonObject = NOTHING


class Reasoning(NamedTuple):
    """What the model thought before it spoke. summary and content: the texts of each, in order."""

    content: tuple[str, ...]
    summary: tuple[str, ...] = ()
    generated: bool = False
    origin: JsonObject = NOTHING

    @property
    def text(self) -> str:
        """The reasoning itself; its summary where there is nothing else."""
        return "\n".join(self.content or self.summary)


class ToolCall(NamedTuple):
    """A call of a tool.

    arguments: the string that the model wrote, valid JSON or not; an object only where the source held one.
    call_id: what its result refers to, None where the source has none.
    """

    name: str
    arguments: str | JsonObject
    call_id: str | None
    generated: bool = False
    origin: JsonObject = NOTHING


class ToolResult(NamedTuple):
    """What a tool answered. call_id: that of the call, None where the source has none."""

    call_id: str | None
    output: Content
    generated: bool = False
    origin: JsonObject = NOTHING


class Other(NamedTuple):
    """An item of a kind that is not known here, whole in `origin`."""

    kind: str
    generated: bool = False
    origin: JsonObject = NOTHING


Item: TypeAlias = Message | Reasoning | ToolCall | ToolResult | Other


class Tool(NamedTuple):
    """The definition of a tool.

    kind: `function`, or the name of a tool that the server brings along.
    function: name, description, parameters, strict: those that were given, in their order.
    nested: it was found as `{"type": "function", "function": {...}}`, not flat.
    """

    kind: str
    function: JsonObject
    nested: bool
    origin: JsonObject = NOTHING

    @property
    def name(self) -> str | None:
        """What calls name; None where the definition has no name."""
        name = self.function.get("name")
        return name if isinstance(name, str) else None

    def as_nested(self) -> JsonObject:
        """As chat completions, chat templates and most trainers take it."""
        if self.nested or self.kind != "function":
            return self.origin or {"type": self.kind, "function": self.function}
        return {"type": "function", "function": self.function}

    def as_flat(self) -> JsonObject:
        """As the Responses API and NeMo-Gym take it."""
        if self.nested or not self.origin:
            return {"type": self.kind, **self.function}
        return self.origin


def tool_from(definition: JsonObject) -> Tool:
    """A tool from its definition, flat or nested."""
    function = definition.get("function")
    kind = definition.get("type", "function")
    if isinstance(function, dict):
        return Tool(kind, function, True, definition)
    return Tool(kind, {k: v for k, v in definition.items() if k != "type"}, False, definition)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation with the tools it could use.

    instructions: what the Responses API says apart from the items, before all of them.
    provenance: where it comes from: `file` and `line`, and what the source says of it (`reward`,
    `task_index`, `rollout_index`, `agent`, ...).
    """

    items: tuple[Item, ...]
    tools: tuple[Tool, ...] = ()
    instructions: str | None = None
    provenance: JsonObject = field(default_factory=lambda: NOTHING)


def text_of(content: Content) -> str:
    """The texts of a content, one after the other; what is no text is passed over."""
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content if part.text) if content else ""


def is_plain(content: Content) -> bool:
    """Whether a content is text and nothing else, so that `text_of` loses nothing of it."""
    return not isinstance(content, tuple) or all(part.kind == "text" for part in content)
