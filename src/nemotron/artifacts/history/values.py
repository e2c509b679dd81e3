"""Single values out of somebody else's config: found by dotted key, bounded, secrets left out."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.history.model import Parent
from nemotron.artifacts.secret_names import names_secret
from nemotron.artifacts.urls import redacted, scrubbed

_LONGEST = 1000
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}")
_FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".txt", ".gz", ".zst", ".bin", ".idx")


def at(data: object, key: str) -> Any:
    """The value of a dotted key, None when there is none."""
    for part in key.split("."):
        if not isinstance(data, Mapping):
            return None
        data = data.get(part)
    return data


def text_at(data: object, key: str) -> str | None:
    """A short text without control characters at a key; interpolations that were left open are none."""
    return clean_text(at(data, key))


def clean_text(value: object) -> str | None:
    """`value` if it is such a text."""
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST or "${" in value:
        return None
    return value.strip() if value.isprintable() else None


def count_at(data: object, key: str) -> int | None:
    """A whole number that is not negative."""
    value = at(data, key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        return None
    return value


def number(value: object) -> int | float | None:
    """`value` if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if abs(value) < 1 << 62 else None
    return value if math.isfinite(value) else None


def telling(config: object, keys: Iterable[str]) -> dict[str, Any]:
    """Those of `keys` that the config has, with scalar values."""
    found: dict[str, Any] = {}
    for key in keys:
        value = at(config, key)
        text = clean_text(value)
        small: Any = value if isinstance(value, bool) else number(value)
        if text is not None or small is not None:
            found[key] = small if text is None else scrubbed(text)
    return found


def config_digest(config: Mapping[str, Any]) -> str:
    """`blake3:...` of a config, the values of keys that name secrets left out."""
    from nemotron.artifacts.digest import digest_json

    return digest_json(_public(config))


def _public(value: Any, name: str = "") -> Any:
    if names_secret(name) and not isinstance(value, dict | list):
        return "..."
    if isinstance(value, dict):
        return {str(key): _public(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return scrubbed(value) if isinstance(value, str) else value


def model_parent(role: str, name: object, told_by: str, *, revision: object = None) -> Parent | None:
    """The parent that a model's name or path names; None when it is no name."""
    return _parent(role, name, told_by, revision, is_data=False)


def data_parent(role: str, name: object, told_by: str, *, revision: object = None) -> Parent | None:
    """As `model_parent`, for data: a name that ends like a file is never a hub id."""
    return _parent(role, name, told_by, revision, is_data=True)


def _parent(role: str, name: object, told_by: str, revision: object, *, is_data: bool) -> Parent | None:
    text = clean_text(name)
    if text is None:
        return None
    wanted = clean_text(revision)
    if wanted is not None and not _REVISION.fullmatch(wanted):
        wanted = None
    bare = text.removeprefix("hf://").removeprefix("https://huggingface.co/").removeprefix("datasets/")
    hub_id, _, given = bare.partition("@")
    is_file = is_data and text.lower().endswith(_FILE_SUFFIXES)
    if not is_file and _HUB_ID.fullmatch(hub_id):
        wanted = given if given and _REVISION.fullmatch(given) else wanted
        return Parent(role, f"hf://{hub_id}" + (f"@{wanted}" if wanted else ""), wanted, None, told_by)
    path = _existing(text)
    return Parent(role, path or redacted(text), wanted, path, told_by)


def _existing(text: str) -> str | None:
    """The path, when it is absolute and something is there; a relative one was relative to who knows what."""
    try:
        there = text.startswith("/") and Path(text).exists()
    except (OSError, ValueError):
        return None
    return os.path.normpath(text) if there else None
