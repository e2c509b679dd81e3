"""Mounts: `SRC:DST`, `SRC:DST:OPTIONS`, or a table as Lepton writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TABLE_KEYS = ("path", "mount_path", "from", "mount_options")


class BadMount(ValueError):
    """What is wrong with a mount, in words that follow its name."""


@dataclass(frozen=True)
class Mount:
    """One directory or file seen inside the container.

    source: where it is on the node, or on the volume.
    target: where the container sees it, an absolute path.
    options: of the mount, such as `ro`; "" for none.
    volume: the storage that `source` is on (`from` on Lepton); "" for the node's own file system.
    """

    source: str
    target: str
    options: str = ""
    volume: str = ""


def parse_mount(value: Any) -> Mount:
    """The mount a profile's value means. Raises BadMount."""
    if isinstance(value, Mapping):
        mount = _of_table(value)
    elif isinstance(value, str):
        parts = value.split(":")
        if len(parts) not in (2, 3):
            raise BadMount(f"{_shown(value)} is no mount: write SRC:DST or SRC:DST:OPTIONS")
        mount = Mount(*parts)
    else:
        raise BadMount("must be text (SRC:DST) or a table")
    if not mount.source:
        raise BadMount(f"{_shown(value)} names nothing to mount")
    if not mount.target.startswith("/"):
        raise BadMount(f"{_shown(value)} must be mounted at an absolute path, not at {mount.target!r}")
    return mount


def _of_table(value: Mapping[str, Any]) -> Mount:
    unknown = [key for key in value if key not in _TABLE_KEYS]
    if unknown:
        raise BadMount(f"has {unknown[0]!r}, a mount has {', '.join(_TABLE_KEYS)}")
    for key in ("path", "mount_path"):
        if not value.get(key):
            raise BadMount(f"has no {key}")
    options = value.get("mount_options", "")
    if isinstance(options, list) and all(isinstance(option, str) for option in options):
        options = "+".join(options)
    texts = (value["path"], value["mount_path"], options, value.get("from", ""))
    if not all(isinstance(text, str) for text in texts):
        raise BadMount("must hold nothing but texts")
    return Mount(*texts)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else str(value.get("path"))
    return repr(text if len(text) <= 60 else text[:57] + "...")
