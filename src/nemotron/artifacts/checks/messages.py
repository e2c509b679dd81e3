"""Chat messages as trainers take them: role, content, tool calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from nemotron.errors import nearest

from .report import Problem, missing, shown, wrong_type
from .tools import Call

_NAME = 100

ROLES = ("system", "developer", "user", "assistant", "tool")


_ANY = "any"  # after a message whose role is not known
# By the role before, None at the beginning: templates raise on these roles then, or write something that no
# model was trained on.
_OUT_OF_TURN: Mapping[str | None, frozenset[str]] = MappingProxyType(
    {
        None: frozenset(("assistant", "tool")),
        "system": frozenset(("system", "assistant", "tool")),
        "developer": frozenset(("system", "assistant", "tool")),
        "user": frozenset(("user", "tool", "system", "developer")),
        "assistant": frozenset(("assistant", "system", "developer")),
        "tool": frozenset(("system", "developer")),
        _ANY: frozenset(),
    }
)


def message_problems(
    value: object,
    where: str,
    *,
    last: str | None = None,
    calls: list[Call] | None = None,
    begins: bool = True,
) -> Iterator[Problem]:
    """What is wrong with a list of messages.

    last: the role that has to close it. calls: receives the tool calls. begins: it is no continuation.
    """
    if not isinstance(value, list):
        yield wrong_type(where, "a list of messages", value)
        return
    if not value:
        yield Problem("data.no_messages", f"{where} is an empty list")
        return
    previous = None if begins else _ANY
    for index, message in enumerate(value):
        if not isinstance(message, dict):
            yield wrong_type(f"{where}[{index}]", "a message object", message)
            previous = _ANY
            continue
        role = message.get("role")
        if role in ROLES:
            if role in _OUT_OF_TURN[previous]:
                yield out_of_turn(previous, role, f"{where}[{index}]")
            # Nearly every message of every file: worth a third of the time.
            content = message.get("content")
            if type(content) is str and "tool_calls" not in message:
                if role == "assistant" and (not content or content.isspace()):
                    yield from _empty(message, f"{where}[{index}]")
                previous = role
                continue
        previous = role if role in ROLES else _ANY
        yield from _message(message, where, index, calls)
    final = value[-1]
    role = final.get("role") if isinstance(final, dict) else None
    if last and role in ROLES and role != last:
        yield Problem("data.last_role", f"{where} ends with the role {role}, not {last}")


def out_of_turn(previous: str | None, role: str, where: str) -> Problem:
    """A role that does not follow the one before it."""
    after = f"after {previous}" if previous else "at the beginning"
    valid = "system first if at all, then user and assistant in turn, tool after a call"
    return Problem("data.roles", f"{where} has the role {role} {after}", "warning", valid=valid)


def _empty(message: dict[str, Any], where: str) -> Iterator[Problem]:
    if not message.get("reasoning_content"):
        what = f"{where}.content is empty: nothing to learn"
        yield Problem("data.empty_answer", what, "warning")


def _message(message: dict[str, Any], where: str, index: int, found: list[Call] | None) -> Iterator[Problem]:
    role = message.get("role")
    if not isinstance(role, str):
        here = f"{where}[{index}].role"
        yield wrong_type(here, "a string", role) if "role" in message else missing(here, ", ".join(ROLES))
    elif role not in ROLES:
        near = nearest(role[:_NAME], ROLES, 1)
        what = f"{where}[{index}].role is {shown(role)}" + (f", did you mean {near[0]}" if near else "")
        yield Problem("data.role", what, valid=", ".join(ROLES))
    calls = message.get("tool_calls")
    if calls is not None:
        yield from _tool_calls(calls, f"{where}[{index}].tool_calls", found)
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
        if role == "assistant" and not calls and _says_nothing(content):
            yield from _empty(message, f"{where}[{index}]")


def _says_nothing(content: object) -> bool:
    """Whether all parts of a content are texts of blanks."""
    return isinstance(content, list) and all(
        isinstance(part, dict)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
        and not part["text"].strip()
        for part in content
    )


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


def _tool_calls(calls: object, where: str, found: list[Call] | None) -> Iterator[Problem]:
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
        elif found is not None:
            arguments = function.get("arguments")
            found.append(Call(f"{here}.function", function.get("name"), arguments))
