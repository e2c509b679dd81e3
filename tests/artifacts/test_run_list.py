"""Lists of runs: from the names of records, whatever else lies there, and however many there are."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.artifacts import run_list
from nemotron.artifacts.records import AttemptRecord, write_record
from nemotron.artifacts.run_list import find_run, list_runs
from nemotron.artifacts.store import Store
from nemotron.errors import NotFound, UsageError

RECORD = AttemptRecord(
    run_id="rlhf-20261121-123005-00ff",
    attempt=1,
    phase="ended",
    at="2026-11-21T12:30:05.123Z",
    step="rl/nemo_rl/rlhf",
    engine="embedded",
    exit_code=0,
    user="ada",
    host="node7",
    directory="/no/such/place/rlhf-20261121-123005-00ff",
    metrics={"train/reward": 2.5},
    extra={"config_name": "tiny"},
)
# What one process of the big test does: records COUNT runs of its own, as launches of one second would.
WRITER = """
import sys
from nemotron.artifacts.records import AttemptRecord, write_record
from pathlib import Path
place, writer, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
model = {"type": "checkpoint_hf", "path": "/data/" + "x" * 60, "reference": "/data/" + "x" * 60,
         "digest": "blake3:" + "a" * 64}
inputs = dict.fromkeys(("policy", "prompts", "reward_model", "validation"), model)
metrics = {f"train/metric_{n}": n / 7 for n in range(20)} | {"train/reward": 2.5}
for number in range(count):
    run = f"rl-rlhf-20261121-12{number // 60:02d}{number % 60:02d}-{writer:02x}{number % 256:02x}"
    for phase, more in (("started", {}), ("ended", {"exit_code": 0, "metrics": metrics})):
        write_record(place, AttemptRecord(
            run_id=run, attempt=1, phase=phase, at="2026-11-21T12:30:05.123Z", step="rl/nemo_rl/rlhf",
            root="nemotron", engine="embedded", engine_version="torch 2.9.0, transformers 5.0, trl 1.16",
            plan_digest="blake3:" + "b" * 64, recipe_digest="blake3:" + "c" * 64, inputs=inputs, outputs={},
            host=f"node{writer}", pid=7, user="ada", code={"embedded": "blake3:" + "d" * 64}, backend="local",
            nemotron_version="0.1.0", directory=f"/scratch/{writer}/runs/{run}", **more))
"""

# The floor of any list that is told by records: each run's last one is read and parsed.
READER = """
import json, pathlib, sys
for file in pathlib.Path(sys.argv[1]).glob("*/*.ended.json"):
    json.loads(file.read_bytes())
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def record(store: Store, run_id: str, phase: str = "ended", **changes: Any) -> Path:
    stamp = run_id.split("-")[-3]
    at = changes.pop("day", f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:]}") + "T12:30:05.123Z"
    more: dict[str, Any] = {"exit_code": None, "metrics": None} if phase != "ended" else {}
    made = replace(RECORD, run_id=run_id, phase=phase, at=at, **more | changes)
    return write_record(store.records_dir, made)


def run_directory(store: Store, run_id: str, *, locked: bool = False) -> Path:
    place = store.runs_dir / run_id
    (place / "logs").mkdir(parents=True)
    (place / "lock").touch()
    return place


def states(store: Store) -> dict[str, str]:
    listing = list_runs(store, 100)
    assert listing.findings == ()
    return {run.run: run.state for run in listing.runs}


def test_an_empty_store_has_no_runs(store: Store) -> None:
    assert list_runs(store, 20).runs == ()
    assert not store.root.exists()


def test_a_run_is_listed_as_its_last_record_tells(store: Store) -> None:
    record(store, "rlhf-20261121-123005-00ff")
    ((run,), findings) = (list_runs(store, 20).runs, list_runs(store, 20).findings)
    assert findings == ()
    assert (run.run, run.step, run.config, run.engine) == (
        "rlhf-20261121-123005-00ff",
        "rl/nemo_rl/rlhf",
        "tiny",
        "embedded",
    )
    assert (run.state, run.attempts, run.ended) == ("succeeded", 1, "2026-11-21T12:30:05.123Z")
    assert (run.directory, run.user) == (RECORD.directory, "ada")
    assert run.metrics == {"train/reward": 2.5}


@pytest.mark.parametrize(
    ("phase", "changes", "state"),
    [
        ("ended", {"exit_code": 0}, "succeeded"),
        ("ended", {"exit_code": 7, "reason": "trainer failed"}, "failed"),
        ("ended", {"exit_code": 130, "reason": "interrupted"}, "interrupted"),
        ("started", {}, "unknown"),
        ("started", {"directory": None}, "unknown"),
        ("submitted", {}, "unknown"),
    ],
)
def test_the_state_of_a_run_that_is_not_here(
    store: Store, phase: str, changes: dict[str, Any], state: str
) -> None:
    record(store, "a-20261121-123005-00ff", phase, **changes)
    assert states(store) == {"a-20261121-123005-00ff": state}


def test_a_run_that_began_and_is_here_is_running_while_its_lock_is_held(store: Store) -> None:
    record(store, "a-20261121-123005-00ff", "started")
    place = run_directory(store, "a-20261121-123005-00ff")
    assert states(store) == {"a-20261121-123005-00ff": "interrupted"}
    with (place / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert states(store) == {"a-20261121-123005-00ff": "running"}


def test_a_run_that_stands_elsewhere_on_this_machine_is_looked_at_there(store: Store, tmp_path: Path) -> None:
    place = tmp_path / "big/a-20261121-123005-00ff"
    (place / "logs").mkdir(parents=True)
    record(store, place.name, "started", directory=str(place))
    assert states(store) == {place.name: "interrupted"}


def test_a_run_that_ended_since_its_records_were_listed_has_ended(store: Store) -> None:
    record(store, "a-20261121-123005-00ff", "started")
    place = run_directory(store, "a-20261121-123005-00ff")
    (place / "record.json").write_text(json.dumps({"exit_code": 0, "at": "2026-11-21T13:00:00Z"}))
    (run,) = list_runs(store, 1).runs
    assert (run.state, run.ended) == ("succeeded", "2026-11-21T13:00:00Z")


def test_the_last_attempt_counts_whatever_day_it_was(store: Store) -> None:
    run_id = "a-20261121-123005-00ff"
    for attempt in (1, 2, 9, 10):
        record(store, run_id, "started", attempt=attempt, day=f"2026-11-{20 + attempt}")
        record(store, run_id, attempt=attempt, exit_code=int(attempt != 10), day=f"2026-11-{20 + attempt}")
    (run,) = list_runs(store, 20).runs
    assert (run.attempts, run.state, run.ended) == (10, "succeeded", "2026-11-30T12:30:05.123Z")
    record(store, run_id, "started", attempt=11, day="2026-12-01")
    (run,) = list_runs(store, 20).runs
    assert (run.attempts, run.state, run.ended) == (11, "unknown", None)


def test_the_newest_come_first_and_only_their_days_are_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"b-202611{day:02d}-000000-0000" for day in range(1, 29)]
    for run_id in ids:
        record(store, run_id)
    record(store, "a-20261128-000001-0000")
    looked: list[str] = []
    real = os.listdir
    monkeypatch.setattr(run_list.os, "listdir", lambda place: looked.append(str(place)) or real(place))
    listing = list_runs(store, 3)
    assert [run.run for run in listing.runs] == ["a-20261128-000001-0000", *ids[:-3:-1]]
    days = [Path(place).name for place in looked[1:]]
    assert days == ["2026-11-28", "2026-11-27", "2026-11-26"], "one more, for clocks that do not agree"


def test_only_the_records_of_runs_that_are_shown_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        record(store, f"a-20261121-0000{number:02d}-0000", "started")
        record(store, f"a-20261121-0000{number:02d}-0000")
    read: list[str] = []
    real = run_list.read_record
    monkeypatch.setattr(run_list, "read_record", lambda file: read.append(file) or real(file))
    assert len(list_runs(store, 4).runs) == len(read) == 4


def test_an_old_run_that_goes_on_today_is_in_its_old_place(store: Store) -> None:
    record(store, "a-20261101-000000-0000", day="2026-11-21")
    record(store, "b-20261120-000000-0000")
    record(store, "c-20261121-000000-0000")
    assert [run.run[0] for run in list_runs(store, 2).runs] == ["c", "b"]
    assert [run.run[0] for run in list_runs(store, 3).runs] == ["c", "b", "a"]


def test_directories_without_a_record_are_listed_too(store: Store) -> None:
    record(store, "a-20261121-000000-0000")
    place = store.runs_dir / "a-20261122-000000-0000"
    place.mkdir(parents=True)
    plan = {"recipe": {"step": "make/rows", "engine": "script"}, "config_name": "default"}
    (place / "plan.json").write_text(json.dumps(plan))
    (store.runs_dir / "without a time").mkdir()
    runs = list_runs(store, 20).runs
    assert [(run.run, run.state) for run in runs] == [
        ("a-20261122-000000-0000", "prepared"),
        ("a-20261121-000000-0000", "succeeded"),
        ("without a time", "prepared"),
    ]
    assert (runs[0].step, runs[0].config, runs[0].engine) == ("make/rows", "default", "script")
    assert runs[0].directory == str(place)


@given(
    st.lists(
        st.tuples(st.integers(1, 28), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans()),
        unique_by=lambda each: each[:2],
        max_size=12,
    ),
    st.integers(1, 14),
)
def test_a_short_list_is_the_beginning_of_the_long_one(
    runs: list[tuple[int, int, int, bool, bool]], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        for day, number, later, recorded, here in runs:
            run_id = f"a-202611{day:02d}-000000-{number:04x}"
            if recorded:
                record(store, run_id, day=f"2026-{11 + (day + later > 30)}-{(day + later - 1) % 30 + 1:02d}")
            if here:
                (store.runs_dir / run_id).mkdir(parents=True)
        whole = [run.run for run in list_runs(store, 100).runs]
        assert whole == sorted({f"a-202611{d:02d}-000000-{n:04x}" for d, n, _, r, h in runs if r or h})[::-1]
        assert [run.run for run in list_runs(store, limit).runs] == whole[:limit]


def test_what_is_no_record_of_an_attempt_is_passed_over(store: Store) -> None:
    day = record(store, "a-20261121-000000-0000").parent
    for name in ("attempt-x.json", "attempt-a-1.begun.json", "attempt-a-b.ended.json", ".attempt-a-1.x.tmp"):
        (day / name).write_text("{}")
    (day / "artifact-a-1.ended.json").write_text("{}")
    (store.records_dir / "README").write_text("not a day")
    assert states(store) == {"a-20261121-000000-0000": "succeeded"}


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"\xff", b'{"schema": 99, "kind": "attempt"}', b"[" * 9999]
)
def test_a_damaged_record_is_told_and_its_run_listed(store: Store, damage: bytes) -> None:
    file = record(store, "a-20261121-000000-0000")
    record(store, "a-20261121-000001-0000")
    file.write_bytes(damage)
    listing = list_runs(store, 20)
    assert [(r.run, r.state) for r in listing.runs] == [
        ("a-20261121-000001-0000", "succeeded"),
        ("a-20261121-000000-0000", "unknown"),
    ]
    (finding,) = listing.findings
    assert finding.where == str(file)
    run_directory(store, "a-20261121-000000-0000")
    assert list_runs(store, 20).runs[1].state == "interrupted", "its directory tells more"


def test_a_pipe_in_the_place_of_a_record_holds_nobody_up(store: Store) -> None:
    file = record(store, "a-20261121-000000-0000")
    file.unlink()
    os.mkfifo(file)
    listing = list_runs(store, 20)
    assert (listing.runs[0].state, len(listing.findings)) == ("unknown", 1)


def as_nobody(look: Callable[[], str]) -> str:
    """What `look` returns for a user who owns nothing; for anybody but root, for that user."""
    if os.geteuid() != 0:
        return look()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(write_end, look().encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as told:
        said = told.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def open_store() -> Iterator[Store]:
    """A store that every user finds the way to."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Store(Path(place) / "store")


@pytest.mark.parametrize("closed", ["records", "records/2026-11-21", "record", "runs/RUN"])
def test_what_one_may_not_read_is_told_and_the_rest_listed(open_store: Store, closed: str) -> None:
    store, run_id = open_store, "a-20261121-000000-0000"
    file = record(store, run_id, "started")
    place = run_directory(store, run_id)
    record(store, "a-20261120-000000-0000")
    target = file if closed == "record" else store.root / closed.replace("RUN", run_id)

    def look() -> str:
        listing = list_runs(store, 20)
        return " ".join(
            [*(f"{r.run[8:10]}:{r.state}" for r in listing.runs), *(f.where or "" for f in listing.findings)]
        )

    list_runs(store, 20)
    target.chmod(0)
    try:
        said = as_nobody(look)
    finally:
        target.chmod(0o755)
    wanted = {
        "records": f"21:interrupted {target}",
        "records/2026-11-21": f"21:interrupted 20:succeeded {target}",
        "record": f"21:interrupted 20:succeeded {target}",
        "runs/RUN": "21:unknown 20:succeeded",
    }
    assert said == wanted[closed]
    assert place.is_dir()


def test_a_recorded_run_is_found_by_any_beginning_of_its_id(store: Store, tmp_path: Path) -> None:
    place = tmp_path / "big/a-20261121-000000-0000"
    place.mkdir(parents=True)
    record(store, place.name, directory=str(place))
    assert find_run(store, "a-2026").directory == place
    assert find_run(store, place.name).directory == place
    with pytest.raises(NotFound, match="no run b"):
        find_run(store, "b")
    record(store, "a-20261121-000000-0001")
    with pytest.raises(UsageError) as caught:
        find_run(store, "a-2026")
    assert set(caught.value.valid) == {"a-20261121-000000-0000", "a-20261121-000000-0001"}


def test_a_recorded_run_that_is_not_here_says_where_it_is(store: Store) -> None:
    record(store, "rlhf-20261121-123005-00ff")
    with pytest.raises(NotFound) as caught:
        find_run(store, "rlhf")
    assert caught.value.where == f"node7:{RECORD.directory}"


def cpu_seconds(command: list[str], environ: dict[str, str]) -> tuple[float, str]:
    """What a whole process costs, the median of three, and what it prints."""
    costs = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        after = os.times()
        assert done.returncode == 0, done.stderr
        costs.append(sum(after[2:4]) - sum(before[2:4]))
    return sorted(costs)[1], done.stdout


@pytest.mark.slow
def test_ten_thousand_runs_that_fifty_processes_record_are_all_listed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, store.records_dir, str(n), "200"]) for n in range(50)
    ]
    assert [writer.wait(600) for writer in writers] == [0] * 50
    assert len(list(store.records_dir.glob("*/*"))) == 20_000, "and nothing unfinished"
    environ = {**os.environ, "NEMOTRON_HOME": str(store.root)}
    command = [sys.executable, "-m", "nemotron", "runs", "list", "--json", "--limit"]
    floor, _ = cpu_seconds([sys.executable, "-c", READER, str(store.records_dir)], environ)
    cost = {}
    for limit in (10_000, 20):
        cost[limit], said = cpu_seconds([*command, str(limit)], environ)
        runs = json.loads(said)["runs"]
        assert len({run["run"] for run in runs}) == limit
        assert {run["state"] for run in runs} == {"succeeded"}
        assert {run["metrics"] for run in runs} == {"train/reward 2.5"}
    print(f"CPU seconds: {cost[10_000]:.2f} for all, {cost[20]:.2f} for 20, {floor:.2f} to parse the records")
    assert cost[10_000] <= 4 * floor
    assert cost[20] <= floor
