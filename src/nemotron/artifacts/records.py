"""Records: what happened to runs and what they left, as immutable JSON files, a directory a day.

Records are the truth that every index is rebuilt from. Standard library only: jobs write them.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from nemotron.errors import CheckFailed, Conflict
from nemotron.findings import Finding

from .atomic import json_text, os_error, write_new
from .paths import printable
from .walk import walk_files

SCHEMA = 1
PENDING = "pending"  # the digest of content that only a process with our dependencies can compute

PHASES = ("submitted", "started", "ended")
Phase = Literal["submitted", "started", "ended"]

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,180}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_LIMIT = 64 << 20


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What both kinds share; fields that a newer version added are kept in `extra`."""

    kind: ClassVar[str]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values: unset fields left out, unknown ones as they came."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        known = {name: value for name, value in own.items() if value is not None}
        return {**self.extra, **known, "schema": SCHEMA, "kind": self.kind}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The record that `as_dict` gave.

        Raises `CheckFailed` that names every field that is missing or of the wrong type.
        """
        known = {each.name: each for each in fields(cls) if each.name != "extra"}
        given = {name: data[name] for name in known if name in data}
        wrong = [name for name, each in known.items() if not _fits(each, given)]
        if wrong:
            raise CheckFailed(f"no {cls.kind} record: missing or of the wrong type: {', '.join(wrong)}")
        rest = {name: value for name, value in data.items() if name not in {*known, "schema", "kind"}}
        return cls(**given, extra=rest)


@dataclass(frozen=True, kw_only=True)
class AttemptRecord(_Record):
    """One attempt of a run, at one of its three moments.

    at: ISO time in UTC, see `timestamp`. inputs, outputs: by port, each with at least type, reference, path
    and digest. exit_code, reason, outputs and metrics are known when the attempt has ended.
    """

    kind: ClassVar[str] = "attempt"

    run_id: str
    attempt: int
    phase: Phase
    at: str
    step: str | None = None
    root: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    plan_digest: str | None = None
    recipe_digest: str | None = None
    inputs: Mapping[str, Mapping[str, Any]] | None = None
    outputs: Mapping[str, Mapping[str, Any]] | None = None
    host: str | None = None
    pid: int | None = None
    user: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    metrics: Mapping[str, Any] | None = None
    code: Mapping[str, Any] | None = None
    backend: str | None = None
    profile: str | None = None
    scheduler_id: str | None = None
    nemotron_version: str | None = None

    @property
    def file_name(self) -> str:
        """The name of its file: one for each phase of each attempt."""
        return f"attempt-{self.run_id}-{self.attempt}.{self.phase}.json"


@dataclass(frozen=True, kw_only=True)
class ArtifactRecord(_Record):
    """One artifact that is there.

    digest: `blake3:...`, or `pending` until it is computed; fingerprint: see `stat_fingerprint`.
    made_by: run_id, attempt, port, step_of_training; None for what no run of ours made.
    """

    kind: ClassVar[str] = "artifact"

    id: str
    type: str
    path: str
    at: str
    digest: str = PENDING
    fingerprint: str | None = None
    facts: Mapping[str, Any] | None = None
    made_by: Mapping[str, Any] | None = None

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"artifact-{self.id}.json"


Record = AttemptRecord | ArtifactRecord


def timestamp(moment: datetime) -> str:
    """`moment` as records hold it: ISO 8601 in UTC, to the millisecond; without a zone it is local time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_record(records_dir: Path, record: Record) -> Path:
    """Write `record` to `<records_dir>/<day>/<file_name>` and return that path.

    Writing the same record again changes nothing. Errors: `Conflict` when a different record has the name,
    `CheckFailed` when the record's own id or time cannot name a file, see also `atomic.os_error`.
    """
    name = record.run_id if isinstance(record, AttemptRecord) else record.id
    if not _ID.fullmatch(name) or not _MOMENT.fullmatch(record.at):
        raise CheckFailed(f"a record needs a plain id and a time in UTC, not {name!r} and {record.at!r}")
    path = records_dir / record.at[:10] / record.file_name
    data = json_text(record.as_dict()).encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if write_new(path, data) or path.read_bytes() == data:
            return path
    except OSError as exc:
        raise os_error(exc, path) from exc
    raise Conflict(f"another {record.kind} record has this name; records never change", where=printable(path))


def read_records(records_dir: Path, *, days: Collection[str] | None = None) -> Iterator[Record | Finding]:
    """All records below `records_dir`, or those of some days (`YYYY-MM-DD`), by day and then by file name.

    A damaged record, and one that this version cannot read, comes as a finding in its place. Files that are
    still being written are passed over.
    """
    for day in _entries(records_dir):
        if isinstance(day, Finding):
            yield day
        elif _DAY.fullmatch(day.name) and (days is None or day.name in days):
            for file in _entries(day):
                if isinstance(file, Finding):
                    yield file
                elif file.suffix == ".json" and not file.name.startswith("."):
                    yield _read(file)


def _entries(directory: Path) -> list[Path] | list[Finding]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as exc:
        return [_finding("unreadable", directory, f"cannot be listed: {(exc.strerror or str(exc)).lower()}")]


def _read(file: Path) -> Record | Finding:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT:
            return _finding("damaged", file, "not a record file")
        data = json.loads(file.read_bytes().decode("utf-8"))
    except OSError as exc:
        return _finding("unreadable", file, f"cannot be read: {(exc.strerror or str(exc)).lower()}")
    except (ValueError, RecursionError) as exc:
        return _finding("damaged", file, f"a record that is not JSON: {exc}")
    if not isinstance(data, dict):
        return _finding("damaged", file, "a record that is no JSON object")
    schema, kind = data.get("schema"), data.get("kind")
    if not isinstance(schema, int) or schema > SCHEMA:
        return _finding("newer", file, f"a record of schema {schema!r}, this version reads up to {SCHEMA}")
    for known in (AttemptRecord, ArtifactRecord):
        if kind == known.kind:
            try:
                return known.from_dict(data)
            except CheckFailed as exc:
                return _finding("damaged", file, exc.what)
    return _finding("newer", file, f"a record of the kind {kind!r}, which this version does not know")


def _finding(name: str, path: Path, message: str) -> Finding:
    return Finding(f"record.{name}", "warning", message, printable(path))


def _fits(each: Field[Any], given: Mapping[str, Any]) -> bool:
    """Whether the JSON value of a field is what its annotation says."""
    if each.name not in given:
        return each.default is not MISSING
    value = given[each.name]
    wanted = str(each.type).removesuffix(" | None")
    if value is None:
        return wanted != each.type
    if wanted == "Phase":
        return value in PHASES
    return type(value) is {"str": str, "int": int}.get(wanted, dict)


def stat_fingerprint(path: Path) -> str:
    """`stat:<hex>` over names, sizes and modification times of all files at `path`, no content read.

    A job that cannot compute digests leaves this; it tells later whether the files are still those. Errors:
    those of `walk.walk_files`.
    """
    import hashlib  # 3 ms that listing runs does not need

    hasher = hashlib.sha256()
    for file in walk_files(path):
        numbers = f"{file.stat.st_size} {file.stat.st_mtime_ns}"
        hasher.update(f"{len(file.relpath)} ".encode() + file.relpath + f" {numbers}\n".encode())
    return f"stat:{hasher.hexdigest()}"
