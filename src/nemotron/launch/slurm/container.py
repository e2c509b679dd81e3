"""Images and mounts as pyxis takes them.

pyxis splits mounts at `,` and `:`, and writes a line of fstab for each: a blank ends a field there, a
backslash begins an escape, and enroot replaces variables in it. Nothing of that can be quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nemotron.errors import UsageError

_NOT_IN_MOUNTS = re.compile(r"[,:$`\\#\s\x00-\x1f\x7f]|[\ud800-\udfff]")
_NOT_IN_IMAGES = re.compile(r"[\s\x00-\x1f\x7f]|[\ud800-\udfff]")
_OPTIONS = re.compile(r"[A-Za-z0-9=_+-]*", re.ASCII)


def image_reference(image: str) -> str:
    """An image as `--container-image` takes it: `nvcr.io#nvidia/nemo-rl:v0.6.0`, or the path of a file.

    Raises UsageError for a name that no image can have.
    """
    if not image or _NOT_IN_IMAGES.search(image) or image.startswith("-"):
        raise UsageError(f"{image[:80]!r} is no name of an image", where="container_image")
    if image.startswith(("/", "./")) or image.endswith((".sqsh", ".squashfs")):
        return image
    name = image.removeprefix("docker://")
    if "#" in name:
        return name
    registry, slash, rest = name.partition("/")
    # As docker tells a registry from an organisation of its hub.
    is_registry = slash and ("." in registry or ":" in registry or registry == "localhost")
    return f"{registry}#{rest}" if is_registry else name


def mount_text(mount: str) -> str:
    """`SRC:DST[:OPTIONS]`, as it was. Raises UsageError for one that pyxis would read as something else."""
    source, _, rest = mount.partition(":")
    target, _, options = rest.partition(":")
    for part in (source, target):
        if not part.startswith("/"):
            raise UsageError(f"a mount needs absolute paths: {mount[:120]!r}", where="mounts")
        refuse_in_mount(part)
    if not _OPTIONS.fullmatch(options):
        raise UsageError(f"{options!r} is no list of mount options such as ro+rprivate", where="mounts")
    return mount


def refuse_in_mount(path: str) -> None:
    """Raise UsageError for a path that cannot be mounted."""
    found = _NOT_IN_MOUNTS.search(path)
    if found:
        raise UsageError(
            f"a path with {found[0]!r} in it cannot be mounted: {path[:120]!r}",
            where="mounts",
            next="use another path, or a symbolic link to it",
        )


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths that lie in no other of them, sorted."""
    found: list[str] = []
    for path in sorted({p.rstrip("/") or "/" for p in paths}):
        if not any(is_below(path, other) for other in found):
            found.append(path)
    return tuple(found)


def is_below(path: str, directory: str) -> bool:
    """Whether a path is a directory, or lies in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")
