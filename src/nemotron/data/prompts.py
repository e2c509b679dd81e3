"""Prompt rows as NeMo-Gym takes them, from chats, preferences, questions, or rows that are such already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .conversation import (
    Content,
    Item,
    Message,
    Part,
    Reasoning,
    ToolCall,
    ToolResult,
    is_plain,
    text_of,
    tool_from,
)
from .fields import optional_text, refuse, text
from .messages import items_from_messages
from .rowwise import Noted, Row, RowWork
from .stream.rows import Rejected

TYPE = "prompt_jsonl"
# A text under one of these keys is the question, where the config names none.
_QUESTIONS = ("prompt", "question", "problem", "input")
_ANSWER = "expected_answer"
_PARAMS = "responses_create_params"
# The environment refuses a request in which these are null.
_NEVER_NULL = ("tool_choice", "parallel_tool_calls")
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"parameters": {"type": "object", "properties": {}}, "strict": False}
)
_KINDS: Mapping[str, str] = MappingProxyType(
    {"image": "input_image", "audio": "input_audio", "file": "input_file"}
)


@dataclass(frozen=True)
class PromptRows:
    """What a row becomes: `responses_create_params`, `agent_ref`, and its other columns.

    prompt_key: the column with the question, or with messages; None to look for the ones that are usual.
    answer_key: the column that becomes `expected_answer`. answer_from_chat: the text of the answer to the
    last question of a chat becomes it. agent: the name of the agent of rows that name none.
    system_key: a column whose text becomes the first message; system_prompt: the first message of a prompt
    that has neither that column nor a system message. keep: the columns to keep
    beside the prompt, None for all that are not the prompt or its answer.
    """

    prompt_key: str | None = None
    answer_key: str | None = None
    answer_from_chat: bool = False
    agent: str | None = None
    system_key: str | None = None
    system_prompt: str | None = None
    keep: tuple[str, ...] | None = None

    def __call__(self, row: Row) -> tuple[Row | Noted, ...]:
        note = None
        if _PARAMS in row and self.prompt_key in (None, _PARAMS):
            params, used, answer = row[_PARAMS], {_PARAMS}, None
            if not isinstance(params, dict):
                refuse("wrong_type", f"{_PARAMS} is not an object")
            nulls = [key for key in _NEVER_NULL if key in params and params[key] is None]
            if nulls:
                params = {key: value for key, value in params.items() if key not in nulls}
                note = f"{' and '.join(nulls)} taken out, as null"
        else:
            key = self.prompt_key or _prompt_key(row)
            items, answer = self._items(row, key)
            params, used = {"input": items}, {key, "messages", "completions", "chosen", "rejected", "output"}
            if row.get("tools"):
                params["tools"] = _tools(row["tools"])
            used.add("tools")
        system = optional_text(row, self.system_key) if self.system_key else None
        used.add(self.system_key or _PARAMS)
        made = {_PARAMS: _with_system(params, system, self.system_prompt), **self._beside(row, used, answer)}
        return (made,) if note is None else (Noted(made, note),)

    def _items(self, row: Row, key: str) -> tuple[list[Row], str | None]:
        """The items of the prompt, and the text of the answer that followed it, if any."""
        if isinstance(row.get(key), str):
            return [{"role": "user", "content": text(row, key)}], None
        messages = row.get(key)
        if not isinstance(messages, list):
            refuse(
                "missing_field" if key not in row else "wrong_type",
                f"{key} is no text and no list of messages",
            )
        items = items_from_messages(messages, where=key)
        if isinstance(items, Rejected):
            refuse(*items)
        asks = [
            at for at, item in enumerate(items, start=1) if isinstance(item, Message) and item.role == "user"
        ]
        if not asks:
            refuse("no_prompt", f"{key} has no message of the user")
        said = [item for item in items[asks[-1] :] if isinstance(item, Message) and item.role == "assistant"]
        answer = text_of(said[-1].content) if said else None
        return [made for item in items[: asks[-1]] if (made := _request_item(item)) is not None], answer

    def _beside(self, row: Row, used: set[str], answer: str | None) -> Row:
        wanted = row.keys() - used if self.keep is None else set(self.keep)
        kept = {key: value for key, value in row.items() if key in wanted}
        if self.answer_key is not None:
            if row.get(self.answer_key) is None:
                refuse("missing_field", f"no {self.answer_key}")
            kept.pop(self.answer_key, None)
            kept[_ANSWER] = row[self.answer_key]
        elif self.answer_from_chat and _ANSWER not in row:
            if not answer or not answer.strip():
                refuse("no_answer", "no answer to the last question")
            kept[_ANSWER] = answer
        if "agent_ref" in row:
            kept["agent_ref"] = row["agent_ref"]
        elif self.agent is not None:
            kept["agent_ref"] = {"type": "responses_api_agents", "name": self.agent}
        return kept


def _with_system(params: Row, column: str | None, default: str | None) -> Row:
    """The request with a system text before it, unless it has one."""
    given, said = params.get("input"), column or default
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not said or not isinstance(items, list):
        return params
    own = [item for item in items if isinstance(item, dict) and item.get("role") in ("system", "developer")]
    if own or params.get("instructions"):
        if column and not any(item.get("content") == column for item in own):
            refuse("two_systems", "a system message beside the text of another column")
        return params
    return {**params, "input": [{"role": "system", "content": said}, *items]}


def prompt_work(convert: PromptRows) -> RowWork:
    """The work on a block of rows that become prompts."""
    return RowWork(convert, TYPE, asked, fatal=frozenset(("data.unknown_parameter",)))


def asked(row: Row) -> Any:
    """What makes two prompts the same for a judge: the input, and by which principle it is judged."""
    return [row[_PARAMS].get("input"), row.get("principle")]


def _prompt_key(row: Row) -> str:
    for key in ("messages", "context"):
        if isinstance(row.get(key), list):
            return key
    for key in _QUESTIONS:
        if isinstance(row.get(key), str | list):
            return key
    refuse("missing_field", f"none of messages, context, {', '.join(_QUESTIONS)}")


def _tools(tools: object) -> list[Row]:
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        refuse("wrong_type", "tools is not a list of definitions")
    return [_definition(tool) for tool in tools]


def _definition(tool: Row) -> Row:
    """A tool as a request has it, with the keys that a request must have."""
    flat = dict(tool_from(tool).as_flat())
    if flat.get("type") != "function":
        return flat
    # What leaving them out means in a chat: no parameters, and no strict reading of the schema.
    return {**flat, **{key: value for key, value in _DEFAULTS.items() if key not in flat}}


def _request_item(item: Item) -> Row | None:
    """An item as a request has it; None for a message of the assistant that holds nothing but calls."""
    if isinstance(item, Message):
        if item.role == "assistant" and not item.content:
            return None
        return {"role": item.role, "content": _content(item.content, item.role)}
    if isinstance(item, ToolCall | ToolResult) and not isinstance(item.call_id, str):
        refuse("no_call_id", "a call or its result without an id")
    if isinstance(item, ToolCall):
        given = item.arguments
        arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return {"type": "function_call", "name": item.name, "arguments": arguments, "call_id": item.call_id}
    if isinstance(item, ToolResult):
        return {"type": "function_call_output", "call_id": item.call_id, "output": text_of(item.output)}
    if isinstance(item, Reasoning):
        return {"type": "reasoning", "summary": [{"type": "summary_text", "text": item.text}]}
    refuse("unknown_item", f"an item of the kind {item.kind}")


def _content(content: Content, role: str) -> str | list[Row]:
    """A text where there is nothing but text: some judges read no parts."""
    if is_plain(content):
        return text_of(content)
    assert isinstance(content, tuple)
    return [_part(part, role) for part in content]


def _part(part: Part, role: str) -> Row:
    if part.text is not None:
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part.text}
    origin = dict(part.origin)
    image = origin.get("image_url")
    if isinstance(image, dict):  # an object in chat completions, a string in requests
        origin = {**origin, **image}
        origin["image_url"] = origin.pop("url", None)
    return {**origin, "type": _KINDS.get(part.kind, part.kind)}
