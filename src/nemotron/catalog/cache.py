"""What manifests hold, remembered between processes: tomllib needs 20 ms for 25 of them."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from nemotron.catalog.runspec import header_text, read_runspec
from nemotron.catalog.toml_source import TomlSource, parse_toml, read_text

_FORMAT = 1
# A file written this recently may be written again within one tick of its clock, which no stat can tell.
_SETTLED_NS = 2_000_000_000


class ParsedFiles:
    """Reads manifests and script headers, each file once for each state it was ever in.

    A file is known by path, size, mtime, ctime and inode. What it holds is remembered once the reader has
    found nothing wrong in it and called `accept`.

    Parameters
    ----------
    path: the cache file; None reads everything afresh. One that is missing, broken, writable for others, or
        in a directory we cannot write, is as good as none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = _load(path) if path else {}
        self._used: dict[str, object] = {}
        self._fresh: dict[str, object] = {}
        self._is_new = False

    def toml(self, path: Path) -> TomlSource:
        """A `step.toml` or `types.toml`. Raises ManifestError."""
        state = _state(path)
        data = self._recall(path, state)
        if data is None:
            data = parse_toml(read_text(path), path)
            self._hold(path, state, data)
        return TomlSource(path, data, lambda: (read_text(path), 0))

    def header(self, script: Path) -> TomlSource | None:
        """The `[tool.runspec]` header of a script, None where there is none. Raises ManifestError."""
        state = _state(script)
        data = self._recall(script, state)
        if data is None:
            data = {"runspec": read_runspec(script)}
            self._hold(script, state, data)
        header = data.get("runspec")
        source = TomlSource(
            script, header if isinstance(header, dict) else {}, lambda: header_text(script) or ("", 0)
        )
        if isinstance(header, dict):
            return source
        self.accept(source)
        return None

    def is_accepted(self, source: TomlSource) -> bool:
        """Whether an earlier reader found nothing wrong in this very state of the file."""
        return str(source.path) in self._used

    def accept(self, source: TomlSource) -> None:
        """Nothing is wrong in the file: it may be remembered."""
        entry = self._fresh.pop(str(source.path), None)
        if entry:
            self._used[str(source.path)] = entry
            self._is_new = True

    def save(self) -> None:
        """Writes the cache if it has anything new, and only what this process used."""
        if not self._path or not self._is_new:
            return
        import json

        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with temporary.open("x", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                json.dump({"format": _FORMAT, "files": self._used}, file)
            temporary.replace(self._path)
        except (OSError, ValueError, RecursionError):
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _recall(self, path: Path, state: list[int] | None) -> dict[str, object] | None:
        entry = self._known.get(str(path))
        if state is None or not isinstance(entry, dict) or entry.get("state") != state:
            return None
        data = entry.get("data")
        if not isinstance(data, dict):
            return None
        self._used[str(path)] = entry
        return data

    def _hold(self, path: Path, state: list[int] | None, data: dict[str, object]) -> None:
        """`state` is from before the file was read: one that changed since is read again next time."""
        if state and time.time_ns() - max(state[1], state[2]) > _SETTLED_NS:
            self._fresh[str(path)] = {"state": state, "data": data}


def cache_file(environ: Mapping[str, str]) -> Path | None:
    """Where the cache is: below XDG_CACHE_HOME, else below ~/.cache; None where neither is set."""
    base = environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # the XDG rule: a relative path is ignored
        home = environ.get("HOME", "")
        base = f"{home}/.cache" if home.startswith("/") else ""
    return Path(base, "nemotron", "catalog.json") if base else None


def _state(path: Path) -> list[int] | None:
    try:
        info = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(info.st_mode):
        return None
    return [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]


def _load(path: Path) -> Mapping[str, object]:
    import json

    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            # A manifest names the image and command to run: no one else may have written this.
            if info.st_uid != os.geteuid() or info.st_mode & 0o022:
                return {}
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    files = content.get("files") if isinstance(content, dict) and content.get("format") == _FORMAT else None
    return files if isinstance(files, dict) else {}
