"""Records: what happened to runs and what they left, as immutable JSON files, a directory a day.

Records are the truth that every index is rebuilt from. Standard library only: jobs write them.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

from nemotron.errors import CheckFailed, Conflict
from nemotron.findings import Finding

from .atomic import json_text, os_error, write_new
from .paths import printable
from .walk import walk_files

SCHEMA = 1
PENDING = "pending"  # the digest of content that only a process with our dependencies can compute

PHASES = ("submitted", "started", "ended", "settled")
Phase = Literal["submitted", "started", "ended", "settled"]
EVENTS = ("version", "alias", "taint", "untaint", "digest")
Event = Literal["version", "alias", "taint", "untaint", "digest"]

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,180}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_LIMIT = 64 << 20
_USUAL = 64 << 10
_INTEGER = 1 << 63  # what an index can hold


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
        form = _form(cls.kind)
        given: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        wrong = []
        for name, value in data.items():
            wanted = form.wanted.get(name)
            if wanted is None:
                if name not in ("schema", "kind"):
                    extra[name] = value
            elif value is None:
                if name not in form.nullable:
                    wrong.append(name)
            elif type(value) is wanted or (type(wanted) is tuple and value in wanted):
                given[name] = value
            else:
                wrong.append(name)
        wrong += [name for name in form.required if name not in data]
        wrong += [name for name, value in given.items() if type(value) is int and abs(value) >= _INTEGER]
        if wrong:
            named = ", ".join(name for name in form.wanted if name in wrong)
            raise CheckFailed(f"no {cls.kind} record: missing or of the wrong type: {named}")
        record = object.__new__(cls)
        # As `cls(**given, extra=extra)`, in a third of the time: an index reads records by the 100,000.
        record.__dict__.update(form.defaults)
        record.__dict__.update(given)
        record.__dict__["extra"] = extra
        return record


@dataclass(frozen=True, kw_only=True)
class AttemptRecord(_Record):
    """One attempt of a run, at one of its moments; `settled` is the end, told again with all inputs known.

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
    directory: str | None = None
    config_name: str | None = None

    @property
    def file_name(self) -> str:
        """The name of its file: one for each phase of each attempt."""
        return f"attempt-{self.run_id}-{self.attempt}.{self.phase}.json"


@dataclass(frozen=True, kw_only=True)
class ArtifactRecord(_Record):
    """One artifact that is there.

    digest: `blake3:...`, or `pending` until it is computed; fingerprint: see `stat_fingerprint`.
    made_by: run_id, attempt, port, step_of_training; None for what no run of ours made.
    history: what the artifact itself tells of how it was made elsewhere: `source` (which file told it) and
    `parents`, each with at least role and reference.
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
    files: int | None = None
    bytes: int | None = None
    user: str | None = None
    history: Mapping[str, Any] | None = None

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"artifact-{self.id}.json"


@dataclass(frozen=True, kw_only=True)
class EventRecord(_Record):
    """Something that was said of an artifact after it was made.

    event: `version` (subject is version `version` of `name`), `alias` (`alias` of `name` now means version
    `version`; None takes the alias away), `taint` and `untaint` (with a reason), `digest` (the content of
    the artifact record `subject` was computed).
    subject: the digest of an artifact; for `digest` the id of an artifact record.
    waived: what was known to speak against it and was set aside by name.
    """

    kind: ClassVar[str] = "event"

    id: str
    event: Event
    at: str
    subject: str
    name: str | None = None
    version: int | None = None
    alias: str | None = None
    digest: str | None = None
    reason: str | None = None
    waived: Mapping[str, str] | None = None
    user: str | None = None
    host: str | None = None

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"event-{self.id}.json"


Record = AttemptRecord | ArtifactRecord | EventRecord
RECORDS: Mapping[str, type[Record]] = MappingProxyType(
    {each.kind: each for each in (AttemptRecord, ArtifactRecord, EventRecord)}
)


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
                    yield read_record(file)


def _entries(directory: Path) -> list[Path] | list[Finding]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as exc:
        return [_finding("unreadable", directory, f"cannot be listed: {(exc.strerror or str(exc)).lower()}")]


def read_record(file: str | Path) -> Record | Finding:
    """The record in a file; one that is damaged or that this version cannot read comes as a finding."""
    try:
        # Not blocking: what stands in a record's place may be a pipe.
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            text = os.read(handle, _USUAL)
            if len(text) == _USUAL:
                if not stat.S_ISREG(os.fstat(handle).st_mode) or os.fstat(handle).st_size > _LIMIT:
                    return _finding("damaged", file, "not a record file")
                while more := os.read(handle, _LIMIT):
                    text += more
        finally:
            os.close(handle)
        data = json.loads(text.decode("utf-8"))
    except IsADirectoryError:
        return _finding("damaged", file, "not a record file")
    except OSError as exc:
        return _finding("unreadable", file, f"cannot be read: {(exc.strerror or str(exc)).lower()}")
    except (ValueError, RecursionError) as exc:
        return _finding("damaged", file, f"a record that is not JSON: {exc}")
    if not isinstance(data, dict):
        return _finding("damaged", file, "a record that is no JSON object")
    schema, kind = data.get("schema"), data.get("kind")
    if not isinstance(schema, int) or schema > SCHEMA:
        return _finding("newer", file, f"a record of schema {schema!r}, this version reads up to {SCHEMA}")
    known = RECORDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        return _finding("newer", file, f"a record of the kind {kind!r}, which this version does not know")
    try:
        return known.from_dict(data)
    except CheckFailed as exc:
        return _finding("damaged", file, exc.what)


def _finding(name: str, path: str | Path, message: str) -> Finding:
    return Finding(f"record.{name}", "warning", message, printable(path))


class _Form(NamedTuple):
    """What the fields of a kind of record may hold: a JSON type or one of some words, and null or not."""

    wanted: Mapping[str, type | tuple[str, ...]]
    nullable: frozenset[str]
    required: tuple[str, ...]
    defaults: Mapping[str, Any]


@functools.cache
def _form(kind: str) -> _Form:
    types: dict[str, type | tuple[str, ...]] = {"str": str, "int": int, "Phase": PHASES, "Event": EVENTS}
    own = {each.name: each for each in fields(RECORDS[kind]) if each.name != "extra"}
    texts = {name: str(each.type) for name, each in own.items()}
    return _Form(
        wanted={name: types.get(text.removesuffix(" | None"), dict) for name, text in texts.items()},
        nullable=frozenset(name for name, text in texts.items() if text.endswith(" | None")),
        required=tuple(name for name, each in own.items() if each.default is MISSING),
        defaults={name: each.default for name, each in own.items() if each.default is not MISSING},
    )


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
