"""What the first node of a job told on its output, put where the files of a run are.

See `node_script` for its lines, and `brought` for what is taken from them.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nemotron.artifacts.atomic import os_error, write_bytes
from nemotron.launch import brought

_METRICS = "metrics.jsonl"
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
    return brought.keep(told.files, directory, records, more=(_METRICS,), over=True)


def _unpacked(packed: bytes) -> dict[str, bytes]:
    """The files of an archive that a log held; empty where it was cut off or is none."""
    try:
        archive = _decompressed(base64.b64decode(packed, validate=True))
        return brought.unpacked(archive, _METRICS.__eq__, _MOST_BYTES)
    except (ValueError, zlib.error):
        return {}


def _decompressed(data: bytes) -> bytes:
    """Out of gzip, up to what is expected: a small archive can hold very much."""
    unzip = zlib.decompressobj(wbits=31)
    plain = unzip.decompress(data, _MOST_BYTES)
    if unzip.unconsumed_tail:
        raise ValueError("more than any run leaves")
    return plain
