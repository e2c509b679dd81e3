"""How files of a checkout differ from its commit: a digest of all of it, and a text for people.

The text can be applied with `patch -p1` where nothing was left out of it. What looks like a secret is left
out, and so is what is not text or very long; the digest covers everything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.digest import digest_json
from nemotron.artifacts.secret_names import names_secret
from nemotron.sources.git import (
    Checkout,
    Stored,
    differs,
    find_checkout,
    left_out_by_sparse_checkout,
    new_files,
    stored_bytes,
    stored_files,
    submodules,
    tracked_files,
)
from nemotron.sources.private import is_private

MAX_FILE = 256 << 10
MAX_TEXT = 1 << 20
_PIECE = 1 << 20
_QUOTED = re.compile(r"""([A-Za-z_][\w.-]*)(["']?\s*[:=]\s*)(["'])([^"'\n]{4,})\3""")
_TOKEN = re.compile(
    r"\b(hf_|nvapi-|ghp_|gho_|github_pat_|glpat-|sk-|xox[abp]-|AKIA|AIza|eyJ)[A-Za-z0-9_.-]{12,}"
)
_HIDDEN = "(left out: it looks like a secret)"


@dataclass(frozen=True)
class Changes:
    """What differs. digest: of names and bytes, None where nothing does. text: the differences, bounded."""

    digest: str | None = None
    text: str = ""


@dataclass(frozen=True)
class CheckoutState:
    """What a working tree holds: its commit, and what differs from it. All empty without a checkout."""

    commit: str | None = None
    dirty_digest: str | None = None
    diff_text: str = ""


def checkout_state(path: Path) -> CheckoutState:
    """The state of the checkout that `path` lies in, submodules that are there included.

    Tracked files count, and Python files that git neither tracks nor ignores. Every file is read: a working
    tree of 5,000 files takes about a quarter of a second, more on a cold network file system.
    Errors: WorkFailed where git fails or does not answer; see `os_error`.
    """
    checkout = find_checkout(path)
    if checkout is None:
        return CheckoutState()
    changes = changes_of(_entries(checkout, ""))
    return CheckoutState(checkout.commit, changes.digest, changes.text)


@dataclass(frozen=True)
class Entry:
    """A file that differs: what it is called, where it is, and what the commit holds of it."""

    name: str
    checkout: Checkout
    path: Path
    stored: Stored | None


def changed_entries(
    checkout: Checkout, stored: Mapping[str, Stored], present: Iterable[str], prefix: str = ""
) -> list[Entry]:
    """The files of a commit that differ or are gone, and those `present` that it does not hold."""
    entries = [
        Entry(prefix + name, checkout, checkout.top / name, each)
        for name, each in stored.items()
        if differs(checkout, name, each)
    ]
    new = (name for name in present if name not in stored)
    return entries + [Entry(prefix + name, checkout, checkout.top / name, None) for name in new]


def changes_of(entries: Iterable[Entry]) -> Changes:
    """The digest and the text of all entries."""
    digests: dict[str, str | None] = {}
    text = ""
    left_out = 0
    for entry in sorted(entries, key=lambda each: each.name):
        try:
            digests[entry.name] = _digest(entry.path)
            piece = _text(entry)
        except OSError as problem:
            raise os_error(problem, entry.path) from problem
        if len(text) + len(piece) > MAX_TEXT:
            left_out += 1
        else:
            text += piece
    if left_out:
        text += f"# {left_out} more files differ: all of it would be more than {MAX_TEXT >> 20} MiB\n"
    return Changes(digest_json(digests), text) if digests else Changes()


def _entries(checkout: Checkout, prefix: str) -> list[Entry]:
    sparse = left_out_by_sparse_checkout(checkout)
    stored = {name: each for name, each in stored_files(checkout).items() if name not in sparse}
    new = (n for n in new_files(checkout, [checkout.top]) if n.endswith(".py") and "site-packages/" not in n)
    found = changed_entries(checkout, stored, {*tracked_files(checkout), *new} - sparse, prefix)
    for name in submodules(stored):
        place = checkout.top / name
        inner = find_checkout(place) if (place / ".git").exists() else None
        if inner is not None and inner.top != checkout.top:
            found += _entries(inner, f"{prefix}{name}/")
    return found


def _digest(path: Path) -> str | None:
    from blake3 import blake3

    if path.is_symlink():
        return f"link:{os.readlink(path)}"  # noqa: PTH115 - as it is written, not as a path
    if not path.is_file():
        commit = find_checkout(path) if path.is_dir() else None
        return None if commit is None else f"commit:{commit.commit}"
    hasher = blake3()
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            hasher.update(data)
    return hasher.hexdigest() + (":x" if path.stat().st_mode & 0o100 else "")


def _text(entry: Entry) -> str:
    name = entry.name
    if is_private(name):
        return f"# {name} differs {_HIDDEN}\n"
    new = _bytes(entry.path)
    old: bytes | None = b""
    if entry.stored is not None:
        is_file = entry.stored.mode.startswith("100")
        old = stored_bytes(entry.checkout, entry.stored) if is_file else None
    if old is None or new is None or b"\0" in old + new or max(len(old), len(new)) > MAX_FILE:
        return f"# {name} differs, and is no text, or longer than {MAX_FILE >> 10} KiB, or not here\n"
    before = "/dev/null" if entry.stored is None else f"a/{name}"
    after = f"b/{name}" if os.path.lexists(entry.path) else "/dev/null"
    return "".join(_lines(old, new, before, after)) or f"# {name} differs in its mode\n"


def _bytes(path: Path) -> bytes | None:
    """What is at `path` now, no more than is shown; None for what is no file, and nothing where none is."""
    if path.is_symlink() or path.is_dir():
        return None
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(MAX_FILE + 1)


def _lines(old: bytes, new: bytes, before: str, after: str) -> Iterable[str]:
    import difflib

    for line in difflib.unified_diff(_split(old), _split(new), before, after):
        hidden = without_secrets(line)
        yield hidden if hidden.endswith("\n") else f"{hidden}\n\\ No newline at end of file\n"


def _split(data: bytes) -> list[str]:
    """Lines as patch takes them: other marks than a line feed do not end one."""
    *whole, last = data.decode("utf-8", "backslashreplace").split("\n")
    return [*(f"{line}\n" for line in whole), *([last] if last else [])]


def without_secrets(line: str) -> str:
    """A line of text without what looks like a secret: by what it begins with, or by what it is called."""
    line = _TOKEN.sub(lambda found: f"{found[1]}***", line)
    return _QUOTED.sub(
        lambda found: f"{found[1]}{found[2]}{found[3]}***{found[3]}" if names_secret(found[1]) else found[0],
        line,
    )
