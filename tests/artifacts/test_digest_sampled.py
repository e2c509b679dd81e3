from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron.artifacts import digest_read
from nemotron.artifacts.digest import Digest, digest_json, digest_path, level_of
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.artifacts.digest_read import sampled_parts
from nemotron.errors import Conflict, UsageError

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
WHOLE = 2_621_440
LATER = 60_000_000_000
TICK = 0.012

sizes = st.sampled_from([0, 1, WHOLE - 1, WHOLE, WHOLE + 1, WHOLE + 7, 3 * MIB, 7 * MIB + 5]) | st.integers(
    0, 40 * MIB
)
large_sizes = st.integers(WHOLE + 1, 40 * MIB)


def sparse(path: Path, size: int, content: Mapping[int, bytes] | None = None) -> Path:
    """A file of zeros that takes no room, with `content` at some offsets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for offset, data in (content or {}).items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    return path


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def sample(content: bytes) -> bytes:
    """The sample of a file as the docstring of the module describes it, written a second time."""
    size = len(content)
    if size <= WHOLE:
        return content
    e = (size - 2 * MIB) // 8
    starts = [MIB + i * e + (e - 64 * KIB) // 2 for i in range(8)]
    blocks = b"".join(content[start : start + 64 * KIB] for start in starts)
    return content[:MIB] + blocks + content[-MIB:]


def by_the_book(files: Mapping[bytes, bytes]) -> str:
    entries = b""
    for name, content in sorted(files.items()):
        entries += len(name).to_bytes(8, "little") + name + len(content).to_bytes(8, "little")
        entries += blake3(sample(content)).digest()
    context = "nemotron 2026 artifact sampled v1"
    return "sampled:" + blake3(entries, derive_key_context=context).hexdigest()


def sampled(path: Path) -> str:
    return digest_path(path, level="sampled").value


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "d/a", "d/e/a"]), sizes, max_size=3), st.binary(min_size=1))
def test_a_sampled_digest_is_the_one_that_is_documented(shapes: dict[str, int], word: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "tree"
        root.mkdir()
        for name, size in shapes.items():
            sparse(root / name, size, dict.fromkeys(range(0, size - len(word), 300 * KIB + 11), word))
        contents = {os.fsencode(name): (root / name).read_bytes() for name in shapes}
        found = digest_path(root, level="sampled")
        assert found == Digest(by_the_book(contents), len(shapes), sum(shapes.values()))
        for name in shapes:
            assert sampled(root / name) == by_the_book({b"": contents[os.fsencode(name)]})


@given(st.integers(WHOLE + 1, 1 << 62))
def test_the_parts_are_in_order_apart_and_evenly_spread(size: int) -> None:
    parts = list(sampled_parts(size))
    assert parts[0] == (0, MIB)
    assert parts[-1] == (size - MIB, MIB)
    assert [length for _, length in parts[1:-1]] == [64 * KIB] * 8
    gaps = [after - (start + length) for (start, length), (after, _) in itertools.pairwise(parts)]
    assert min(gaps) >= 0
    assert max(gaps) == (size - 2 * MIB) // 8 - 64 * KIB or size < WHOLE + 64


@settings(max_examples=40, deadline=None)
@given(large_sizes, st.data())
def test_any_byte_of_a_part_counts_and_no_other_does(size: int, data: st.DataObject) -> None:
    parts = list(sampled_parts(size))
    start, length = data.draw(st.sampled_from(parts))
    inside = start + data.draw(st.sampled_from([0, length - 1]) | st.integers(0, length - 1))
    anywhere = data.draw(st.integers(0, size - 1))
    in_a_part = any(start <= anywhere < start + length for start, length in parts)
    with tempfile.TemporaryDirectory() as place:
        path = sparse(Path(place) / "tree" / "model.safetensors", size)
        before = sampled(path.parent)
        flip(path, inside)
        changed = sampled(path.parent)
        assert changed != before
        flip(path, inside)
        assert sampled(path.parent) == before
        flip(path, anywhere)
        assert (sampled(path.parent) != before) == in_a_part


@settings(max_examples=40, deadline=None)
@given(sizes, sizes)
def test_another_size_is_another_digest_even_where_all_bytes_are_zero(one: int, other: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        first, second = sparse(Path(place) / "one" / "a", one), sparse(Path(place) / "two" / "a", other)
        assert (sampled(first) == sampled(second)) == (one == other)
        assert (sampled(first.parent) == sampled(second.parent)) == (one == other)


def test_a_name_counts_in_a_tree_and_not_for_a_file(tmp_path: Path) -> None:
    path = sparse(tmp_path / "tree" / "a", 5 * MIB)
    tree, file = sampled(path.parent), sampled(path)
    path = path.rename(path.with_name("b"))
    assert sampled(path) == file
    assert len({sampled(path.parent), tree, file}) == 3


@pytest.mark.parametrize("files", [1, 8])
def test_a_terabyte_takes_less_than_a_second(tmp_path: Path, files: int) -> None:
    for number in range(files):
        sparse(tmp_path / "tree" / f"{number}.safetensors", TIB // files)
    begun = time.process_time()
    found = digest_path(tmp_path / "tree", level="sampled")
    assert time.process_time() - begun < 1
    assert (found.bytes, found.files) == (TIB, files)


def test_a_file_that_is_cut_while_it_is_sampled_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sparse(tmp_path / "a", 50 * MIB)
    real = os.preadv

    def meanwhile(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        os.truncate(path, 10 * MIB)
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(digest_read.os, "preadv", meanwhile)
    with pytest.raises(Conflict):
        sampled(path)


def test_a_digest_says_its_level(tmp_path: Path) -> None:
    path = sparse(tmp_path / "a", 5)
    for level in ("full", "sampled"):
        found = digest_path(path, level=level)
        assert (found.level, level_of(found.value)) == (level, level)
    assert level_of(digest_json({})) == "full"
    assert sampled(path).partition(":")[2] != digest_path(path).value.partition(":")[2]


@pytest.mark.parametrize("value", ["", "pending", "sha256:00", "record:x", "full"])
def test_what_is_no_digest_has_no_level(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        level_of(value)
    assert repr(value) in caught.value.what


def test_an_unknown_level_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        digest_path(tmp_path, level="quick")
    assert caught.value.valid == ("full", "sampled", "auto")


def test_what_is_huge_is_sampled_unless_all_of_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 3000)
    monkeypatch.setattr("nemotron.artifacts.digest.SAMPLED_FROM", 5999)
    assert digest_path(tmp_path).level == "sampled"
    assert digest_path(tmp_path, level="full").level == "full"
    monkeypatch.setattr("nemotron.artifacts.digest.SAMPLED_FROM", 6000)
    assert digest_path(tmp_path).level == "full"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["full", "sampled"]), st.booleans()), min_size=2, max_size=6))
def test_the_cache_never_takes_one_level_for_the_other(steps: list[tuple[str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        real = time.time_ns
        patch.setattr(digest_read.time, "time_ns", lambda: real() + LATER)
        root = sparse(Path(place) / "tree" / "large", 4 * MIB).parent
        (root / "small").write_bytes(b"one")
        with DigestCache(Path(place) / "digests.sqlite") as cache:
            for level, change in steps:
                if change:
                    time.sleep(TICK)
                    # Between the blocks: a sampled digest stays as it is.
                    flip(root / "large", MIB)
                assert digest_path(root, cache=cache, level=level) == digest_path(root, level=level)
            assert cache.problem is None


def test_a_sample_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    monkeypatch.setattr(digest_read.time, "time_ns", lambda: real() + LATER)
    root = sparse(tmp_path / "tree" / "large", 4 * MIB).parent
    with DigestCache(tmp_path / "digests.sqlite") as cache:
        digest_path(root, cache=cache)
        first = digest_path(root, cache=cache, level="sampled")
    monkeypatch.setattr(digest_read.os, "open", None)
    with DigestCache(tmp_path / "digests.sqlite") as cache:
        assert digest_path(root, cache=cache, level="sampled") == first
