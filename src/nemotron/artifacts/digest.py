"""Identity of content: BLAKE3 digests of files, trees and JSON values.

**Level full**, `blake3:<64 hex>`. A file's digest is plain BLAKE3 of its bytes, as `b3sum FILE` prints it;
its name does not count. A tree's digest is BLAKE3 in key-derivation mode, so that no file can have it, with
the context string `TREE_CONTEXT`, over one entry per file, the files sorted by path:

    path length   8 bytes, little-endian
    path          relative to the tree, raw bytes, `/` between the parts
    size          8 bytes, little-endian
    content       32 bytes: plain BLAKE3 of the file's bytes

**Level sampled**, `sampled:<64 hex>`, costs a few milliseconds a file, however large. It is BLAKE3 in
key-derivation mode with the context string `SAMPLED_CONTEXT` over the same entries; a file that is not in a
tree makes one entry with an empty path. `content` is here plain BLAKE3 of the file's sample: of all its bytes
where it has at most 2,621,440 (WHOLE); else of these parts, one after the other, all divisions rounded down:

    head          the first 1 MiB
    8 blocks      of 64 KiB; e = (size - 2 MiB) / 8; block i from 0 to 7 begins at
                  1 MiB + i * e + (e - 64 KiB) / 2
    tail          the last 1 MiB

It sees every change of a name or a size, and of any byte in these parts. It misses changes of other bytes
that keep the size: a flipped bit, or a stretch of up to e - 64 KiB that is zeroed or stems from another file.
It tells which of several checkpoints this is, and whether a copy is whole but for such damage; it is no
protection against somebody who wants to deceive.

Which files count: see `walk.walk_files`. Modes, times, owners and empty directories do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron.errors import UsageError

from .walk import WalkedFile, walk_files

if TYPE_CHECKING:
    from .digest_read import ContentCache, Progress

TREE_CONTEXT = "nemotron 2026 artifact tree v1"
SAMPLED_CONTEXT = "nemotron 2026 artifact sampled v1"
LEVELS = ("full", "sampled")
AUTO = "auto"
# Half an hour of reading at the speed of a good network file system, and more than a 100 B model in bf16.
SAMPLED_FROM = 256 << 30
PREFIX = "blake3:"
SAMPLED_PREFIX = "sampled:"


@dataclass(frozen=True)
class Digest:
    """Content identity: `value` is `blake3:<64 hex>` or `sampled:<64 hex>`.

    `files` and `bytes` say how much there is, at level sampled more than was read.
    """

    value: str
    files: int
    bytes: int

    @property
    def level(self) -> str:
        """One of `LEVELS`."""
        return level_of(self.value)


def level_of(value: str) -> str:
    """The level at which the digest `value` was taken, one of `LEVELS`.

    Raises `UsageError` for what is no digest.
    """
    if value.startswith(PREFIX):
        return "full"
    if value.startswith(SAMPLED_PREFIX):
        return "sampled"
    raise UsageError(f"{value!r} is no digest", valid=(f"{PREFIX}<64 hex>", f"{SAMPLED_PREFIX}<64 hex>"))


def digest_path(
    path: Path, *, cache: ContentCache | None = None, level: str = AUTO, progress: Progress | None = None
) -> Digest:
    """The identity of the file or directory at `path`.

    cache: files that it knows to be unchanged are not read. level: one of `LEVELS`, or `auto`: full up to
    `SAMPLED_FROM` bytes in all.
    progress: called in this thread with the bytes read and the bytes to be read, both 0 where the cache knows
    everything; once before the first is read, then at most ten times a second, and at the end.

    Errors: those of `walk.walk_files`; `Conflict` when a file changes while it is read; `UsageError` for an
    unknown level.
    """
    # Threads and queues: start-up time of every command, and most commands read nothing.
    from .digest_read import read_contents

    if level not in (*LEVELS, AUTO):
        raise UsageError(f"there is no level {level!r} of digests", valid=(*LEVELS, AUTO))
    files = walk_files(path)
    size = sum(file.stat.st_size for file in files)
    sampled = level == "sampled" or (level == AUTO and size > SAMPLED_FROM)
    contents = read_contents(files, sampled=sampled, cache=cache, progress=progress)
    if sampled:
        value = SAMPLED_PREFIX + _tree(files, contents, SAMPLED_CONTEXT)
    elif files and not files[0].relpath:
        value = PREFIX + contents[0].hex()
    else:
        value = PREFIX + _tree(files, contents, TREE_CONTEXT)
    return Digest(value, len(files), size)


def _tree(files: Sequence[WalkedFile], contents: Sequence[bytes], context: str) -> str:
    from blake3 import blake3

    entries = bytearray()
    for file, content in zip(files, contents, strict=True):
        relpath = file.relpath
        entries += len(relpath).to_bytes(8, "little")
        entries += relpath
        entries += file.stat.st_size.to_bytes(8, "little")
        entries += content
    return blake3(entries, derive_key_context=context).hexdigest()


def digest_json(value: object) -> str:
    """`blake3:<hex>` of a JSON value, the same for equal values in any key order.

    Canonical form: keys sorted by code point, no blanks, no escapes but those JSON demands, UTF-8 (a lone
    surrogate as its three bytes); numbers as Python writes them, so 1 and 1.0 differ. Raises `UsageError`
    for a NaN or an infinity, which JSON does not have, with the key where it stands.
    """
    from blake3 import blake3

    _refuse_not_a_number(value, "")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return PREFIX + blake3(text.encode("utf-8", "surrogatepass")).hexdigest()


def _refuse_not_a_number(value: object, key: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(
            f"{value} is no JSON number", where=key or None, next="write a finite number or null"
        )
    if isinstance(value, Mapping):
        for name, item in value.items():
            # json.dumps would write 1 and "1" alike, and two values would share a digest.
            assert isinstance(name, str), name
            _refuse_not_a_number(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_not_a_number(item, f"{key}[{index}]")
