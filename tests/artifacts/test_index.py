"""The index: the same from any order of records, rebuilt at will, written by many at once."""

from __future__ import annotations

import contextlib
import json
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
from nemotron.artifacts.index.graph import lineage_of
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
from nemotron.errors import Conflict

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
        "SELECT record, ident, path, location.type, at, bytes, run_id, port, facts "
        "FROM location JOIN artifact ON artifact.id = artifact LEFT JOIN run ON run.id = run",
        "SELECT run_id, rank, step, recipe, directory, started, ended, exit_code, reason, metrics FROM run",
        "SELECT run_id, port, ident FROM input JOIN run ON run.id = run "
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
    assert index.aliases("chats") == {"best": digest_of(2)}
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


HOSTILE = (
    {"bytes": 2**70},
    {"made_by": {"run_id": ["x"], "port": 3, "step_of_training": [1]}},
    {"path": "/x/\udcff.jsonl"},
    {"type": "\ud800"},
    {"facts": {"\udcff": "\udcff"}},
    {"history": {"parents": [3, {"role": 1, "reference": "\udcff"}], "tool": 4}},
)


@pytest.mark.parametrize("odd", HOSTILE)
def test_an_odd_record_hides_no_other(store: Store, environ: dict[str, str], odd: dict[str, object]) -> None:
    path = write_record(store.records_dir, chain()[4])
    strange = {"schema": 1, "kind": "artifact", "id": "odd", "type": "t", "path": "/x", "at": AT.format(1)}
    strange |= {"digest": digest_of(9), **odd}
    (path.parent / "artifact-odd.json").write_text(json.dumps(strange), encoding="utf-8")
    attempt = {
        "schema": 1,
        "kind": "attempt",
        "run_id": "r",
        "attempt": 2**63,
        "phase": "ended",
        "at": AT.format(1),
    }
    (path.parent / "attempt-r-1.ended.json").write_text(json.dumps(attempt), encoding="utf-8")
    attempt |= {"attempt": 1, "inputs": {"a": "x", "b": {"digest": 3}}}
    (path.parent / "attempt-r-2.ended.json").write_text(json.dumps(attempt), encoding="utf-8")
    said = {"schema": 1, "kind": "event", "id": "v", "event": "version", "at": AT.format(1), "name": "n"}
    said |= {"subject": digest_of(1)}
    (path.parent / "event-v.json").write_text(json.dumps(said), encoding="utf-8")
    index = store_index(store, environ)
    assert index.has(digest_of(1))
    assert index.versions("n") == ()
    for ident in index.recent(None, 10):
        assert index.artifacts([ident])[ident].id == ident
        assert index.locations(ident)
    assert index.problems()


def test_a_path_that_is_not_utf8_comes_back_as_it_is(store: Store, environ: dict[str, str]) -> None:
    odd = "/x/\udcff.jsonl"
    write_record(store.records_dir, replace(chain()[4], path=odd))
    index = store_index(store, environ)
    assert index.idents_at(odd) == (digest_of(1),)
    assert index.locations(digest_of(1))[0].path == odd
    assert lineage_of(index, digest_of(1), up=2, down=2).artifacts[digest_of(1)].paths == (odd,)
    assert not index.has(f"ref:{odd}") and index.ident_of_record(odd) is None and index.run_ids(odd) == ()


def test_what_is_tainted_while_it_is_pending_stays_tainted_under_its_digest() -> None:
    records = [*chain(), event("taint", "record:r2.step_1", 7, reason="no good")]
    later = event("digest", "r2.step_1", 8, digest=digest_of(55))
    assert Index(filled(records, 100)).taint("record:r2.step_1") == "no good"
    index = Index(filled([*records, later], 100))
    assert index.taint(digest_of(55)) == "no good"
    assert index.tainted_above([digest_of(55)])[digest_of(55)].subject == digest_of(55)


def test_a_parent_known_by_its_path_is_what_lies_there(store: Store, environ: dict[str, str]) -> None:
    data = ArtifactRecord(
        id="data", type="training_jsonl", path="/a/chats.jsonl", at=AT.format(1), digest=digest_of(1)
    )
    parents = [{"role": "data", "reference": "/a/chats.jsonl"}]
    model = ArtifactRecord(
        id="model", type="checkpoint_hf", path="/a/model", at=AT.format(2), digest=digest_of(2),
        history={"tool": "trl", "parents": parents},
    )  # fmt: skip
    index = Index(filled([data, model, event("taint", digest_of(1), 3, reason="leaked")], 100))
    assert set(index.tainted_above([digest_of(2)])) == {digest_of(2)}
    up = lineage_of(index, digest_of(2), up=3, down=3)
    down = lineage_of(index, digest_of(1), up=3, down=3)
    assert digest_of(1) in up.artifacts and digest_of(2) in down.artifacts


def test_a_base_of_many_is_shown_up_to_the_limit() -> None:
    made = {"digest": digest_of(0)}
    records: list[Record] = []
    for n in range(1, 1001):
        common = {
            "run_id": f"r{n}",
            "attempt": 1,
            "phase": "ended",
            "at": AT.format(1),
            "inputs": {"base": made},
        }
        records.append(AttemptRecord(**common))  # type: ignore[arg-type]
        left = {"run_id": f"r{n}", "port": "x"}
        records.append(
            ArtifactRecord(
                id=f"r{n}.x", type="t", path=f"/{n}", at=AT.format(1), digest=digest_of(n), made_by=left
            )
        )
    found = lineage_of(Index(filled(records, 5000)), digest_of(0), up=2, down=2, limit=100)
    assert found.limited and found.cut
    assert 90 < len(found.artifacts) < 220


def test_a_first_reading_that_was_cut_off_is_made_whole(store: Store, environ: dict[str, str]) -> None:
    write_record(store.records_dir, chain()[4])
    database = store_index(store, environ).database
    database.execute("DROP INDEX location_at_path")
    database.close()
    write_record(store.records_dir, chain()[10])
    names = store_index(store, environ).database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'index'"
    )
    assert ("location_at_path",) in names.fetchall()


def test_a_record_that_could_not_be_read_is_read_later(
    store: Store, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_record(store.records_dir, chain()[4])
    os.utime(path.parent, ns=(0, 0))
    hidden = path.with_name("hidden")
    path.rename(hidden)
    path.symlink_to("nowhere")
    os.utime(path.parent, ns=(0, 0))
    first = store_index(store, environ)
    assert not first.has(digest_of(1)) and first.problems()
    path.unlink()
    hidden.rename(path)
    os.utime(path.parent, ns=(0, 0))
    second = store_index(store, environ)
    assert second.has(digest_of(1)) and not second.problems()


def test_without_room_on_the_disk_the_index_lives_in_memory(store: Store, environ: dict[str, str]) -> None:
    for record in chain(4):
        write_record(store.records_dir, record)
    store_index(store, environ).database.close()
    for record in chain(9)[20:]:
        with contextlib.suppress(Conflict):
            write_record(store.records_dir, record)
    words = [sys.executable, "-c", FULL, str(store.root), environ["XDG_CACHE_HOME"]]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


FULL = """
import resource, signal, sys
from pathlib import Path
from nemotron.artifacts.index.store_index import store_index
from nemotron.artifacts.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
print(store_index(Store(Path(sys.argv[1])), {"XDG_CACHE_HOME": sys.argv[2]}).has(f"blake3:{9:064x}"))
"""
