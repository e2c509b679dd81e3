"""Opening and reading files that nobody vouches for: no blocking, no unbounded reads, no tracebacks."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from .bounds import too_costly
from .report import Problem, kind, shown

_BUFFER = 1 << 20
_HEAD = 4096
_JSON_BLANKS = re.compile(r"[ \t\r\n]*")
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\x00", "xz", "unxz"),
    (b"PK\x03\x04", "zip", "unzip"),
)


def open_regular(path: Path) -> BufferedReader | Problem:
    """An open regular file, or what keeps it from being one. Never waits for a pipe or a device."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return Problem("artifact.not_a_file", "a directory stands where a file should be")
        if not stat.S_ISREG(status.st_mode):
            return Problem("artifact.special_file", "a pipe, socket or device, not a regular file")
        # Not blocking: a pipe may take the name between the look and the opening.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        return unreadable(exc)
    return BufferedReader(FileIO(descriptor, "rb"), _BUFFER)


def unreadable(exc: OSError) -> Problem:
    """A file that the operating system does not let us read."""
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return Problem("artifact.missing_file", "no such file")
    return Problem("artifact.unreadable", f"cannot be read: {(exc.strerror or str(exc)).lower()}")


def not_text(head: bytes) -> Problem | None:
    """What the first bytes of a file give away when it is no UTF-8 text."""
    for magic, name, command in _COMPRESSED:
        if head.startswith(magic):
            fix = f"unpack it: {command} FILE"
            return Problem("artifact.compressed", f"{name} data, whatever the name says", fix=fix)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Problem("artifact.not_utf8", "UTF-16 text, not UTF-8", fix="iconv -f UTF-16 -t UTF-8 FILE")
    if b"\0" in head[:_HEAD]:
        return Problem("artifact.binary", "binary data, not text")
    return None


def read_lines(file: BufferedReader, limit: int) -> Iterator[tuple[bytes | None, int]]:
    """The lines of `file` with their lengths; a line longer than `limit` bytes is None, never held whole."""
    while line := file.readline(limit + 1):
        length = len(line)
        if length <= limit or line.endswith(b"\n"):
            yield line, length
            continue
        del line
        while rest := file.readline(_BUFFER):
            length += len(rest)
            if rest.endswith(b"\n"):
                break
        yield None, length


@dataclass
class JsonReader:
    """Parses JSON and notes what JSON permits or Python lets pass although no reader agrees on it.

    duplicates: keys that an object held twice. constants: NaN, Infinity, -Infinity. Both of the last text.
    """

    duplicates: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)
        # What `raw_decode` calls, without the call between: a tenth of the time of short rows.
        self._scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once  # type: ignore[attr-defined]

    def parse(self, text: str) -> Any | Problem:
        """The value in `text`, or why there is none."""
        self.duplicates.clear()
        self.constants.clear()
        try:
            value, end = self.value_at(text, 0 if text[:1] > " " else blanks_end(text, 0))
        except (RecursionError, ValueError) as exc:
            return unparsed(exc)
        left = len(text) - end
        if left == 0 or (left == 1 and text[end] == "\n"):
            return value
        end = blanks_end(text, end)
        if end != len(text):
            return Problem(
                "data.broken_json", f"not JSON: something follows the value at character {end + 1}"
            )
        return value

    def value_at(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins at `start`, and where it ends. Errors: see `unparsed`."""
        try:
            return self._scan(text, start)
        except StopIteration as exc:
            raise json.JSONDecodeError("Expecting value", text, exc.value) from None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            self.duplicates += [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
        return made

    def _constant(self, name: str) -> float:
        self.constants.append(name)
        return float(name)


def blanks_end(text: str, start: int) -> int:
    """Where the blanks end that JSON allows between values."""
    found = _JSON_BLANKS.match(text, start)
    assert found
    return found.end()


def unparsed(exc: RecursionError | ValueError) -> Problem:
    """Why the parser gave up."""
    if isinstance(exc, RecursionError):
        return Problem("data.too_deep", "nested too deeply to be read")
    if isinstance(exc, json.JSONDecodeError):
        return Problem("data.broken_json", f"not JSON: {exc.msg} at character {exc.pos + 1}")
    # Python's limit on the digits of an integer.
    return Problem("data.broken_json", f"not JSON that can be read: {str(exc).partition(':')[0]}")


def read_json_object(path: Path, *, limit: int, finite: bool = False) -> dict[str, Any] | Problem:
    """The JSON object that is the whole of `path`, or why there is none.

    `limit` bounds its size in bytes; what would take too much memory is refused before it is parsed.
    `finite` refuses NaN and infinity, which model configs in use hold.
    """
    data = read_bytes(path, limit=limit)
    if isinstance(data, Problem):
        return data
    problem = not_text(data[:_HEAD]) or too_costly(data)
    if problem:
        return problem
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        return Problem("artifact.not_utf8", f"not UTF-8 at byte {exc.start}")
    del data
    if not text or text.isspace():
        return Problem("artifact.empty", "an empty file")
    reader = JsonReader()
    value = reader.parse(text)
    if isinstance(value, Problem):
        return value
    if reader.duplicates:
        return Problem(
            "data.duplicate_key", f"the key {shown(reader.duplicates[0])} stands twice in an object"
        )
    if reader.constants and finite:
        return Problem("data.not_finite", f"{reader.constants[0]} is no JSON number")
    if not isinstance(value, dict):
        return Problem("data.not_an_object", f"{kind(value)}, not a JSON object")
    return value


def read_bytes(path: Path, *, limit: int) -> bytes | Problem:
    """All of a file of at most `limit` bytes, or why not."""
    file = open_regular(path)
    if isinstance(file, Problem):
        return file
    with file:
        try:
            data = file.read(limit + 1)
        except OSError as exc:
            return unreadable(exc)
    if len(data) > limit:
        return Problem("artifact.too_large", f"larger than {limit >> 20} MiB, not read")
    return data
