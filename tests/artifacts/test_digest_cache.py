from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron.artifacts import digest_cache, digest_read
from nemotron.artifacts.digest import digest_path
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.artifacts.walk import WalkedFile

LATER = 60_000_000_000
# Longer than the tick of any local file system's clock: two writes within one tick look alike.
TICK = 0.012


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors read from, one entry a call."""
    real, calls = os.readv, []

    def counted(descriptor: int, buffers: list[memoryview]) -> int:
        calls.append(descriptor)
        return real(descriptor, buffers)

    monkeypatch.setattr(digest_read.os, "readv", counted)
    return calls


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which every file is a minute old."""
    real = time.time_ns
    monkeypatch.setattr(digest_read.time, "time_ns", lambda: real() + LATER)


def tree(root: Path) -> Path:
    (root / "d").mkdir(parents=True)
    (root / "a").write_bytes(b"one")
    (root / "d" / os.fsdecode(b"\xff")).write_bytes(b"two")
    return root


def test_unchanged_files_are_not_read_again_by_any_process(
    tmp_path: Path, reads: list[int], aged: None
) -> None:
    root = tree(tmp_path / "tree")
    with DigestCache(tmp_path / "c" / "digests.sqlite") as cache:
        first = digest_path(root, cache=cache)
        assert cache.problem is None
    assert reads
    reads.clear()
    with DigestCache(tmp_path / "c" / "digests.sqlite") as cache:
        assert digest_path(root, cache=cache) == first
    assert reads == []


def test_only_the_changed_file_is_read_again(tmp_path: Path, reads: list[int], aged: None) -> None:
    root = tree(tmp_path / "tree")
    with DigestCache(tmp_path / "digests.sqlite") as cache:
        before = digest_path(root, cache=cache)
        per_file = len(reads) // 2
        reads.clear()
        time.sleep(TICK)
        (root / "a").write_bytes(b"eno")
        assert digest_path(root, cache=cache) == digest_path(root) != before
        assert len(reads) == per_file + 2 * per_file


def test_a_file_too_young_to_trust_its_times_is_read_again(tmp_path: Path, reads: list[int]) -> None:
    root = tree(tmp_path / "tree")
    with DigestCache(tmp_path / "digests.sqlite") as cache:
        digest_path(root, cache=cache)
        once = len(reads)
        digest_path(root, cache=cache)
    assert len(reads) == 2 * once


def test_a_young_change_time_counts_also_where_the_modification_time_is_old(
    tmp_path: Path, reads: list[int]
) -> None:
    (tmp_path / "a").write_bytes(b"one")
    os.utime(tmp_path / "a", (1, 1))
    with DigestCache(tmp_path / "digests.sqlite") as cache:
        digest_path(tmp_path / "a", cache=cache)
        reads.clear()
        digest_path(tmp_path / "a", cache=cache)
    assert reads


def keep_times(path: Path, content: bytes) -> None:
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap_in(path: Path, content: bytes) -> None:
    status = path.stat()
    new = path.with_name("new")
    new.write_bytes(content)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(path)


def touch(path: Path, content: bytes) -> None:
    path.touch()


CHANGES = (Path.write_bytes, keep_times, swap_in, touch)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(CHANGES), st.sampled_from("ab"), st.sampled_from([b"one", b"two", b"four"])
        ),
        max_size=6,
    )
)
def test_with_a_cache_the_digest_is_always_that_without_one(aged: None, changes: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "tree"
        root.mkdir()
        for name in "ab":
            (root / name).write_bytes(b"one")
        with DigestCache(Path(place) / "digests.sqlite") as cache:
            assert digest_path(root, cache=cache) == digest_path(root)
            for change, name, content in changes:
                time.sleep(TICK)
                change(root / name, content)
                assert digest_path(root, cache=cache) == digest_path(root)
            assert cache.problem is None


def garbage(file: Path) -> None:
    file.write_bytes(b"this is no database" * 100)


def directory(file: Path) -> None:
    file.mkdir()


def another_schema(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE file (x)")


def damaged_inside(file: Path) -> None:
    with DigestCache(file) as cache:
        for number in range(2000):
            there = WalkedFile(b"", b"%d" % number, file.stat())
            cache.put(there, bytes(32), now_ns=0, sampled=False)
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(os.urandom(size - 4096))


@pytest.mark.parametrize("damage", [garbage, directory, another_schema, damaged_inside])
def test_a_damaged_cache_costs_time_and_nothing_else(tmp_path: Path, aged: None, damage) -> None:
    root = tree(tmp_path / "tree")
    file = tmp_path / "digests.sqlite"
    damage(file)
    with DigestCache(file) as cache:
        assert digest_path(root, cache=cache) == digest_path(root)
        assert digest_path(root, cache=cache) == digest_path(root)
        assert str(file) in (cache.problem or "")


def test_a_cache_that_somebody_else_holds_is_not_waited_for(
    tmp_path: Path, aged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_cache, "_WAIT_S", 0.01)
    root = tree(tmp_path / "tree")
    file = tmp_path / "digests.sqlite"
    DigestCache(file).close()
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with DigestCache(file) as cache:
        assert digest_path(root, cache=cache) == digest_path(root)
        assert "locked" in (cache.problem or "")
    holder.close()


def test_a_cache_that_may_not_be_written_is_none(unprivileged: Path, aged: None) -> None:
    root = tree(unprivileged / "tree")
    file = unprivileged / "c" / "digests.sqlite"
    with DigestCache(file) as cache:
        expected = digest_path(root, cache=cache)
    file.chmod(0o444)
    file.parent.chmod(0o555)
    (root / "new").write_text("3")
    with DigestCache(file) as cache:
        assert digest_path(root, cache=cache) == digest_path(root) != expected
        assert cache.problem
    with DigestCache(file.parent / "sub" / "digests.sqlite") as cache:
        assert digest_path(root, cache=cache) == digest_path(root)
        assert cache.problem


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CACHE_HOME": "{}/xdg", "HOME": "{}/home"}, "{}/xdg/nemotron/digests.sqlite"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "{}/home"}, "{}/home/.cache/nemotron/digests.sqlite"),
        ({"HOME": "{}/home"}, "{}/home/.cache/nemotron/digests.sqlite"),
    ],
)
def test_the_cache_is_in_the_users_cache_directory(
    tmp_path: Path, environ: dict[str, str], expected: str
) -> None:
    with DigestCache.for_user({key: value.format(tmp_path) for key, value in environ.items()}) as cache:
        assert cache.file == Path(expected.format(tmp_path))
        assert cache.problem is None


def test_without_a_home_there_is_no_cache_and_no_error() -> None:
    with DigestCache.for_user({}) as cache:
        assert cache.problem


def test_numbers_that_sqlite_cannot_hold_are_kept_all_the_same(tmp_path: Path) -> None:
    far = 2**64 - 1  # an inode of a network file system; a time in the year 2554
    plain = (0o100644, far, 0, 1, 0, 0, 5, 0, 0, 0, 0.0, 0.0, 0.0)
    status = os.stat_result((*plain, 0, far, 0))
    assert (status.st_ino, status.st_mtime_ns) == (far, far)
    with DigestCache(tmp_path / "digests.sqlite") as cache:
        file = WalkedFile(b"", b"/a", status)
        cache.put(file, bytes(range(32)), now_ns=LATER, sampled=False)
        cache.flush()
        assert cache.known([file], sampled=False) == [bytes(range(32))]
        assert cache.problem is None
