"""Reads a TOML file that somebody else wrote: every way it can be wrong is a `ManifestError`."""

from __future__ import annotations

import functools
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron.errors import CheckFailed

if TYPE_CHECKING:
    from nemotron.catalog.toml_lines import Key

# The largest manifest known is 20 kB; what is larger is a mistake, and `list` must not wait for it.
_MAX_BYTES = 1 << 20
_TOML_PLACE = r"\s*\(at (?:line (\d+), column \d+|end of document)\)$"


class ManifestError(CheckFailed):
    """A `step.toml`, `types.toml` or script header that cannot be used.

    `path` and `line` (from 1, None where no line is at fault) say where; `what` says why.
    """

    def __init__(self, problem: str, path: Path, line: int | None = None, *, next: str | None = None) -> None:
        super().__init__(problem, where=f"{path}:{line}" if line else str(path), next=next)
        self.path = path
        self.line = line


class TomlSource:
    """Parsed TOML with its file: where a key is, without keeping the text.

    Parameters
    ----------
    path: the file.
    data: what it holds, plain JSON-like values.
    text: gives the TOML text and the number of lines before it in the file; read only to find a line.
    """

    def __init__(self, path: Path, data: Mapping[str, object], text: Callable[[], tuple[str, int]]) -> None:
        self.path = path
        self.data = data
        self._text = text

    @functools.cached_property
    def _lines(self) -> tuple[dict[Key, int], int]:
        from nemotron.catalog.toml_lines import key_lines

        text, before = self._text()
        return key_lines(text), before

    def line_of(self, key: Key) -> int | None:
        """The line of a key (see `key_lines`), or of the closest table around it."""
        from nemotron.catalog.toml_lines import line_of

        lines, before = self._lines
        line = line_of(lines, key)
        return None if line is None else line + before

    def where(self, key: Key) -> str:
        """`file:line` of a key."""
        line = self.line_of(key)
        return f"{self.path}:{line}" if line else str(self.path)

    def error(self, key: Key, problem: str) -> ManifestError:
        """The error to raise for what is wrong at a key."""
        return ManifestError(problem, self.path, self.line_of(key))


def read_text(path: Path) -> str:
    """The text of a manifest: a regular file in UTF-8. Raises ManifestError."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise ManifestError(f"{path.name} is a symbolic link; a catalog holds the file itself", path)
        if not stat.S_ISREG(mode):
            raise ManifestError(f"{path.name} is {_kind(mode)}, not a file", path)
        if path.stat().st_size > _MAX_BYTES:
            raise ManifestError(f"{path.name} is larger than {_MAX_BYTES >> 20} MiB", path)
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror}", path) from error
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path.name} is not UTF-8: {error.reason}", path, line) from error


def parse_toml(text: str, path: Path, lines_before: int = 0) -> dict[str, object]:
    """The TOML of `text` as plain values, dates as ISO strings. Raises ManifestError with the line."""
    import tomllib

    try:
        return {key: _plain(value) for key, value in tomllib.loads(text).items()}
    except RecursionError as error:
        raise ManifestError("not valid TOML: nested too deeply", path) from error
    except ValueError as error:  # TOMLDecodeError, or an integer of more digits than Python converts
        problem = str(error)
        found = re.search(_TOML_PLACE, problem)
        line = int(found[1]) if found and found[1] else text.rstrip("\n").count("\n") + 1
        problem = re.sub(_TOML_PLACE, "", problem)
        raise ManifestError(f"not valid TOML: {problem}", path, line + lines_before) from error


def _plain(value: object) -> object:
    """`value` without dates, so that it is the same fresh and from the cache."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str | bool | int | float):
        return value
    return value.isoformat()  # type: ignore[attr-defined]


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
