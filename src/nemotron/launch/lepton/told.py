"""What the first node of a job told on its output, put where the files of a run are.

See `node_script` for its lines. The text comes from a machine that ran somebody's code: only names that are
expected are taken from it, of plain files, of a size that is expected.
"""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nemotron.artifacts.atomic import os_error, write_bytes, write_new

# In the order in which they are written: the record last, since it says that the run is over.
_FILES = ("inputs.json", "metrics.jsonl", "attempt.json", "failure.json", "record.json")
_RECORD = re.compile(
    r"records/(\d{4}-\d\d-\d\d)/((?:attempt|artifact)-[A-Za-z0-9._-]{1,200}\.json)", re.ASCII
)
_MOST_BYTES = 32 << 20


@dataclass(frozen=True)
class Told:
    """logs: text of each attempt, by number. files: content by name, empty until the job has ended."""

    logs: Mapping[int, bytes] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def read_told(text: bytes, mark: str) -> Told:
    """What is told in the output of a first node. Lines without the mark are the trainer's."""
    line = re.compile(
        rb"^::nemotron " + re.escape(mark.encode()) + rb" (attempt (\d{1,6})|ended (\d+)|files|end)\r?$"
    )
    logs: dict[int, bytearray] = {}
    files: dict[str, bytes] = {}
    number, packed = 0, None
    for each in text.splitlines(keepends=True):
        found = line.match(each.rstrip(b"\r\n")) if each.startswith(b"::nemotron ") else None
        if found is None:
            if packed is not None:
                packed += each.strip()
            elif number:
                logs[number] += each
            continue
        word = found[1].split()[0]
        if word == b"attempt":
            number = int(found[2])
            logs.setdefault(number, bytearray())
        elif word == b"ended" and number:
            # The empty line before it is ours.
            logs[number] = logs[number][:-1] if logs[number].endswith(b"\n") else logs[number]
            number = 0
        elif word == b"files":
            packed = b""
        elif word == b"end" and packed is not None:
            files, packed = _unpacked(packed) or files, None
    return Told({n: bytes(log) for n, log in logs.items()}, files)


def keep_told(told: Told, directory: Path, records: Path) -> bool:
    """Put it into a run directory and its store; whether the record of its end is there now.

    A log that is there already is only made longer. Errors: see `os_error`.
    """
    logs = directory / "logs"
    try:
        logs.mkdir(exist_ok=True)
        for number, text in told.logs.items():
            path = logs / f"attempt-{number}.log"
            if not path.is_file() or path.stat().st_size < len(text):
                write_bytes(path, text)
    except OSError as problem:
        raise os_error(problem, logs) from problem
    record = _of_run(told.files.get("record.json"), directory.name)
    for name, content in told.files.items():
        found = _RECORD.fullmatch(name)
        # Another run's records are that run's to tell.
        if found and f"-{directory.name}" in found[2]:
            place = records / found[1] / found[2]
            place.parent.mkdir(parents=True, exist_ok=True)
            write_new(place, content)
    for name in _FILES:
        if name in told.files and (name != "record.json" or record):
            write_bytes(directory / name, told.files[name])
    return record


def _of_run(record: bytes | None, run: str) -> bool:
    try:
        loaded = json.loads(record or b"")
    except ValueError:
        return False
    return isinstance(loaded, dict) and loaded.get("run_id") == run


def _unpacked(packed: bytes) -> dict[str, bytes]:
    """The files of an archive that a log held; empty where it was cut off or is none."""
    found: dict[str, bytes] = {}
    left = _MOST_BYTES
    try:
        archive = base64.b64decode(packed, validate=True)
        with tarfile.open(fileobj=io.BytesIO(_decompressed(archive))) as tar:
            for member in tar:
                expected = member.name in _FILES or _RECORD.fullmatch(member.name)
                if not expected or not member.isreg() or member.size > left:
                    continue
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
                left -= member.size
    except (ValueError, zlib.error, tarfile.TarError, EOFError):
        return {}
    return found


def _decompressed(data: bytes) -> bytes:
    """Out of gzip, up to what is expected: a small archive can hold very much."""
    unzip = zlib.decompressobj(wbits=31)
    plain = unzip.decompress(data, _MOST_BYTES)
    if unzip.unconsumed_tail:
        raise ValueError("more than any run leaves")
    return plain
