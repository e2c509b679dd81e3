"""What a run leaves on the other machine comes back: its logs as they grow, its records, how it ended.

Outputs stay where they are. What is taken of what comes: see `brought`.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.run_state import ELSEWHERE_FILE
from nemotron.errors import SchedulerError
from nemotron.launch import brought
from nemotron.launch.ssh.place import Site

_SECONDS = 60.0
# Of one file at once; the rest comes with the next archive.
_MOST = 16 << 20
_GROWING = re.compile(
    r"metrics\.jsonl|logs/[A-Za-z0-9._-]{1,100}\.(?:log|out)|logs/nodes/[A-Za-z0-9._-]{1,100}\.log"
)

# Records first: a log that is read after them is the longer one. A file that its job replaces just now comes
# the next time. $2: whether the run is over.
_PACK = """\
set -eu
cd -- "$1" 2> /dev/null || { echo gone >&2; exit 3; }
over=$2 most=$3
shift 3
t=$(mktemp -d)
trap 'rm -rf -- "$t"' EXIT
if [ -n "$over" ]; then rm -f -- .secrets; fi
for f in record.json inputs.json summary.json attempt.json failure.json; do
    if [ -f "$f" ]; then cp -- "$f" "$t/" 2> /dev/null || :; fi
done
if [ -d records ]; then cp -R -- records "$t/" 2> /dev/null || :; fi
mkdir -p -- "$t/logs/nodes"
for f in metrics.jsonl logs/*.log logs/*.out logs/nodes/*.log; do
    if [ ! -f "$f" ]; then continue; fi
    at=0
    for known in "$@"; do
        case "$known" in "$f="*) at=${known#"$f="};; esac
    done
    size=$(wc -c < "$f")
    if [ "$size" -gt "$at" ]; then tail -c "+$((at + 1))" -- "$f" | head -c "$most" > "$t/$f"; fi
done
tar -C "$t" -cf - .
"""


def collect(site: Site, directory: Path, records: Path, *, over: bool) -> None:
    """Bring back what is new of the run in `directory`. over: its jobs have ended, secrets are not needed.

    records: where the store keeps them. Raises SchedulerError where the other machine does not answer;
    a run that is gone there has nothing to tell.
    """
    with _alone(directory):
        while _collect_once(site, directory, records, over=over):
            pass


def _collect_once(site: Site, directory: Path, records: Path, *, over: bool) -> bool:
    """Whether there is more."""
    known = {name: path.stat().st_size for name, path in _growing(directory)}
    told = [f"{name}={size}" for name, size in known.items()]
    there = site.directory(directory.name)
    words = ["/bin/sh", "-c", _PACK, "sh", there, "over" if over else "", str(_MOST), *told]
    try:
        packed = site.login.pipe(words, seconds=_SECONDS)
    except SchedulerError as problem:
        if problem.what.endswith(": gone"):
            return False
        raise
    try:
        found = brought.unpacked(packed, lambda name: bool(_GROWING.fullmatch(name)), len(packed))
    except ValueError as problem:
        raise SchedulerError(f"what came back of a run is no archive: {problem}") from problem
    for name, content in found.items():
        if _GROWING.fullmatch(name):
            _append(directory / name, known.get(name, 0), content)
    more = any(_GROWING.fullmatch(name) and len(content) == _MOST for name, content in found.items())
    brought.keep(found, directory, records, over=not more)
    return more


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """No two clients append to one log."""
    path = directory / ELSEWHERE_FILE
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as problem:
        raise os_error(problem, path) from problem


def _growing(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in (directory / "metrics.jsonl", *sorted((directory / "logs").rglob("*"))):
        name = str(path.relative_to(directory))
        if path.is_file() and _GROWING.fullmatch(name):
            yield name, path


def _append(path: Path, at: int, content: bytes) -> None:
    try:
        brought.make(path.parent)
        with path.open("ab") as file:
            if file.tell() == at:
                file.write(content)
    except OSError as problem:
        raise os_error(problem, path) from problem
