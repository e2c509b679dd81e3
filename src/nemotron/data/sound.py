"""Rows that are what their type says, seen at a glance.

Nearly all rows are, and the checks of artifacts, which can tell what is wrong with the others, take ten
times as long. What is not seen here to be sound may be so all the same: ask the check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from nemotron.artifacts.checks.messages import ROLES

from .stream.jsontext import codec

_ROLES = frozenset(ROLES)
# The check refuses arguments that are nested so deep that they are costly to read: these cannot be.
_DEEP = 50


def _are_messages(messages: Any, last: str | None) -> bool:
    """Whether there are messages, each with a known role and a text, or with calls that can be read."""
    if type(messages) is not list or not messages:
        return False
    role = None
    for message in messages:
        if type(message) is not dict:
            return False
        role, content = message.get("role"), message.get("content")
        # A role of another type may be one that has no hash.
        if type(role) is not str or role not in _ROLES:
            return False
        if "tool_calls" in message:
            if not (content is None or type(content) is str) or not _are_calls(message["tool_calls"]):
                return False
        elif type(content) is not str:
            return False
    return last is None or role == last


def _are_calls(calls: Any) -> bool:
    """Whether there are calls, each of a name with the JSON of an object."""
    if type(calls) is not list or not calls:
        return False
    loads = codec()[0]
    for call in calls:
        function = call.get("function") if type(call) is dict else None
        if type(function) is not dict or type(function.get("name")) is not str:
            return False
        arguments = function.get("arguments")
        if type(arguments) is not str or arguments.count("{") + arguments.count("[") > _DEEP:
            return False
        try:
            if type(loads(arguments)) is not dict:
                return False
        except ValueError:
            return False
    return True


def _are_tools(tools: Any) -> bool:
    """Whether there are no tools, or definitions with names."""
    if tools is None:
        return True
    if type(tools) is not list:
        return False
    for tool in tools:
        function = tool.get("function", tool) if type(tool) is dict else None
        if type(function) is not dict or type(function.get("name")) is not str:
            return False
    return True


def _chat(row: dict[str, Any]) -> bool:
    return _are_tools(row.get("tools")) and _are_messages(row.get("messages"), "assistant")


def _preference(row: dict[str, Any]) -> bool:
    answers = row.get("completions")
    if type(answers) is not list or len(answers) != 2 or not _are_tools(row.get("tools")):
        return False
    first, second = answers
    if type(first) is not dict or type(second) is not dict:
        return False
    if type(first.get("rank")) is not int or type(second.get("rank")) is not int:
        return False
    chosen, rejected = first.get("completion"), second.get("completion")
    return (
        first["rank"] != second["rank"]
        and _are_messages(row.get("context"), None)
        and _are_messages(chosen, "assistant")
        and _are_messages(rejected, "assistant")
        and chosen != rejected
    )


# By the type of artifact.
_SOUND: Mapping[str, Callable[[dict[str, Any]], bool]] = MappingProxyType(
    {"training_jsonl": _chat, "preference_jsonl": _preference}
)


def sound_test(type_name: str | None) -> Callable[[dict[str, Any]], bool]:
    """The function that says of a row of a type whether it is sound beyond doubt."""
    return _unknown if type_name is None else _SOUND.get(type_name, _unknown)


def _unknown(_: dict[str, Any]) -> bool:
    return False
