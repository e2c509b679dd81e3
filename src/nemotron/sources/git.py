"""What git knows of files, asked in ways that run no program that a checkout names.

A checkout may come from anybody, and its config can name programs for comparing, filtering and watching
files. So git is asked for names and stored bytes alone, and files are compared here: no diff driver, no
text conversion, no filter, no hook, no file monitor, no fetching of what is missing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.paths import printable
from nemotron.errors import WorkFailed

if TYPE_CHECKING:
    import hashlib
    import subprocess

TIME_LIMIT = 30.0
"""Seconds that one question may take: a working tree on a busy network file system is slow."""

_SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "protocol.allow=never")
_PIECE = 1 << 20
_LINK, _SUBMODULE = "120000", "160000"


@dataclass(frozen=True)
class Stored:
    """A file as a commit holds it. mode: as git writes it. digest: git's name of the bytes."""

    mode: str
    digest: str


@dataclass(frozen=True)
class Checkout:
    """A working tree. top: its directory, links resolved. commit: what HEAD is, None before the first one."""

    top: Path
    commit: str | None


def dot_git_above(path: Path) -> Path | None:
    """The nearest directory at or above `path` that holds `.git`; None where there is none."""
    return next((place for place in (path, *path.parents) if (place / ".git").exists()), None)


def find_checkout(directory: Path) -> Checkout | None:
    """The checkout that `directory` lies in; None without one, without git, or where git refuses to look.

    Git refuses a checkout of somebody else's that `safe.directory` does not name.
    Errors of this and of all functions here: WorkFailed when git does not answer in time.
    """
    if dot_git_above(directory) is None:
        return None
    told = _git(directory, "rev-parse", "--show-toplevel")
    if told is None:
        return None
    top = Path(os.fsdecode(told.removesuffix(b"\n"))).resolve()
    if not directory.resolve().is_relative_to(top):
        return None
    commit = _git(top, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    return Checkout(top, commit.decode().strip() if commit else None)


def is_ignored(checkout: Checkout, path: Path) -> bool:
    """Whether git passes over `path`: by an ignore rule, or because it lies in `.git`."""
    if ".git" in path.relative_to(checkout.top).parts:
        return True
    if path == checkout.top:
        return False
    done = _ask(checkout.top, "check-ignore", "-q", "--", str(path))
    if done is None or done.returncode > 1:  # 0 says ignored, 1 says not
        raise _failed(checkout, "check-ignore")
    return done.returncode == 0


def tracked_files(checkout: Checkout, paths: Sequence[Path] = ()) -> frozenset[str]:
    """Paths below the top of the files in the index, at or below one of `paths` where there are any."""
    return _listed(checkout, ("--cached",), paths)


def new_files(checkout: Checkout, paths: Sequence[Path]) -> frozenset[str]:
    """Paths below the top of files at or below `paths` that git neither tracks nor ignores."""
    return _listed(checkout, ("--others", "--exclude-standard"), paths) if paths else frozenset()


def stored_files(checkout: Checkout, paths: Sequence[Path] = ()) -> dict[str, Stored]:
    """What the commit holds, by path below the top; at or below one of `paths` where there are any."""
    if checkout.commit is None:
        return {}
    found = {}
    names = [str(path.relative_to(checkout.top)) for path in paths]
    told = _must(checkout, "--literal-pathspecs", "ls-tree", "-r", "-z", checkout.commit, "--", *names)
    for entry in told.split(b"\0"):
        if entry:
            head, _, name = entry.partition(b"\t")
            mode, _, digest = head.decode().split(" ")
            found[os.fsdecode(name)] = Stored(mode, digest)
    return found


def left_out_by_sparse_checkout(checkout: Checkout) -> frozenset[str]:
    """Paths that are not in the working tree because somebody wanted only part of it."""
    entries = _must(checkout, "ls-files", "-t", "-z").split(b"\0")
    return frozenset(os.fsdecode(entry[2:]) for entry in entries if entry.startswith(b"S "))


def stored_bytes(checkout: Checkout, stored: Stored) -> bytes | None:
    """The bytes that the commit holds for a file; None where a partial clone does not have them."""
    return _git(checkout.top, "cat-file", "blob", stored.digest)


def differs(checkout: Checkout, name: str, stored: Stored) -> bool:
    """Whether the file of the working tree is another than the commit's. Errors: see `os_error` too."""
    path = checkout.top / name
    try:
        status = path.lstat()
        if stored.mode == _SUBMODULE:
            return _submodule_differs(path, stored)
        if stat.S_ISLNK(status.st_mode):
            held = os.fsencode(path.readlink())
            return stored.mode != _LINK or _name_of(held, stored) != stored.digest
        if stored.mode == _LINK or not stat.S_ISREG(status.st_mode):
            return True
        executable = stored.mode.endswith("755")
        return (
            executable != bool(status.st_mode & 0o100) or _name_of_file(path, status, stored) != stored.digest
        )
    except (FileNotFoundError, NotADirectoryError):
        return stored.mode != _SUBMODULE  # one that nobody asked for is not there
    except OSError as problem:
        raise os_error(problem, path) from problem


def submodules(stored: Mapping[str, Stored]) -> list[str]:
    """Paths at which a commit holds other checkouts."""
    return sorted(name for name, each in stored.items() if each.mode == _SUBMODULE)


def _submodule_differs(path: Path, stored: Stored) -> bool:
    if not (path / ".git").exists():
        return False
    inner = find_checkout(path)
    return inner is not None and inner.commit != stored.digest


def _name_of(data: bytes, stored: Stored) -> str:
    hasher = _hasher(stored)
    hasher.update(b"blob %d\0" % len(data) + data)
    return hasher.hexdigest()


def _name_of_file(path: Path, status: os.stat_result, stored: Stored) -> str:
    hasher = _hasher(stored)
    hasher.update(b"blob %d\0" % status.st_size)
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            hasher.update(data)
    return hasher.hexdigest()


def _hasher(stored: Stored) -> hashlib._Hash:
    import hashlib

    return hashlib.new("sha1" if len(stored.digest) == 40 else "sha256", usedforsecurity=False)


def _listed(checkout: Checkout, options: Iterable[str], paths: Sequence[Path]) -> frozenset[str]:
    names = [str(path.relative_to(checkout.top)) for path in paths]
    told = _must(checkout, "--literal-pathspecs", "ls-files", "-z", *options, "--", *names)
    return frozenset(os.fsdecode(name) for name in told.split(b"\0") if name)


def _must(checkout: Checkout, *words: str) -> bytes:
    told = _git(checkout.top, *words)
    if told is None:
        command = next(word for word in words if not word.startswith("-"))
        raise _failed(checkout, command)
    return told


def _failed(checkout: Checkout, command: str) -> WorkFailed:
    what, advice = f"git {command} failed", "see `git fsck` and `git status` there"
    return WorkFailed(what, where=printable(checkout.top), next=advice)


def _git(directory: Path, *words: str) -> bytes | None:
    """What git prints; None where it says no, or is not there."""
    done = _ask(directory, *words)
    return done.stdout if done is not None and done.returncode == 0 else None


def _ask(directory: Path, *words: str) -> subprocess.CompletedProcess[bytes] | None:
    """Git's answer; None where there is no git."""
    import subprocess

    try:
        return subprocess.run(
            ["git", *_SAFE, *words],
            cwd=directory,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIME_LIMIT,
            check=False,
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired as problem:
        what = f"git did not answer in {TIME_LIMIT:.0f} seconds"
        raise WorkFailed(
            what, where=printable(directory), next="try again when the disk is less busy"
        ) from problem
    except OSError as problem:
        raise os_error(problem, directory) from problem


def _environment() -> dict[str, str]:
    """Ours without what redirects git (GIT_DIR in a hook, GIT_EXTERNAL_DIFF); fetching is forbidden."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
