"""Records of a store with a URL: every client ends with the same set, whoever dies and whenever."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron.artifacts import mirror
from nemotron.artifacts.mirror import Synced, sync_records
from nemotron.artifacts.records import ArtifactRecord, write_record
from nemotron.artifacts.store import Store, find_store
from nemotron.errors import CheckFailed, Conflict, SchedulerError, UsageError

COUNT = itertools.count()
PASSWORD = "s3cretPassword"


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for records that nobody has used."""
    if request.param == "file":
        yield f"file://{tmp_path}/shared/records of us"
        return
    place = f"memory://{tmp_path.name}-{next(COUNT)}"
    yield place
    fsspec.filesystem("memory").rm(place, recursive=True) if fsspec.filesystem("memory").exists(
        place
    ) else None


@pytest.fixture
def client(tmp_path: Path, url: str) -> Callable[[str], Store]:
    """`client("a")`: the store of one of several machines."""
    return lambda name: Store(tmp_path / name, url)


def put(store: Store, name: str, day: str = "2026-03-01") -> str:
    """One record in the store here; its file below the records."""
    record = ArtifactRecord(id=name, type="training_jsonl", path="/x", at=f"{day}T01:02:03Z")
    write_record(store.records_dir, record)
    return f"{day}/artifact-{name}.json"


def here(store: Store) -> dict[str, bytes]:
    """All records here; what a killed writer left is none."""
    files = store.records_dir.rglob("[!.]*")
    return {str(p.relative_to(store.records_dir)): p.read_bytes() for p in files if p.is_file()}


def there(url: str) -> dict[str, bytes]:
    """All records at the URL."""
    system, base = fsspec.core.url_to_fs(f"{url}/records")
    return {name[len(base) + 1 :]: system.cat_file(name) for name in system.find(base) if "/." not in name}


def test_what_one_client_records_the_others_get(client: Callable[[str], Store], url: str) -> None:
    a, b = client("a"), client("b")
    names = {put(a, "one"), put(a, "two", "2026-03-02"), put(b, "three")}
    first = sync_records(a)
    assert (first.pushed, first.pulled) == (2, 0)
    second = sync_records(b)
    assert (second.pushed, second.pulled) == (1, 2)
    assert sync_records(a).pulled == 1
    assert here(a) == here(b) == there(url)
    assert set(here(a)) == names


def test_days_that_nobody_changed_are_not_listed_again(client: Callable[[str], Store]) -> None:
    a, b = client("a"), client("b")
    for number in range(20):
        put(a, f"r{number}", f"2026-03-{number + 1:02}")
    sync_records(a)
    sync_records(b)
    sync_records(a), sync_records(b)
    assert sync_records(a) == sync_records(b) == Synced()
    put(b, "late", "2026-03-05")
    assert sync_records(b) == Synced(pushed=1, listed=1)
    assert sync_records(a) == Synced(pulled=1, listed=1), "an old day that was added to is found"
    assert sync_records(a) == Synced()


@pytest.mark.parametrize("moment", ["_write_mark", "_pull"])
def test_a_record_that_comes_while_a_day_is_compared_is_not_overlooked(
    client: Callable[[str], Store], url: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    a, b = client("a"), client("b")
    put(b, "zero")
    sync_records(b)
    if moment == "_write_mark":
        put(a, "one")
    method = getattr(mirror._Synchronisation, moment)

    def late(self: Any, *args: Any) -> Any:
        put(a, "two")
        return method(self, *args)

    monkeypatch.setattr(mirror._Synchronisation, moment, late)
    sync_records(a)
    monkeypatch.undo()
    assert sync_records(a).pushed == 1
    assert set(there(url)) == set(here(a))


def test_a_store_without_a_url_has_nothing_to_do(tmp_path: Path) -> None:
    assert sync_records(Store(tmp_path / "plain")) == Synced()
    assert not (tmp_path / "plain").exists()


def test_a_new_client_gets_what_was_put_there_without_marks(client: Callable[[str], Store], url: str) -> None:
    """As `aws s3 sync` leaves it."""
    system, base = fsspec.core.url_to_fs(url)
    system.makedirs(f"{base}/records/2026-01-01", exist_ok=True)
    system.pipe_file(f"{base}/records/2026-01-01/artifact-x.json", b'{"schema": 1}')
    assert sync_records(client("a")).pulled == 1


def test_what_was_put_into_a_known_day_without_a_mark_is_found_within_a_week(
    client: Callable[[str], Store], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = client("a")
    put(a, "one")
    sync_records(a), sync_records(a)
    system, base = fsspec.core.url_to_fs(url)
    system.pipe_file(f"{base}/records/2026-03-01/artifact-x.json", b"{}")
    assert sync_records(a).pulled == 0
    now = time.time()
    monkeypatch.setattr(mirror.time, "time", lambda: now + 8 * 86400)
    assert sync_records(a).pulled == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("artifact-x.json", b"not json"),
        ("artifact-x.json", b"[1]"),
        ("artifact-x.json", b"[" * 100_000),
        ("artifact-x.json", b""),
        (".hidden.json", b"{}"),
        ("artifact-x.json.tmp", b"{}"),
        ("a b.json", b"{}"),
    ],
)
def test_what_is_no_record_is_left_there(
    client: Callable[[str], Store], url: str, name: str, content: bytes
) -> None:
    system, base = fsspec.core.url_to_fs(url)
    system.makedirs(f"{base}/records/2026-01-01", exist_ok=True)
    system.pipe_file(f"{base}/records/2026-01-01/{name}", content)
    a = client("a")
    assert sync_records(a).pulled == 0
    assert here(a) == {}
    put(a, "mine")
    assert sync_records(a).pushed == 1


def test_two_records_of_one_name_and_different_size_are_told(
    client: Callable[[str], Store], url: str
) -> None:
    a = client("a")
    name = put(a, "one")
    system, base = fsspec.core.url_to_fs(url)
    system.makedirs(f"{base}/records/2026-03-01", exist_ok=True)
    system.pipe_file(f"{base}/records/{name}", b"{}")
    before = here(a)
    assert [f.id for f in sync_records(a).findings] == ["mirror.differs"]
    assert here(a) == before, "records never change"


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b'{"schema": 1}', b'{"schema": 99}', b"\xff", b'{"days": {"x": 1}}']
)
def test_a_damaged_memory_is_seen_anew(client: Callable[[str], Store], url: str, damage: bytes) -> None:
    a = client("a")
    put(a, "one")
    sync_records(a)
    put(a, "two")
    (a.root / mirror.MEMORY_FILE).write_bytes(damage)
    assert sync_records(a).pushed == 1
    assert set(there(url)) == set(here(a))


def test_the_memory_of_one_url_says_nothing_of_another(tmp_path: Path) -> None:
    a = Store(tmp_path / "a", f"file://{tmp_path}/one")
    put(a, "one")
    sync_records(a)
    other = Store(a.root, f"file://{tmp_path}/two")
    assert sync_records(other).pushed == 1


class Crash(BaseException):
    """The client dies here."""


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.lists(st.sampled_from(["2026-03-01", "2026-03-02", "2025-12-31"]), max_size=2),
        st.integers(0, 12),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(ACTIONS)
def test_whenever_clients_die_all_end_with_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, list[str], int]]
) -> None:
    """Each action: a client records something, and its synchronisation dies after so many operations."""
    root = tmp_path_factory.mktemp("clients")
    url = f"memory://clients-{next(COUNT)}"
    stores = {name: Store(root / name, url) for name in "abc"}
    names = set()
    for client, days, operations in actions:
        names |= {put(stores[client], f"r{next(COUNT)}", day) for day in days}
        left = iter(range(operations))
        with pytest.MonkeyPatch.context() as patch:
            for owner, method in (
                (mirror._Synchronisation, "_put"),
                (mirror._Synchronisation, "_pull"),
                (mirror._Synchronisation, "_names"),
                (mirror._Memory, "write"),
            ):
                patch.setattr(owner, method, dying(getattr(owner, method), left))
            with contextlib.suppress(Crash):
                sync_records(stores[client])
    for _ in range(2):
        for store in stores.values():
            sync_records(store)
    assert set(there(url)) == names
    for store in stores.values():
        assert here(store) == there(url)
    for store in stores.values():
        sync_records(store)
        assert sync_records(store) == Synced(), "and then there is nothing left to do"


def dying(method: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    """The method, until nothing is left."""

    def call(*args: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise Crash
        return method(*args, **named)

    return call


def record_for_ever(root: Path, url: str, name: str) -> None:
    store = Store(root, url)
    for number in itertools.count():
        put(store, f"{name}-{number}")
        sync_records(store)


def test_killed_clients_lose_nothing_and_leave_nothing_half(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/shared"
    fork = multiprocessing.get_context("spawn")
    for trial in range(3):
        clients = [
            fork.Process(target=record_for_ever, args=(tmp_path / name, url, f"{name}{trial}"))
            for name in "ab"
        ]
        for process in clients:
            process.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len(list((tmp_path / "shared").rglob("*.json"))) < 10 * (
            trial + 1
        ):
            time.sleep(0.02)
        for process in clients:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
    stores = [Store(tmp_path / name, url) for name in "abc"]
    for _ in range(2):
        for store in stores:
            sync_records(store)
    assert len(here(stores[2])) >= 10
    assert here(stores[0]) == here(stores[1]) == here(stores[2])
    for content in here(stores[2]).values():
        assert json.loads(content)["kind"] == "artifact"


def test_a_second_command_waits_and_then_says_what_it_waits_for(tmp_path: Path) -> None:
    import fcntl

    store = Store(tmp_path / "a", f"file://{tmp_path}/shared")
    store.root.mkdir()
    with (store.root / mirror.LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Conflict):
            sync_records(store, patience=0.1)
    assert sync_records(store, patience=0.1) == Synced()


def test_without_a_network_it_is_exit_6(tmp_path: Path) -> None:
    store = Store(tmp_path / "a", "ftp://127.0.0.1:1/records")
    put(store, "one")
    with pytest.raises(SchedulerError) as caught:
        sync_records(store)
    assert caught.value.exit_code == 6
    assert "ftp://127.0.0.1:1/records" in str(caught.value.where)


def test_a_missing_driver_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(CheckFailed) as caught:
        sync_records(Store(tmp_path / "a", "s3://bucket/team"))
    assert caught.value.next == "pip install 'nemotron[s3]'"


def test_a_url_is_a_home(tmp_path: Path) -> None:
    environ = {"NEMOTRON_HOME": "s3://bucket/team/", "XDG_STATE_HOME": str(tmp_path)}
    store = find_store(environ, tmp_path)
    assert store.remote == "s3://bucket/team"
    assert store.root.parent == tmp_path / "nemotron/stores"
    assert find_store(environ | {"NEMOTRON_HOME": "S3://bucket/team"}, tmp_path / "x") == store
    assert find_store(environ | {"NEMOTRON_HOME": "s3://bucket/other"}, tmp_path).root != store.root
    assert find_store({**environ, "XDG_STATE_HOME": ""}, tmp_path).root.is_relative_to(
        Path.home() / ".local/state"
    )


@pytest.mark.parametrize(
    ("home", "named"),
    [
        (f"s3://key:{PASSWORD}@bucket/team", "user name"),
        (f"sftp://me:{PASSWORD}@host/records", "user name"),
        (f"s3://bucket/team?X-Amz-Signature={PASSWORD}", "credential"),
        ("s3://bucket/team?a=1", "no place"),
        ("s3://", "no place"),
        ("https://host/store", "https://"),
        ("s33://bucket/team", "s3://"),
    ],
)
def test_a_home_that_cannot_be_is_refused_without_its_password(tmp_path: Path, home: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_store({"NEMOTRON_HOME": home, "XDG_STATE_HOME": str(tmp_path)}, tmp_path)
    text = caught.value.render()
    assert named in text
    assert caught.value.where == "NEMOTRON_HOME"
    assert PASSWORD not in text


def test_a_run_of_a_store_with_a_url_leaves_records_for_the_others(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEMOTRON_HOME", f"file://{tmp_path}/shared")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    done = cli("steps", "run", "make/rows", "--json")
    assert done.code == 0, done.err
    store = find_store(os.environ, tmp_path)
    assert Path(done.json["directory"]).is_relative_to(store.root)
    assert sync_records(store).pushed == 0 < len(here(store)), "the launch brought them there"
    other = Store(tmp_path / "other", store.remote)
    sync_records(other)
    assert here(other) == here(store)


def test_a_store_whose_url_does_not_answer_is_told_and_stops_nothing(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(store: Store) -> None:
        raise SchedulerError("the bucket does not answer")

    monkeypatch.setenv("NEMOTRON_HOME", f"file://{tmp_path}/shared")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("nemotron.artifacts.mirror.sync_records", refuse)
    done = cli("steps", "run", "make/rows", "--json")
    assert done.code == 0 and "the bucket does not answer" in done.err
    for words in (("artifacts", "list"), ("runs", "list")):
        done = cli(*words)
        assert done.code == 0 and "the bucket does not answer" in done.err and "make-rows" in done.out
