from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from pathlib import Path

import pytest
from blake3 import blake3

from nemotron.artifacts import digest_read
from nemotron.artifacts.digest import digest_path
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.errors import Conflict, WorkFailed

MIB, GIB = 1 << 20, 1 << 30
LATER = 60_000_000_000
# Far less than reading all of these files would take, far more than stopping does.
PROMPT_SECONDS = 5


def sparse(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_read.os, "cpu_count", lambda: 2)


@pytest.fixture
def seen() -> list[tuple[int, int]]:
    return []


@pytest.mark.parametrize("sizes", [[], [0], [5 * MIB], [4 * MIB, 4 * MIB, 3, 0, 2 * MIB]])
def test_progress_begins_at_nothing_and_ends_at_the_whole(
    tmp_path: Path, two_threads: None, seen: list[tuple[int, int]], sizes: list[int]
) -> None:
    tmp_path.joinpath("tree").mkdir()
    for number, size in enumerate(sizes):
        sparse(tmp_path / "tree" / str(number), size)
    digest_path(tmp_path / "tree", progress=lambda *now: seen.append(now))
    assert seen[0] == (0, sum(sizes))
    assert seen[-1] == (sum(sizes), sum(sizes))
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {sum(sizes)}


def test_progress_comes_in_between_and_at_most_ten_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 0.03)
    now = [0.0]

    def tick() -> float:
        now[0] = next(clock)
        return now[0]

    monkeypatch.setattr(digest_read.time, "monotonic", tick)
    times: list[tuple[float, int]] = []
    path = sparse(tmp_path / "a", 100 * MIB)
    digest_path(path, progress=lambda done, total: times.append((now[0], done)))
    between = times[1:-1]
    assert len(between) > 10
    assert 0 < between[0][1] < between[-1][1] <= 100 * MIB
    assert all(later - sooner >= 0.1 for (sooner, _), (later, _) in itertools.pairwise(between))


def test_progress_counts_what_has_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, int]]
) -> None:
    real = time.time_ns
    monkeypatch.setattr(digest_read.time, "time_ns", lambda: real() + LATER)
    root = sparse(tmp_path / "tree" / "a", 3 * MIB).parent
    with DigestCache(tmp_path / "digests.sqlite") as cache:
        digest_path(root, cache=cache)
        digest_path(root, cache=cache, progress=lambda *now: seen.append(now))
        sparse(root / "b", 1000)
        digest_path(root, cache=cache, progress=lambda *now: seen.append(now))
        digest_path(root, cache=cache, level="sampled", progress=lambda *now: seen.append(now))
    assert [total for _, total in seen] == [0, 0, 1000, 1000, 2_621_440 + 1000, 2_621_440 + 1000]


def test_several_threads_give_the_digest_of_one(
    tmp_path: Path, two_threads: None, seen: list[tuple[int, int]]
) -> None:
    contents = [os.urandom(size) for size in (3 * MIB + 1, 10, 2 * MIB, MIB, 0, 17 * MIB)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    threads: set[threading.Thread] = set()
    entries = b""
    for number, content in enumerate(contents):
        entries += (1).to_bytes(8, "little") + str(number).encode()
        entries += len(content).to_bytes(8, "little") + blake3(content).digest()
    expected = blake3(entries, derive_key_context="nemotron 2026 artifact tree v1").hexdigest()
    found = digest_path(tmp_path, progress=lambda *now: threads.add(threading.current_thread()))
    assert found.value == f"blake3:{expected}"
    assert threads == {threading.current_thread()}


def test_an_error_in_one_thread_stops_the_others_and_is_the_one_that_is_told(
    tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless, broken = sparse(tmp_path / "a", 200 * GIB), sparse(tmp_path / "b", 2 * MIB)
    real = os.readv

    def meanwhile(descriptor: int, buffers: list[memoryview]) -> int:
        if os.fstat(descriptor).st_ino == broken.stat().st_ino:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, buffers)

    monkeypatch.setattr(digest_read.os, "readv", meanwhile)
    begun = time.monotonic()
    with pytest.raises(WorkFailed) as caught:
        digest_path(endless.parent)
    assert caught.value.where == str(broken)
    assert time.monotonic() - begun < PROMPT_SECONDS


@pytest.mark.parametrize("files", [1, 2])
def test_an_interrupt_ends_the_reading_at_once(tmp_path: Path, two_threads: None, files: int) -> None:
    for number in range(files):
        sparse(tmp_path / str(number), 200 * GIB)

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    begun, before = time.monotonic(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        digest_path(tmp_path, progress=interrupt)
    assert time.monotonic() - begun < PROMPT_SECONDS
    assert threading.active_count() == before


def test_a_file_that_changes_under_one_of_the_threads_is_an_error(
    tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        os.utime(sparse(tmp_path / name, 8 * MIB), (1, 1))
    victim, real, reads = tmp_path / "b", os.readv, itertools.count()

    def meanwhile(descriptor: int, buffers: list[memoryview]) -> int:
        if next(reads) == 3:
            os.truncate(victim, 9 * MIB)
        return real(descriptor, buffers)

    monkeypatch.setattr(digest_read.os, "readv", meanwhile)
    with pytest.raises(Conflict) as caught:
        digest_path(tmp_path)
    assert caught.value.where == str(victim)


def test_what_was_read_before_an_error_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    monkeypatch.setattr(digest_read.time, "time_ns", lambda: real() + LATER)
    root = sparse(tmp_path / "tree" / "a", 1000).parent
    (root / "b").write_bytes(b"x")
    opened, opening = [], os.open

    def counted(path: bytes, *words: int) -> int:
        opened.append(path)
        if path.endswith(b"b") and len(opened) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return opening(path, *words)

    monkeypatch.setattr(digest_read.os, "open", counted)
    with pytest.raises(WorkFailed), DigestCache(tmp_path / "digests.sqlite") as cache:
        digest_path(root, cache=cache)
    with DigestCache(tmp_path / "digests.sqlite") as cache:
        digest_path(root, cache=cache)
    assert [Path(os.fsdecode(path)).name for path in opened] == ["a", "b", "b"]


def test_progress_never_passes_its_end_also_where_a_file_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, int]]
) -> None:
    path, real = sparse(tmp_path / "a", MIB + 10), os.readv
    monkeypatch.setattr(digest_read, "_TICK_S", 0.0)

    def meanwhile(descriptor: int, buffers: list[memoryview]) -> int:
        os.truncate(path, 9 * MIB)
        return real(descriptor, buffers)

    monkeypatch.setattr(digest_read.os, "readv", meanwhile)
    with pytest.raises(Conflict):
        digest_path(path, progress=lambda *now: seen.append(now))
    assert max(seen) == (MIB + 10, MIB + 10)
