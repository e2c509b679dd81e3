"""Items of the Responses API, as NeMo-Gym has them, from and to the canonical items without loss."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nemotron.data.conversation import (
    Content,
    Item,
    JsonObject,
    Message,
    Other,
    Part,
    Reasoning,
    ToolCall,
    ToolResult,
)
from nemotron.data.messages import add_message, content_from
from nemotron.data.stream.rows import Rejected

# Of a result that is neither a string nor parts: its JSON is the text, its value in `origin["value"]`.
_JSON = "json"
# Twice as fast as calling the class, and called for every item.
_new: Any = tuple.__new__


def items_from(raw: list[Any], where: str, *, generated: bool) -> list[Item] | Rejected:
    """The canonical items of a list of input or output items, or why they are none."""
    items: list[Item] = []
    for index, item in enumerate(raw):
        kind = item.get("type") if type(item) is dict else _NO_OBJECT
        if kind == "message" or kind is None:
            role, content = item.get("role"), item.get("content")
            if type(role) is not str:
                return Rejected("malformed_item", f"{where}[{index}] has neither a type nor a role")
            if role == "tool" or "tool_calls" in item or "reasoning_content" in item:
                wrong = add_message(items, item, f"{where}[{index}]", generated)
                if wrong:
                    return wrong
                continue
            if type(content) is not str:
                found = one_text(content) or content_from(content, f"{where}[{index}].content")
                if isinstance(found, Rejected):
                    return found
                content = found
            items.append(_new(Message, (role, content, generated, item)))
        elif kind == "function_call":
            name, arguments = item.get("name"), item.get("arguments")
            if type(name) is not str or (type(arguments) is not str and type(arguments) is not dict):
                return Rejected("malformed_call", f"{where}[{index}] is a call without a name or arguments")
            call_id = item.get("call_id")
            if type(call_id) is not str and call_id is not None:
                return _no_call_id(f"{where}[{index}]")
            items.append(_new(ToolCall, (name, arguments, call_id, generated, item)))
        elif kind == "function_call_output":
            call_id, output = item.get("call_id"), item.get("output")
            if type(call_id) is not str and call_id is not None:
                return _no_call_id(f"{where}[{index}]")
            if type(output) is not str:
                output = _output(output)
            items.append(_new(ToolResult, (call_id, output, generated, item)))
        elif kind == "reasoning":
            thought = _reasoning(item, generated)
            if thought is None:
                return Rejected("malformed_item", f"{where}[{index}] is reasoning whose parts are no texts")
            items.append(thought)
        elif type(kind) is str:
            items.append(Other(kind, generated, item))
        else:
            return Rejected("malformed_item", f"{where}[{index}] is no item object")
    return items


_NO_OBJECT = object()


def _no_call_id(where: str) -> Rejected:
    return Rejected("malformed_call", f"{where} has a call_id that is neither a string nor null")


def one_text(content: Any) -> tuple[Part] | None:
    """The content that nearly every answer has: one part with a text."""
    if type(content) is not list or len(content) != 1:
        return None
    part = content[0]
    if type(part) is dict and part.get("type") == "output_text" and type(text := part.get("text")) is str:
        return (_new(Part, ("text", text, part)),)
    return None


def _output(value: Any) -> Content:
    content = content_from(value, "")
    if value is None or isinstance(content, Rejected):
        return (Part(_JSON, json.dumps(value, ensure_ascii=False), {"value": value}),)
    return content


def _reasoning(item: dict[str, Any], generated: bool) -> Reasoning | None:
    try:
        summary = tuple([part["text"] for part in item.get("summary") or ()])
        content = tuple([part["text"] for part in item.get("content") or ()])
    except (KeyError, TypeError):
        return None
    if not all(type(text) is str for text in summary + content):
        return None
    return Reasoning(content, summary, generated, item)


def responses_items(items: Iterable[Item]) -> list[JsonObject]:
    """Items of the Responses API from canonical ones: those that were read from it come back as they were."""
    return [_responses_item(item) for item in items]


def _responses_item(item: Item) -> JsonObject:
    if isinstance(item, Message):
        made = _started(item.origin, {"type": "message"})
        made["role"] = item.role
        if item.content is not None or "content" in made:
            made["content"] = _content_back(item.content, item.role == "assistant")
        for key in ("tool_calls", "reasoning_content", "reasoning"):
            made.pop(key, None)  # items of their own
        return made
    if isinstance(item, ToolCall):
        known = item.origin.get("type") == "function_call"
        made = _started(item.origin if known else {}, {"type": "function_call"})
        made["name"], made["arguments"] = item.name, item.arguments
        return _with_id(made, item.call_id)
    if isinstance(item, ToolResult):
        known = item.origin.get("type") == "function_call_output"
        made = _started(item.origin if known else {}, {"type": "function_call_output"})
        if item.output is not None or "output" in made:
            made["output"] = _content_back(item.output, False)
        return _with_id(made, item.call_id)
    if isinstance(item, Reasoning):
        made = _started(item.origin, {"type": "reasoning", "summary": []})
        if item.summary or made.get("summary"):
            made["summary"] = _texts_back(item.summary, made.get("summary"), "summary_text")
        if item.content or made.get("content"):
            made["content"] = _texts_back(item.content, made.get("content"), "reasoning_text")
        return made
    return item.origin


def _started(origin: JsonObject, new: dict[str, Any]) -> dict[str, Any]:
    return dict(origin) if origin else new


def _with_id(made: dict[str, Any], call_id: str | None) -> dict[str, Any]:
    if call_id is not None or "call_id" in made:
        made["call_id"] = call_id
    return made


def _content_back(content: Content, from_assistant: bool) -> Any:
    if not isinstance(content, tuple):
        return content
    if len(content) == 1 and content[0].kind == _JSON:
        return content[0].origin["value"]
    return [_part_back(part, from_assistant) for part in content]


def _part_back(part: Part, from_assistant: bool) -> JsonObject:
    key = "refusal" if part.kind == "refusal" else "text"
    if part.origin:
        return {**part.origin, key: part.text} if part.text is not None else part.origin
    if part.kind == "refusal":
        return {"type": "refusal", "refusal": part.text}
    if from_assistant:
        return {"type": "output_text", "text": part.text, "annotations": []}
    return {"type": "input_text", "text": part.text}


def _texts_back(texts: tuple[str, ...], origin: Any, kind: str) -> list[JsonObject]:
    known = (
        origin if isinstance(origin, list) and len(origin) == len(texts) else [{"type": kind}] * len(texts)
    )
    return [{**part, "text": text} for part, text in zip(known, texts, strict=True)]
