from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.artifacts.records import (
    PENDING,
    PHASES,
    SCHEMA,
    ArtifactRecord,
    AttemptRecord,
    Record,
    read_records,
    timestamp,
    write_record,
)
from nemotron.errors import CheckFailed, Conflict, UsageError, WorkFailed
from nemotron.findings import Finding

ENDED = AttemptRecord(
    run_id="rlhf-20261121-123005-00ff",
    attempt=1,
    phase="ended",
    at="2026-11-21T12:30:05.123Z",
    step="rl/nemo_rl/rlhf",
    engine="embedded",
    inputs={"policy": {"type": "checkpoint_hf", "reference": "hf://a/b", "path": "/m", "digest": PENDING}},
    outputs={},
    pid=7,
    exit_code=0,
    metrics={"reward": 0.5},
)
MADE = ArtifactRecord(
    id="rlhf-20261121-123005-00ff-policy",
    type="checkpoint_hf",
    path="/runs/x/outputs/policy",
    at="2026-11-22T00:00:00Z",
    fingerprint="stat:00",
    facts={"parameters": 5},
    made_by={"run_id": "rlhf-20261121-123005-00ff", "attempt": 1, "port": "policy", "step_of_training": 10},
)


def read(directory: Path, **options: list[str]) -> list[Record | Finding]:
    return list(read_records(directory, **options))


def test_records_come_back_by_day_from_files_named_for_what_they_are(tmp_path: Path) -> None:
    paths = [write_record(tmp_path, record) for record in (MADE, ENDED)]
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "2026-11-22/artifact-rlhf-20261121-123005-00ff-policy.json",
        "2026-11-21/attempt-rlhf-20261121-123005-00ff-1.ended.json",
    ]
    assert read(tmp_path) == [ENDED, MADE]
    assert read(tmp_path, days=["2026-11-22", "2026-11-30"]) == [MADE]
    assert json.loads(paths[0].read_text())["schema"] == SCHEMA


def test_the_phases_of_an_attempt_are_records_of_their_own(tmp_path: Path) -> None:
    for phase in PHASES:
        write_record(tmp_path, replace(ENDED, phase=phase))
    assert {record.phase for record in read(tmp_path) if isinstance(record, AttemptRecord)} == set(PHASES)


def test_a_record_never_changes(tmp_path: Path) -> None:
    path = write_record(tmp_path, ENDED)
    before = path.read_bytes()
    assert write_record(tmp_path, ENDED) == path
    with pytest.raises(Conflict) as caught:
        write_record(tmp_path, replace(ENDED, exit_code=1))
    assert caught.value.where == str(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(FrozenInstanceError):
        ENDED.exit_code = 1  # type: ignore[misc]


def test_what_a_newer_version_wrote_into_a_record_is_kept(tmp_path: Path) -> None:
    path = write_record(tmp_path, ENDED)
    data = {**json.loads(path.read_text()), "energy_kwh": 3.5, "nested": {"a": [1]}}
    path.write_text(json.dumps(data))
    (record,) = read(tmp_path)
    assert isinstance(record, AttemptRecord)
    assert record.extra == {"energy_kwh": 3.5, "nested": {"a": [1]}}
    assert record.as_dict() == data


def test_a_metric_that_is_no_number_does_not_cost_the_record(tmp_path: Path) -> None:
    write_record(tmp_path, replace(ENDED, metrics={"loss": float("nan")}))
    (record,) = read(tmp_path)
    assert isinstance(record, AttemptRecord)
    assert record.metrics == {"loss": "NaN"}


def half(path: Path) -> None:
    path.write_text(path.read_text()[:-20])


def empty(path: Path) -> None:
    path.write_text("")


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\x00")


def a_list(path: Path) -> None:
    path.write_text("[]")


def too_deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def without(key: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = json.loads(path.read_text())
        del data[key]
        path.write_text(json.dumps(data))

    return damage


def having(key: str, value: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return damage


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (half, "record.damaged"),
        (empty, "record.damaged"),
        (binary, "record.damaged"),
        (a_list, "record.damaged"),
        (too_deep, "record.damaged"),
        (pipe, "record.damaged"),
        (directory, "record.damaged"),
        (without("run_id"), "record.damaged"),
        (without("at"), "record.damaged"),
        (having("phase", "resting"), "record.damaged"),
        (having("attempt", "1"), "record.damaged"),
        (having("attempt", True), "record.damaged"),
        (having("attempt", None), "record.damaged"),
        (having("metrics", []), "record.damaged"),
        (without("schema"), "record.newer"),
        (having("schema", SCHEMA + 1), "record.newer"),
        (having("kind", "promotion"), "record.newer"),
    ],
)
def test_a_damaged_record_is_a_finding_and_the_others_are_read(
    tmp_path: Path, damage: Callable[[Path], None], problem: str
) -> None:
    path = write_record(tmp_path, ENDED)
    write_record(tmp_path, MADE)
    damage(path)
    finding, other = read(tmp_path)
    assert isinstance(finding, Finding)
    assert (finding.id, finding.where) == (problem, str(path))
    assert other == MADE


def test_files_that_are_still_being_written_are_passed_over(tmp_path: Path) -> None:
    day = write_record(tmp_path, ENDED).parent
    (day / ".attempt-x.0011.tmp").write_text("{")
    (day / "notes.txt").write_text("x")
    (tmp_path / "not-a-day").mkdir()
    (tmp_path / "not-a-day" / "x.json").write_text("{")
    assert read(tmp_path) == [ENDED]


def test_no_records_yet_is_no_error(tmp_path: Path) -> None:
    assert read(tmp_path / "missing") == []


def test_records_that_may_not_be_read_are_findings(unprivileged: Path) -> None:
    path = write_record(unprivileged, ENDED)
    for closed in (path, path.parent, unprivileged):
        closed.chmod(0o000)
        (finding,) = read(unprivileged)
        assert isinstance(finding, Finding)
        assert (finding.id, finding.where) == ("record.unreadable", str(closed))
        closed.chmod(0o700)


def test_a_place_that_cannot_hold_records_is_an_error(unprivileged: Path) -> None:
    (unprivileged / "file").touch()
    with pytest.raises(UsageError):
        write_record(unprivileged / "file" / "records", ENDED)
    unprivileged.chmod(0o555)
    with pytest.raises(WorkFailed):
        write_record(unprivileged / "records", ENDED)


@pytest.mark.parametrize(
    "record",
    [
        replace(ENDED, run_id="../../x"),
        replace(ENDED, run_id=""),
        replace(ENDED, at="yesterday"),
        replace(ENDED, at="2026-11-21T12:30:05+02:00"),
        replace(MADE, id="a/b"),
    ],
)
def test_an_id_or_time_that_cannot_name_a_file_is_refused(tmp_path: Path, record: Record) -> None:
    with pytest.raises(CheckFailed):
        write_record(tmp_path, record)
    assert list(tmp_path.iterdir()) == []


def test_all_missing_fields_are_named_at_once() -> None:
    with pytest.raises(CheckFailed) as caught:
        AttemptRecord.from_dict({"phase": "ended", "pid": "x"})
    assert "run_id, attempt, at, pid" in caught.value.what


def test_times_are_in_utc_to_the_millisecond() -> None:
    moment = datetime(2026, 11, 22, 1, 30, 5, 123456, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(moment) == "2026-11-21T23:30:05.123Z"
    assert timestamp(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"


texts = st.text(max_size=6)
whole = st.integers(-(2**63) + 1, 2**63 - 1)
mappings = st.dictionaries(texts, st.none() | whole | texts | st.lists(texts, max_size=2), max_size=3)
attempts = st.builds(
    AttemptRecord,
    run_id=texts,
    attempt=whole,
    phase=st.sampled_from(PHASES),
    at=texts,
    step=st.none() | texts,
    exit_code=st.none() | whole,
    metrics=st.none() | mappings,
    extra=st.dictionaries(texts.map(lambda key: "x_" + key), whole | texts, max_size=3),
)
artifacts = st.builds(
    ArtifactRecord,
    id=texts,
    type=texts,
    path=texts,
    at=texts,
    digest=texts,
    facts=st.none() | mappings,
    made_by=st.none() | mappings,
)


@given(attempts | artifacts)
def test_a_record_survives_json(record: Record) -> None:
    assert type(record).from_dict(json.loads(json.dumps(record.as_dict()))) == record
