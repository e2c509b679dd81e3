"""What was read out of small files, remembered between processes in one JSON file below the user's cache.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

_FORMAT = 1
# A file written this recently may be written again within one tick of its clock, which no stat can tell.
SETTLED_NS = 2_000_000_000
State = list[int]


class FileMemory:
    """What files held, for each the state it was last in: size, mtime, ctime and inode.

    Parameters
    ----------
    path: the memory's file; None remembers nothing. One that is missing, broken, writable for others, or in
        a directory we cannot write, is as good as none.
    others: how many entries are kept that this process did not use, the oldest go first.
    """

    def __init__(self, path: Path | None = None, *, others: int = 0) -> None:
        self._path = path
        self._others = others
        self._known = _load(path) if path else {}
        self._used: dict[str, object] = {}
        self._is_new = False

    def recall(self, path: Path, state: State | None) -> dict[str, object] | None:
        """What the file held in this state, None where that is not known."""
        entry = self._known.get(str(path))
        if state is None or not isinstance(entry, dict) or entry.get("state") != state:
            return None
        data = entry.get("data")
        if not isinstance(data, dict):
            return None
        self._used[str(path)] = entry
        return data

    def remember(self, path: Path, state: State | None, data: Mapping[str, object]) -> None:
        """Keep what a file holds. state: from before it was read, so that a change since is read again."""
        if state and time.time_ns() - max(state[1], state[2]) > SETTLED_NS:
            self._used[str(path)] = {"state": state, "data": data}
            self._is_new = True

    def is_known(self, path: Path) -> bool:
        """Whether the file was recalled or remembered by this process."""
        return str(path) in self._used

    def save(self) -> None:
        """Write the file if there is anything new. It only ever saves time: what fails is left."""
        if not self._path or not self._is_new:
            return
        import json

        unused = [name for name in self._known if name not in self._used]
        kept = {name: self._known[name] for name in unused[max(0, len(unused) - self._others) :]}
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with temporary.open("x", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                json.dump({"format": _FORMAT, "files": {**kept, **self._used}}, file)
            temporary.replace(self._path)
        except (OSError, ValueError, RecursionError):
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._is_new = False


def memory_file(environ: Mapping[str, str], name: str) -> Path | None:
    """Where a memory is: below XDG_CACHE_HOME, else below ~/.cache; None where neither is set."""
    base = environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # the XDG rule: a relative path is ignored
        home = environ.get("HOME", "")
        base = f"{home}/.cache" if home.startswith("/") else ""
    return Path(base, "nemotron", name) if base else None


def state_of(path: Path) -> State | None:
    """What tells one state of a regular file from another; None for anything else."""
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
            # What it says is believed, so no one else may have written it.
            if info.st_uid != os.geteuid() or info.st_mode & 0o022:
                return {}
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    files = content.get("files") if isinstance(content, dict) and content.get("format") == _FORMAT else None
    return files if isinstance(files, dict) else {}
