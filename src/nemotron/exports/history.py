"""All that the records and the directory of a run say of it, attempt by attempt, for whoever tells it on."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemotron.artifacts.records import (
    PENDING,
    PHASES,
    ArtifactRecord,
    AttemptRecord,
    read_record,
    timestamp,
)
from nemotron.artifacts.runs import Run
from nemotron.artifacts.urls import redacted
from nemotron.findings import Finding

# What stands in a query of these is ours, and says which artifact is meant.
_OWN_SCHEMES = frozenset({"art", "file", "hf", "in", "out", "run", "step"})


@dataclass(frozen=True)
class Item:
    """One artifact as it went into an attempt or came out of it.

    path: absolute, or a URL without login and query. digest: None while it is not computed.
    reference: how the input was named. made_by: id of the run that made an input, where one of ours did.
    step_of_training: of a checkpoint. facts: what the check of its type told.
    """

    port: str
    type: str
    path: str
    digest: str | None = None
    reference: str | None = None
    made_by: str | None = None
    step_of_training: int | None = None
    files: int | None = None
    bytes: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int | None:
        """How many rows it holds, where that was counted."""
        rows = self.facts.get("rows")
        return rows if type(rows) is int else None


@dataclass(frozen=True)
class Attempt:
    """One attempt of a run.

    phases: its records by phase; at least one. ended_at: ISO time; of an attempt that left no record of its
    end the time of its last sign of life, None while it is going on.
    """

    number: int
    phases: Mapping[str, AttemptRecord]
    inputs: tuple[Item, ...]
    outputs: tuple[Item, ...]
    ended_at: str | None

    @property
    def record(self) -> AttemptRecord:
        """Its latest record."""
        return next(self.phases[phase] for phase in reversed(PHASES) if phase in self.phases)

    @property
    def started_at(self) -> str:
        """When it started; when it was first heard of, where no record of the start is left."""
        first = self.phases.get("started") or next(self.phases[p] for p in PHASES if p in self.phases)
        return first.at


@dataclass(frozen=True)
class History:
    """A run and its attempts, the first one first. findings: records that cannot be read."""

    run: Run
    attempts: tuple[Attempt, ...]
    findings: tuple[Finding, ...] = ()


def history_of(run: Run, records_dir: Path) -> History:
    """What is known of a run. No record of another run is read, however many there are."""
    name = glob.escape(run.id)
    found, findings = [], []
    for pattern in (f"*/attempt-{name}-*.json", f"*/artifact-{name}.*.json"):
        for path in sorted(records_dir.glob(pattern)):
            record = read_record(path)
            if isinstance(record, Finding):
                findings.append(record)
            else:
                found.append(record)
    phases: dict[int, dict[str, AttemptRecord]] = {}
    made: list[ArtifactRecord] = []
    for record in found:
        if isinstance(record, AttemptRecord) and record.run_id == run.id:
            phases.setdefault(record.attempt, {})[record.phase] = record
        elif isinstance(record, ArtifactRecord) and (record.made_by or {}).get("run_id") == run.id:
            made.append(record)
    numbers = sorted(phases)
    going_on = run.state() == "running"
    attempts = tuple(
        Attempt(
            number,
            phases[number],
            _inputs(run, phases[number]),
            _outputs(run, phases[number], [m for m in made if (m.made_by or {}).get("attempt") == number]),
            None
            if going_on and number == numbers[-1] and "ended" not in phases[number]
            else _end(run, number, phases),
        )
        for number in numbers
    )
    return History(run, attempts, tuple(findings))


def _end(run: Run, number: int, phases: Mapping[int, Mapping[str, AttemptRecord]]) -> str:
    """When an attempt ended; where nothing tells it, when its log was last written to."""
    own = phases[number]
    if "ended" in own:
        return own["ended"].at
    try:
        seen = (run.directory / "logs" / f"attempt-{number}.log").stat().st_mtime
    except OSError:
        return max(record.at for record in own.values())
    return max(timestamp(datetime.fromtimestamp(seen, UTC)), *(record.at for record in own.values()))


def _inputs(run: Run, phases: Mapping[str, AttemptRecord]) -> tuple[Item, ...]:
    planned = {i.get("port"): i for i in run.plan.get("inputs") or [] if isinstance(i, dict)}
    # The later a record, the more is known: inputs that the job found have their digest at the very end.
    last_first = sorted(phases.values(), key=lambda record: -PHASES.index(record.phase))
    bound = next((r.inputs for r in last_first if r.inputs is not None), {})
    items = []
    for port, each in bound.items():
        told = _told_by_maker(run, each)
        item = Item(
            port=port,
            type=str(each.get("type")),
            path=shown_url(str(each.get("path"))),
            digest=_known(each.get("digest")),
            reference=shown_url(str(each["reference"])) if each.get("reference") else None,
            made_by=each.get("made_by"),
            files=told.get("files"),
            bytes=told.get("bytes"),
            facts=told.get("facts") or (planned.get(port) or {}).get("facts") or {},
        )
        items.append(item)
    return tuple(items)


def _told_by_maker(run: Run, bound: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the run that made an input says of it; nothing where none of ours did, or it is gone."""
    if not bound.get("made_by"):
        return {}
    outputs = Run(run.directory.parent / str(bound["made_by"])).outputs.values()
    return next((o for o in outputs if o.get("digest") == bound.get("digest")), {})


def _outputs(run: Run, phases: Mapping[str, AttemptRecord], made: list[ArtifactRecord]) -> tuple[Item, ...]:
    """What the record of the end names, and every other artifact that the attempt left, each once."""
    items: dict[tuple[str, str], Item] = {}
    ended = phases.get("ended")
    for port, each in ((ended.outputs if ended else None) or {}).items():
        path = str(each.get("path"))
        items[port, path] = Item(
            port=port,
            type=str(each.get("type")),
            path=shown_url(path),
            digest=_known(each.get("digest")),
            step_of_training=each.get("step_of_training"),
        )
    for record in made:
        by = record.made_by or {}
        port = str(by.get("port"))
        known = items.get((port, record.path)) or Item(port, record.type, shown_url(record.path))
        items[port, record.path] = replace(
            known,
            type=record.type,
            digest=_known(record.digest) or known.digest,
            step_of_training=by.get("step_of_training", known.step_of_training),
            files=record.files,
            bytes=record.bytes,
            facts=record.facts or {},
        )
    return tuple(_settled(items, run))


def _settled(items: Mapping[tuple[str, str], Item], run: Run) -> Iterator[Item]:
    """Each item with what only `outputs.json` says of it."""
    outputs = run.outputs
    for (port, path), item in items.items():
        told = outputs.get(port) or {}
        if told.get("path") != path:
            yield item
            continue
        yield replace(
            item,
            digest=item.digest or _known(told.get("digest")),
            files=told.get("files") if item.files is None else item.files,
            bytes=told.get("bytes") if item.bytes is None else item.bytes,
            facts=item.facts or told.get("facts") or {},
        )


def shown_url(text: str) -> str:
    """A reference or path as others may see it: a URL of somebody else's without login and query."""
    return text if text.partition("://")[0] in _OWN_SCHEMES else redacted(text)


def _known(digest: Any) -> str | None:
    return digest if isinstance(digest, str) and digest not in ("", PENDING) else None
