"""The index: the same from any order of records, rebuilt at will, written by many at once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron.artifacts.index.database import index_directory, on_network, open_index, transaction
from nemotron.artifacts.index.queries import Index
from nemotron.artifacts.index.schema import INDEXES, TABLES, Writer
from nemotron.artifacts.index.store_index import rebuild_index, store_index
from nemotron.artifacts.records import (
    PENDING,
    ArtifactRecord,
    AttemptRecord,
    EventRecord,
    Record,
    read_records,
    write_record,
)
from nemotron.artifacts.store import Store

AT = "2026-05-{:02d}T10:00:00.000Z"


def digest_of(number: int) -> str:
    return f"blake3:{number:064x}"


def chain(length: int = 4) -> list[Record]:
    """Runs r1, r2, ...: each takes what the one before left, twice attempted, with a checkpoint pending."""
    found: list[Record] = []
    for n in range(1, length + 1):
        taken = {
            "data": {"type": "training_jsonl", "digest": digest_of(n - 1), "reference": f"run://r{n - 1}"}
        }
        common = {
            "run_id": f"r{n}",
            "step": "s/t",
            "engine": "script",
            "recipe_digest": f"blake3:{n}",
            "inputs": taken,
        }
        at = AT.format(n)
        found.append(AttemptRecord(attempt=1, phase="started", at=at, **common))
        found.append(AttemptRecord(attempt=1, phase="ended", at=at, exit_code=1, reason="killed", **common))
        found.append(AttemptRecord(attempt=2, phase="started", at=AT.format(n + 1), **common))
        ended = {"exit_code": 0, "metrics": {"loss": n / 2}, "directory": f"/runs/r{n}"}
        found.append(AttemptRecord(attempt=2, phase="ended", at=AT.format(n + 1), **common, **ended))
        made = {"run_id": f"r{n}", "port": "data"}
        found.append(
            ArtifactRecord(
                id=f"r{n}.data",
                type="training_jsonl",
                path=f"/a/{n}",
                at=at,
                digest=digest_of(n),
                made_by=made,
                bytes=n,
            )
        )
        found.append(
            ArtifactRecord(
                id=f"r{n}.step_1", type="training_jsonl", path=f"/a/{n}/1", at=at, digest=PENDING,
                made_by={**made, "step_of_training": 1},
            )
        )  # fmt: skip
    found.append(event("digest", "r1.step_1", 1, digest=digest_of(77)))
    found.append(event("digest", "r1.step_1", 2, digest=digest_of(78)))
    found.append(event("version", digest_of(1), 1, name="chats", version=1))
    found.append(event("version", digest_of(2), 2, name="chats", version=2))
    found.append(event("version", digest_of(3), 3, name="chats", version=2))
    found.append(event("alias", digest_of(1), 4, name="chats", alias="best", version=1))
    found.append(event("alias", digest_of(2), 5, name="chats", alias="best", version=2))
    found.append(event("taint", digest_of(1), 6, reason="wrong"))
    return found


def event(kind: str, subject: str, day: int, **more: object) -> EventRecord:
    return EventRecord(
        id=f"{kind}-{subject[-6:]}-{day}", event=kind, at=AT.format(day), subject=subject, **more
    )  # type: ignore[arg-type]


def empty() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(TABLES + INDEXES)
    return database


def told(database: sqlite3.Connection) -> list[tuple[object, ...]]:
    """All that an index holds, without the numbers that rows happened to get."""
    queries = (
        "SELECT ident, type FROM artifact",
        "SELECT record, ident, path, location.type, at, bytes, run_id, port, location.step, facts "
        "FROM location JOIN artifact ON artifact.id = artifact LEFT JOIN run ON run.id = run",
        "SELECT run_id, rank, step, recipe, directory, started, ended, exit_code, reason, metrics FROM run",
        "SELECT run_id, port, ident, reference FROM input JOIN run ON run.id = run "
        "JOIN artifact ON artifact.id = artifact",
        "SELECT * FROM event",
        "SELECT file FROM problem",
    )
    return [row for query in queries for row in sorted(database.execute(query).fetchall(), key=repr)]


def filled(records: Iterable[Record], batch: int) -> sqlite3.Connection:
    database = empty()
    every = list(records)
    for start in range(0, len(every), batch):
        with transaction(database):
            Writer(database).put(every[start : start + batch])
    return database


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 30), st.booleans())
def test_neither_order_nor_repetition_of_records_matters(
    chance: random.Random, batch: int, twice: bool
) -> None:
    records = chain()
    wanted = told(filled(records, len(records)))
    chance.shuffle(records)
    assert told(filled(records * 2 if twice else records, batch)) == wanted


def test_a_run_that_ended_is_told_by_its_last_attempt() -> None:
    index = Index(filled(chain(), 100))
    run = index.runs(["r2"])["r2"]
    assert (run.state, run.metrics, run.directory) == ("succeeded", {"loss": 1.0}, "/runs/r2")
    assert (run.started, run.ended) == (AT.format(2), AT.format(3))


def test_the_first_digest_of_a_pending_record_counts_and_nothing_pending_is_left_of_it() -> None:
    index = Index(filled(chain(), 3))
    assert index.ident_of_record("r1.step_1") == digest_of(77)
    assert not index.has("record:r1.step_1")
    assert index.has("record:r2.step_1")


def test_of_two_claims_to_a_version_the_earlier_counts() -> None:
    index = Index(filled(chain(), 100))
    assert [(v.version, v.subject) for v in index.versions("chats")] == [(1, digest_of(1)), (2, digest_of(2))]
    assert index.aliases("chats") == {"best": 2}
    assert index.labels(digest_of(2)) == ("chats:v2", "chats:best")
    assert index.labels(digest_of(3)) == ()


def test_taint_reaches_what_was_made_from_it() -> None:
    index = Index(filled(chain(), 100))
    found = index.tainted_above([digest_of(0), digest_of(1), digest_of(4)])
    assert set(found) == {digest_of(1), digest_of(4)}
    assert found[digest_of(4)].subject == digest_of(1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_an_index_that_grew_equals_one_that_is_rebuilt(store: Store, environ: dict[str, str]) -> None:
    records = chain()
    for start in range(0, len(records), 7):
        for record in records[start : start + 7]:
            write_record(store.records_dir, record)
        grown = told(store_index(store, environ).database)
    assert grown == told(rebuild_index(store, environ).database)
    assert len([r for r in grown if "r4" in r]) > 3


def test_a_record_within_a_settled_day_is_seen(store: Store, environ: dict[str, str]) -> None:
    first, second = chain()[4], chain()[10]
    write_record(store.records_dir, first)
    day = store.records_dir / first.at[:10]
    os.utime(day, ns=(0, 0))
    assert store_index(store, environ).has(digest_of(1))
    path = write_record(store.records_dir, replace(second, at=first.at))
    assert path.parent == day
    assert store_index(store, environ).has(digest_of(2))


def test_a_damaged_or_foreign_file_is_replaced(store: Store, environ: dict[str, str]) -> None:
    for record in chain():
        write_record(store.records_dir, record)
    wanted = told(store_index(store, environ).database)
    (file,) = (index_directory(environ) or Path()).glob("*.sqlite")
    for content in (
        b"not a database",
        b"",
        file.read_bytes()[:5000] + b"\xff" * 5000 + file.read_bytes()[10000:],
    ):
        for name in file.parent.glob(f"{file.name}-*"):
            name.unlink()
        file.write_bytes(content)
        assert told(store_index(store, environ).database) == wanted


def test_an_index_of_another_version_is_made_anew(store: Store, environ: dict[str, str]) -> None:
    write_record(store.records_dir, chain()[4])
    database = store_index(store, environ).database
    database.execute("PRAGMA user_version = 99")
    database.execute("DROP TABLE location")
    database.close()
    assert store_index(store, environ).has(digest_of(1))


def test_without_a_place_for_a_file_the_index_lives_in_memory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(store.records_dir, chain()[4])
    monkeypatch.setattr("nemotron.artifacts.index.database.index_directory", lambda environ: None)
    assert store_index(store, {}).has(digest_of(1))
    assert not list(tmp_path.rglob("*.sqlite"))


def test_a_damaged_record_is_told_and_stops_nothing(store: Store, environ: dict[str, str]) -> None:
    path = write_record(store.records_dir, chain()[4])
    (path.parent / "artifact-broken.json").write_text("{", encoding="utf-8")
    database = store_index(store, environ).database
    assert database.execute("SELECT file FROM problem").fetchall() == [
        (f"{path.parent.name}/artifact-broken.json",)
    ]
    assert Index(database).has(digest_of(1))


def test_network_file_systems_are_known_by_the_longest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "dev / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\ndev /home/me/local\\040disk xfs rw 0 0\n"
        "a@tcp:/l /lus lustre rw 0 0\n",
        encoding="utf-8",
    )
    answers = {
        "/home/me": True, "/home/me/local disk/x": False, "/homes": False, "/lus/a": True, "/tmp": False,
    }  # fmt: skip
    assert {path: on_network(Path(path), str(mounts)) for path in answers} == answers


WRITE = """
import sys
from pathlib import Path
from nemotron.artifacts.index.database import open_index, transaction
from nemotron.artifacts.index.schema import Writer
from nemotron.artifacts.records import ArtifactRecord
number, count, root, cache = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
for n in range(count):
    database = open_index(root, {"XDG_CACHE_HOME": cache}) if n % 50 == 0 else database
    digest = f"blake3:{number:08x}{n:056x}"
    made = {"run_id": f"r{n % 7}", "port": "x"}
    at = "2026-01-01T00:00:00Z"
    record = ArtifactRecord(id=f"w{number}-{n}", type="t", path="/x", at=at, digest=digest, made_by=made)
    with transaction(database):
        Writer(database).put([record])
"""


def test_eight_writers_at_once_lose_nothing_and_none_fails(store: Store, environ: dict[str, str]) -> None:
    arguments = ["200", str(store.root), environ["XDG_CACHE_HOME"]]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(n), *arguments], stderr=subprocess.PIPE)
        for n in range(8)
    ]
    said = [w.communicate(timeout=120)[1] for w in writers]
    assert [w.returncode for w in writers] == [0] * 8, said
    database = open_index(store.root, environ)
    assert database.execute("SELECT count(*) FROM location").fetchone() == (1600,)
    assert database.execute("SELECT count(*) FROM run").fetchone() == (7,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


RECORD = """
import sys
from pathlib import Path
from nemotron.artifacts.records import ArtifactRecord, AttemptRecord, write_record
from nemotron.artifacts.index.store_index import store_index
from nemotron.artifacts.store import Store
store, seed = Store(Path(sys.argv[1])), sys.argv[2]
for n in range(10_000):
    at = "2026-01-01T00:00:00.000Z"
    run = f"k{seed}-{n}"
    digest = f"blake3:{int(seed):08x}{n:056x}"
    records = [
        AttemptRecord(run_id=run, attempt=1, phase="ended", at=at, step="s/t", exit_code=0),
        ArtifactRecord(id=f"{run}.o", type="t", path="/x", at=at, digest=digest, made_by={"run_id": run}),
    ]
    for record in records:
        path = write_record(store.records_dir, record)
        print(path.name, flush=True)
    if n % 5 == 0:
        store_index(store, {"XDG_CACHE_HOME": sys.argv[3]})
"""


def killed_while_recording(store: Store, environ: dict[str, str], trials: range) -> None:
    chance = random.Random(len(trials))
    announced: list[str] = []
    for trial in trials:
        words = [sys.executable, "-c", RECORD, str(store.root), str(trial), environ["XDG_CACHE_HOME"]]
        writer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        announced.append(writer.stdout.readline().strip())
        time.sleep(chance.random() * 0.08)
        writer.send_signal(signal.SIGKILL)
        announced += [line.strip() for line in writer.stdout if line.endswith("\n")]
        writer.wait()
    found = list(read_records(store.records_dir))
    whole = [record for record in found if isinstance(record, AttemptRecord | ArtifactRecord)]
    assert len(whole) == len(found), "none is half-visible"
    assert set(announced) <= {record.file_name for record in whole}
    grown = told(store_index(store, environ).database)
    assert len(announced) >= len(trials)
    assert told(rebuild_index(store, environ).database) == grown


def test_a_recorder_killed_at_any_moment_loses_nothing_it_announced(
    store: Store, environ: dict[str, str]
) -> None:
    killed_while_recording(store, environ, range(10))


@pytest.mark.slow
def test_two_hundred_recorders_killed_at_random_moments(store: Store, environ: dict[str, str]) -> None:
    killed_while_recording(store, environ, range(200))


def test_several_processes_read_the_same_news(store: Store, environ: dict[str, str]) -> None:
    for record in chain(9):
        write_record(store.records_dir, record)
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        counts = pool.starmap(_count, [(store, environ)] * 8)
    assert set(counts) == {len(told(rebuild_index(store, environ).database))}


def _count(store: Store, environ: dict[str, str]) -> int:
    return len(told(store_index(store, environ).database))
