"""What a row must have, key by key; a row that has not is refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from nemotron.data.stream.rows import Rejected

Message = dict[str, Any]

ROLES: Mapping[str, str] = MappingProxyType(
    {role: role for role in ("system", "developer", "user", "assistant", "tool")}
)
_MESSAGE_KEYS = frozenset(("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"))


class RefusedRowError(Exception):
    """A row is left out. rejected: the reason."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.what)
        self.rejected = rejected


def refuse(reason: str, what: str) -> NoReturn:
    """Leave the row out."""
    raise RefusedRowError(Rejected(reason, what))


def text(row: Mapping[str, Any], key: str) -> str:
    """The text at `key`, which must be there and not be blank."""
    value = row.get(key)
    if type(value) is str and value and not value.isspace():
        return value
    if key not in row:
        refuse("missing_field", f"no {key}")
    value = row[key]
    if not isinstance(value, str):
        refuse("wrong_type", f"{key} is {_kind(value)}, not a string")
    if not value.strip():
        refuse("empty_text", f"{key} is empty")
    return value


def optional_text(row: Mapping[str, Any], key: str) -> str | None:
    """The text at `key`; None when it is absent, null or empty."""
    value = row.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        refuse("wrong_type", f"{key} is {_kind(value)}, not a string")
    return value


def message_list(
    row: Mapping[str, Any],
    key: str,
    *,
    role_key: str = "role",
    content_key: str = "content",
    roles: Mapping[str, str] = ROLES,
) -> tuple[Message, ...]:
    """The messages at `key`, with role and content under those names.

    roles: what a role in the data means here; one that is not in it is refused.
    """
    if key not in row:
        refuse("missing_field", f"no {key}")
    value = row[key]
    if not isinstance(value, list):
        refuse("wrong_type", f"{key} is {_kind(value)}, not a list of messages")
    if not value:
        refuse("no_messages", f"{key} is an empty list")
    if roles is ROLES and (role_key, content_key) == ("role", "content") and _are_plain(value):
        return tuple(value)
    return tuple(
        message(item, f"{key}[{index}]", role_key=role_key, content_key=content_key, roles=roles)
        for index, item in enumerate(value)
    )


def _are_plain(messages: list[Any]) -> bool:
    """Whether each message has a known role, a text, and nothing else: as nearly all of every file."""
    for said in messages:
        if type(said) is not dict or len(said) != 2:
            return False
        role = said.get("role")
        if type(role) is not str or role not in ROLES or type(said.get("content")) is not str:
            return False
    return True


def message(
    value: object,
    where: str,
    *,
    role_key: str = "role",
    content_key: str = "content",
    roles: Mapping[str, str] = ROLES,
) -> Message:
    """One message as `message_list` returns it."""
    if not isinstance(value, dict):
        refuse("wrong_type", f"{where} is {_kind(value)}, not a message")
    if role_key not in value:
        refuse("missing_field", f"no {where}.{role_key}")
    role = value[role_key]
    if not isinstance(role, str) or role not in roles:
        refuse("unknown_role", f"{where}.{role_key} is {role!r:.60}")
    if content_key not in value and not value.get("tool_calls"):
        refuse("missing_field", f"no {where}.{content_key}")
    if content_key in value:
        _content(value[content_key], f"{where}.{content_key}", bool(value.get("tool_calls")))
    found: Message = value
    names = {role_key: "role", content_key: "content"}
    extra = sorted(key for key in found if names.get(key, key) not in _MESSAGE_KEYS)
    if extra:
        refuse("extra_field", ", ".join(f"{where}.{name}"[:80] for name in extra[:5]))
    return {**{names.get(key, key): item for key, item in found.items()}, "role": roles[role]}


def _content(value: object, where: str, called: bool) -> None:
    if isinstance(value, str) or (value is None and called):
        return
    if not isinstance(value, list):
        refuse("wrong_type", f"{where} is {_kind(value)}, not a string or a list of parts")
    for index, part in enumerate(value):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            refuse("wrong_type", f"{where}[{index}] is no part with a type")


def plain_text(said: Message, what: str) -> str:
    """The text of a message that holds nothing but a role and a text."""
    content = said.get("content")
    if not isinstance(content, str) or said.keys() - {"role", "content"}:
        refuse("not_plain_text", f"{what} holds more than a text")
    return content


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
