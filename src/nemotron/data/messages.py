"""Chat messages, as chat completions and chat templates have them, from and to the canonical conversation.

A message becomes a `Reasoning` (from `reasoning_content`), a `Message` and a `ToolCall` for each of its
calls, in this order; a message of a tool becomes a `ToolResult`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .conversation import (
    Content,
    Item,
    JsonObject,
    Message,
    Part,
    Reasoning,
    ToolCall,
    ToolResult,
)
from .stream.rows import Rejected

_TEXT_KINDS = frozenset(("text", "input_text", "output_text", "summary_text", "reasoning_text"))
_KINDS: Mapping[str, str] = {
    **dict.fromkeys(_TEXT_KINDS, "text"),
    "input_image": "image",
    "image_url": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "input_video": "video",
    "video_url": "video",
    "input_file": "file",
}
# The key of a message that holds what the model thought before it spoke.
REASONING_KEYS = ("reasoning_content", "reasoning")


def content_from(value: Any, where: str) -> Content | Rejected:
    """Content as it is found: a string, null, or a list of parts, each an object with a type."""
    if type(value) is str or value is None:
        return value
    if type(value) is not list:
        return Rejected("malformed_content", f"{where} is neither a string nor a list of parts")
    parts = []
    for part in value:
        if type(part) is not dict or type(kind := part.get("type")) is not str:
            return Rejected("malformed_content", f"{where} holds something that is no part with a type")
        kind = _KINDS.get(kind, kind)
        text = part.get("text") if kind == "text" else part.get("refusal") if kind == "refusal" else None
        if (text is None and kind == "text") or (text is not None and type(text) is not str):
            return Rejected("malformed_content", f"{where} holds a text part without a text")
        parts.append(Part(kind, text, part))
    return tuple(parts)


def items_from_messages(
    messages: Sequence[Any], *, where: str = "messages", generated: bool = False
) -> list[Item] | Rejected:
    """The items of chat messages, or why they are none."""
    items: list[Item] = []
    for index, message in enumerate(messages):
        here = f"{where}[{index}]"
        if type(message) is not dict or type(message.get("role")) is not str:
            return Rejected("malformed_message", f"{here} is no object with a role")
        wrong = add_message(items, message, here, generated)
        if wrong:
            return wrong
    return items


def add_message(items: list[Item], message: dict[str, Any], where: str, generated: bool) -> Rejected | None:
    """Add the items of one chat message, an object with a role, or say why it has none."""
    content = content_from(message.get("content"), f"{where}.content")
    if isinstance(content, Rejected):
        return content
    role = message["role"]
    if role == "tool":
        call_id = message.get("tool_call_id")
        if type(call_id) is not str and call_id is not None:
            return Rejected("malformed_call", f"{where}.tool_call_id is neither a string nor null")
        items.append(ToolResult(call_id, content, generated, message))
        return None
    for key in REASONING_KEYS:
        thought = message.get(key)
        if type(thought) is str and thought:
            items.append(Reasoning((thought,), (), generated))
            break
    items.append(Message(role, content, generated, message))
    calls = message.get("tool_calls")
    if calls is None:
        return None
    if type(calls) is not list:
        return Rejected("malformed_call", f"{where}.tool_calls is no list")
    for index, call in enumerate(calls):
        made = _call(call, f"{where}.tool_calls[{index}]", generated)
        if isinstance(made, Rejected):
            return made
        items.append(made)
    return None


def _call(call: Any, where: str, generated: bool) -> ToolCall | Rejected:
    function = call.get("function", call) if type(call) is dict else None
    if type(function) is not dict or type(function.get("name")) is not str:
        return Rejected("malformed_call", f"{where} has no name")
    arguments = function.get("arguments", "{}")
    if type(arguments) not in (str, dict):
        return Rejected("malformed_call", f"{where}: the arguments are neither a string nor an object")
    call_id = call.get("id")
    if type(call_id) is not str and call_id is not None:
        return Rejected("malformed_call", f"{where}.id is neither a string nor null")
    return ToolCall(function["name"], arguments, call_id, generated, call)


def chat_content(content: Content) -> str | list[JsonObject]:
    """Content as chat messages have it: parts of text and images in the notation of chat completions."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return [_chat_part(part) for part in content]


def _chat_part(part: Part) -> JsonObject:
    if part.kind == "text":
        return {"type": "text", "text": part.text}
    origin = part.origin
    if origin.get("type") == "input_image":
        # The Responses API has the address as a string, chat completions in an object with the detail.
        image = {"url": origin.get("image_url")} if origin.get("image_url") else {}
        rest = {key: value for key, value in origin.items() if key not in ("type", "image_url")}
        return {"type": "image_url", "image_url": {**image, **rest}}
    return origin or {"type": part.kind, part.kind: part.text}
