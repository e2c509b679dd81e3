"""Chat messages as trainers take them: role, content, tool calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nemotron.errors import nearest

from .report import Problem, missing, shown, wrong_type

ROLES = ("system", "developer", "user", "assistant", "tool")


def message_problems(value: object, where: str, *, last: str | None = None) -> Iterator[Problem]:
    """What is wrong with a list of messages; `last` is the role that has to close it."""
    if not isinstance(value, list):
        yield wrong_type(where, "a list of messages", value)
        return
    if not value:
        yield Problem("data.no_messages", f"{where} is an empty list")
        return
    for index, message in enumerate(value):
        if isinstance(message, dict):
            # Nearly every message of every file: worth a third of the time.
            if (
                type(message.get("content")) is str
                and message.get("role") in ROLES
                and "tool_calls" not in message
            ):
                continue
            yield from _message(message, where, index)
        else:
            yield wrong_type(f"{where}[{index}]", "a message object", message)
    final = value[-1]
    role = final.get("role") if isinstance(final, dict) else None
    if last and role in ROLES and role != last:
        yield Problem("data.last_role", f"{where} ends with the role {role}, not {last}")


def _message(message: dict[str, Any], where: str, index: int) -> Iterator[Problem]:
    role = message.get("role")
    if not isinstance(role, str):
        here = f"{where}[{index}].role"
        yield wrong_type(here, "a string", role) if "role" in message else missing(here, ", ".join(ROLES))
    elif role not in ROLES:
        near = nearest(role, ROLES, 1)
        what = f"{where}[{index}].role is {shown(role)}" + (f", did you mean {near[0]}" if near else "")
        yield Problem("data.role", what, valid=", ".join(ROLES))
    calls = message.get("tool_calls")
    if calls is not None:
        yield from _tool_calls(calls, f"{where}[{index}].tool_calls")
    content = message.get("content")
    if content is None:
        if not calls:
            here = f"{where}[{index}].content"
            valid = "a string, a list of parts, or null beside tool_calls"
            if "content" in message:
                yield Problem("data.wrong_type", f"{here} is null", valid=valid)
            else:
                yield missing(here, valid)
    elif not isinstance(content, str):
        yield from content_problems(content, f"{where}[{index}].content")


def content_problems(content: object, where: str) -> Iterator[Problem]:
    """What is wrong with the content of a message: a string or a list of parts, each with a type."""
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        yield wrong_type(where, "a string or a list of parts", content)
        return
    for index, part in enumerate(content):
        here = f"{where}[{index}]"
        if not isinstance(part, dict):
            yield wrong_type(here, "a part object", part)
        elif not isinstance(part.get("type"), str):
            yield (
                missing(f"{here}.type")
                if "type" not in part
                else wrong_type(f"{here}.type", "a string", part["type"])
            )
        elif part["type"] == "text" and not isinstance(part.get("text"), str):
            yield (
                missing(f"{here}.text")
                if "text" not in part
                else wrong_type(f"{here}.text", "a string", part["text"])
            )


def _tool_calls(calls: object, where: str) -> Iterator[Problem]:
    if not isinstance(calls, list):
        yield wrong_type(where, "a list of calls", calls)
        return
    for index, call in enumerate(calls):
        here = f"{where}[{index}]"
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict):
            yield wrong_type(here, "a call object with a function", call)
            continue
        if not isinstance(function.get("name"), str):
            yield missing(f"{here}.function.name")
        if not isinstance(function.get("arguments", ""), str | dict):
            yield wrong_type(f"{here}.function.arguments", "a string or an object", function["arguments"])
