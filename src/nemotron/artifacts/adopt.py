"""Takes in what was made before or elsewhere: checked, identified, recorded with the history it tells."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemotron.artifacts.checks import check_artifact, guess_type, known_types
from nemotron.artifacts.digest import AUTO, digest_path
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.artifacts.history import read_history
from nemotron.artifacts.index.queries import Index
from nemotron.artifacts.naming import note_digest, user_name
from nemotron.artifacts.records import ArtifactRecord, stat_fingerprint, timestamp, write_record
from nemotron.artifacts.store import Store
from nemotron.errors import CheckFailed, NotFound
from nemotron.findings import Finding, errors_in

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Added:
    """An artifact that is recorded now.

    known: whether the same content was recorded at the same place before; nothing was written then.
    """

    record: str
    digest: str
    type: str
    path: str
    known: bool
    findings: tuple[Finding, ...]
    history: Mapping[str, Any] | None


def add_artifact(
    store: Store,
    index: Index,
    path: Path,
    environ: Mapping[str, str],
    *,
    type_: str | None = None,
    level: str = AUTO,
    waived: Collection[str] = (),
    progress: Progress | None = None,
) -> Added:
    """Record the file or directory at `path`, where it lies; nothing is copied.

    type_: its type, guessed when not given. level: see `digest_path`. waived: ids of findings in spite of
    which it is taken. progress: called with bytes read and to be read.
    Raises NotFound, CheckFailed with what the check of its type found, and the errors of `digest_path`.
    """
    path = Path(os.path.realpath(path))
    type_ = type_ or guessed_type(path)
    checked = check_artifact(path, type_)
    findings = tuple(f for f in checked.findings if f.id not in waived)
    if errors_in(findings):
        raise CheckFailed(
            f"this is no whole {type_}",
            where=str(path),
            findings=findings,
            next="mend it, name another type with --type, or take it as it is: --waive ID",
        )
    # Before the content is read: a file that changes meanwhile must not pass for unchanged later.
    fingerprint = stat_fingerprint(path)
    with DigestCache.for_user(environ) as cache:
        digest = digest_path(path, cache=cache, level=level, progress=progress)
    places = [p for p in index.locations(digest.value) if p.path == str(path) and p.type == type_]
    before = next((p for p in places if p.fingerprint == fingerprint), None)
    if before is not None:
        return Added(before.record, digest.value, type_, str(path), True, findings, None)
    note_digest(store, index, path, digest.value)
    made_by = _made_here(store, path)
    told = None if made_by else read_history(path, type_)
    history = told.as_dict() if told is not None else None
    now = datetime.now(UTC)
    record = ArtifactRecord(
        id=f"added-{now:%Y%m%d-%H%M%S}-{os.urandom(4).hex()}",
        type=type_,
        path=str(path),
        at=timestamp(now),
        digest=digest.value,
        files=digest.files,
        bytes=digest.bytes,
        fingerprint=fingerprint,
        facts=checked.facts,
        made_by=made_by,
        user=user_name(),
        history=history,
    )
    write_record(store.records_dir, record)
    told_findings = told.findings if told is not None else ()
    return Added(record.id, digest.value, type_, str(path), False, (*findings, *told_findings), history)


def guessed_type(path: Path) -> str:
    """The type that `path` seems to hold. Raises NotFound, CheckFailed when it cannot be told."""
    if not path.exists():
        raise NotFound("no such file or directory", where=str(path))
    guess = guess_type(path)
    if guess is None:
        raise CheckFailed(
            "its type cannot be told from what it holds",
            where=str(path),
            valid=known_types(),
            next="name the type: --type TYPE",
        )
    return guess


def _made_here(store: Store, path: Path) -> dict[str, Any] | None:
    """The run of this store in whose directory `path` lies: it made it."""
    runs = Path(os.path.realpath(store.runs_dir))
    if not path.is_relative_to(runs) or path == runs:
        return None
    parts = path.relative_to(runs).parts
    made_by: dict[str, Any] = {"run_id": parts[0]}
    steps = [p.removeprefix("step_") for p in parts if p.startswith("step_")]
    if steps and steps[0].isdigit():
        made_by["step_of_training"] = int(steps[0])
    return made_by
