"""What came back of a run that wrote where nobody here sees it, put where its files are here.

The text comes from a machine that ran somebody's code: only names that are expected are taken from it, of
plain files, of a size that is expected.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from nemotron.artifacts.atomic import os_error, write_bytes, write_new
from nemotron.artifacts.run_state import RECORD_FILE

SMALL = ("inputs.json", "summary.json", "attempt.json", "failure.json")
"""Files of a run directory that are brought back whole, `record.json` beside them."""

_RECORD = re.compile(
    r"records/(\d{4}-\d\d-\d\d)/((?:attempt|artifact)-[A-Za-z0-9._-]{1,200}\.json)", re.ASCII
)


def unpacked(packed: bytes, also: Callable[[str], bool], most: int) -> dict[str, bytes]:
    """The expected files of an archive, by name.

    also: whether a name beyond the usual ones is expected. most: bytes of all files together; what is above
    is left out. Raises ValueError for what is no archive, or was cut off.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                expected = name in (*SMALL, RECORD_FILE) or _RECORD.fullmatch(name) or also(name)
                if not expected or not member.isreg() or member.size > most:
                    continue
                file = tar.extractfile(member)
                assert file is not None
                found[name] = file.read()
                most -= member.size
    except (tarfile.TarError, EOFError) as problem:
        raise ValueError(str(problem) or type(problem).__name__) from problem
    return found


def keep(
    files: Mapping[str, bytes], directory: Path, records: Path, *, more: tuple[str, ...] = (), over: bool
) -> bool:
    """Put small files into a run directory and records into its store; whether the record of its end is here.

    more: other files to be put there whole. over: nothing else of the run is still to come, and its end may
    be told. Errors: see `os_error`.
    """
    for name, content in files.items():
        found = _RECORD.fullmatch(name)
        # Another run's records are that run's to tell.
        if found and f"-{directory.name}" in found[2]:
            make(records / found[1])
            write_new(records / found[1] / found[2], content)
    for name in (*more, *SMALL):
        if name in files:
            write_bytes(directory / name, files[name])
    ended = over and _is_of_run(files.get(RECORD_FILE), directory.name)
    if ended:  # the last: it says that the run is over
        write_bytes(directory / RECORD_FILE, files[RECORD_FILE])
    return ended


def make(directory: Path) -> None:
    """Make a directory. Errors: see `os_error`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise os_error(problem, directory) from problem


def _is_of_run(record: bytes | None, run: str) -> bool:
    try:
        loaded = json.loads(record or b"")
    except ValueError:
        return False
    return isinstance(loaded, dict) and loaded.get("run_id") == run
