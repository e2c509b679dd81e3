"""Reading files of rows: any packing, any size, bad ones too; writing them whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron.data.stream import sources as sources_module
from nemotron.data.stream.blocks import Block, blocks_of
from nemotron.data.stream.held import write_at
from nemotron.data.stream.jsontext import codec, exact_dumps, exact_loads, has_huge_number
from nemotron.data.stream.keys import KeyCounts, key_of, share_of
from nemotron.data.stream.outputs import Outputs
from nemotron.data.stream.parallel import map_blocks
from nemotron.data.stream.rows import Rejected, parse_row
from nemotron.data.stream.sources import find_sources
from nemotron.errors import CheckFailed, Conflict, NemotronError, NotFound, UsageError, WorkFailed

Row = dict[str, Any]


def lines_of(path: Path, **limits: int) -> list[tuple[int, bytes | int]]:
    """Every line with its number; of one that is too long its length."""
    found: list[tuple[int, bytes | int]] = []
    for block in blocks_of(find_sources(str(path)), **limits):
        found += (
            [(block.first_line, block.too_long)]
            if block.too_long
            else enumerate(block.lines(), block.first_line)
        )
    return found


def pack(data: bytes, kind: str) -> bytes:
    if kind == "gzip":  # two members, as appending to a packed file leaves
        return gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
    if kind == "zstd":
        made = zstandard.ZstdCompressor()
        return made.compress(data[: len(data) // 2]) + made.compress(data[len(data) // 2 :])
    return data


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.translate(None, b"\n\0")), max_size=12),
    st.booleans(),
    st.sampled_from(["plain", "gzip", "zstd"]),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_every_line_comes_once_with_its_number(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ends: bool, kind: str, size: int, limit: int
) -> None:
    """Whatever the blocks, and where lines are cut off for their length too."""
    lines = [b"{" + line for line in lines]  # no magic number of a packer, no mark of byte order
    path = tmp_path_factory.getbasetemp() / f"lines.{kind}"
    path.write_bytes(pack(b"\n".join(lines) + (b"\n" if ends and lines else b""), kind))
    found = lines_of(path, block_bytes=size, max_line_bytes=limit)
    last = len(lines)
    # The line end counts, where there is one.
    expected = [
        (
            number,
            line if len(line) + (ends or number < last) <= limit else len(line) + (ends or number < last),
        )
        for number, line in enumerate(lines, 1)
    ]
    assert found == expected


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = b'{"a": 1}\n' * 30_000
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert b"".join(line + b"\n" for _, line in lines_of(pipe, block_bytes=1000)) == data  # type: ignore[operator]
    writer.join()


def test_a_pipe_that_nobody_writes_is_an_error_and_no_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "_PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="nobody wrote"):
        lines_of(tmp_path / "pipe")


def test_parquet_rows_come_without_the_nulls_that_its_columns_need(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"a": {"x": 1}, "t": ["1"]}, {"a": {"y": "2"}, "t": ["2026-01-01"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert [json.loads(line) for _, line in lines_of(tmp_path / "rows.parquet")] == rows


def test_parquet_columns_that_json_cannot_say_are_an_error(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [b"\xff"]}), tmp_path / "rows.parquet")
    with pytest.raises(CheckFailed, match="JSON cannot say"):
        lines_of(tmp_path / "rows.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1" + b"x" * 20)
    with pytest.raises(CheckFailed, match="damaged parquet"):
        lines_of(tmp_path / "broken.parquet")


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("end", [-1, -9, 40])
def test_packed_data_that_end_too_early_are_an_error(tmp_path: Path, kind: str, end: int) -> None:
    path = tmp_path / "rows"
    whole = b"".join(b'{"n": %d}\n' % key_of(b"%d" % n) for n in range(5000))
    path.write_bytes(pack(whole, kind)[:end])
    with pytest.raises(CheckFailed, match=f"damaged {kind} data") as caught:
        lines_of(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_line_of_one_letter_is_counted_and_takes_little_memory(tmp_path: Path, kind: str) -> None:
    """200 MB in a few kilobytes: what is unpacked at once is bounded too."""
    path, size = tmp_path / "rows", 200_000_000
    made = zstandard.ZstdCompressor().compressobj() if kind == "zstd" else zlib.compressobj(1, wbits=31)
    with path.open("wb") as file:
        file.write(made.compress(b'{"n": 1}\n"'))
        for _ in range(200):
            file.write(made.compress(b"x" * (size // 200)))
        file.write(made.compress(b'"\n{"n": 3}\n') + made.flush())
    tracemalloc.start()
    try:
        found = lines_of(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [(1, b'{"n": 1}'), (2, size + 3), (3, b'{"n": 3}')]
    assert most < 150_000_000


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_packed_data_with_a_flipped_bit_are_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows"
    made = zstandard.ZstdCompressor(write_checksum=True).compress if kind == "zstd" else gzip.compress
    data = bytearray(made(b"".join(b'{"n": %d}\n' % n for n in range(5000))))
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckFailed, match="damaged"):
        lines_of(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe{\0}\0", "UTF-16"),
        (b"BZh91AY", "bzip2"),
        (b"PK\x03\x04", "zip"),
        (b"\x7fELF\0\0\0", "binary"),
    ],
)
def test_what_is_no_file_of_rows_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(CheckFailed, match=says):
        find_sources(str(tmp_path / "rows.jsonl"))


def test_directories_missing_files_and_empty_patterns_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a directory"):
        find_sources(str(tmp_path))
    with pytest.raises(NotFound):
        find_sources(str(tmp_path / "none.jsonl"))
    with pytest.raises(NotFound, match="pattern"):
        find_sources(str(tmp_path / "*.jsonl"))
    with pytest.raises(UsageError):
        find_sources([])


def test_a_pattern_gives_its_files_in_the_order_of_names_and_none_twice(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    assert [s.path.name for s in find_sources(str(tmp_path / "*.jsonl"))] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    with pytest.raises(UsageError, match="twice"):
        find_sources([str(tmp_path / "*.jsonl"), str(tmp_path / "b.jsonl")])


def test_a_file_that_changes_while_it_is_read_is_a_conflict(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' * 10)
    block = next(iter(blocks_of(find_sources(str(path)))))
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(Conflict, match="changed"):
        list(block.lines())


@pytest.mark.parametrize("with_orjson", [True, False])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": -1e400}', "invalid_json"),
        (b'{"a": "\\ud800"}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"a": "\xe9"}', "not_utf8"),
        ('{"a": "é"}'.encode("utf-16-le"), "not_utf8"),
        (b"[1]", "not_an_object"),
        (b"null", "not_an_object"),
    ],
)
def test_a_line_that_is_no_row_has_a_reason(
    line: bytes, reason: str, with_orjson: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = codec()[0] if with_orjson else exact_loads
    found = parse_row(line, loads)
    assert isinstance(found, Rejected)
    # UTF-16 without a mark is text with zeros between: not UTF-8 or not JSON, but never a row.
    assert found.reason == reason or (line.count(b"\0") and found.reason == "invalid_json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_values_survive_and_numbers_that_cannot_are_noticed(value: Any) -> None:
    text = exact_dumps(value)
    assert json.dumps(exact_loads(text)) == json.dumps(value)
    loads, dumps = codec()
    found = loads(text)
    if not has_huge_number(found):
        assert json.dumps(found) == json.dumps(value)
        assert json.dumps(json.loads(dumps(found))) == json.dumps(value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 50), max_size=60))
def test_counts_by_key_are_right(keys: list[int]) -> None:
    counts, expected = KeyCounts(), dict[int, int]()
    for key in keys:
        assert counts.add(key) == expected.get(key, 0)
        expected[key] = expected.get(key, 0) + 1
    assert len(counts) == len(expected)


def test_counts_grow_and_take_little_memory() -> None:
    counts = KeyCounts()
    keys = [key_of(b"%d" % n) for n in range(30_000)]
    assert all(counts.add(key) == 0 for key in keys)
    assert all(counts.add(key) == 1 for key in keys)
    assert sum(part.itemsize * len(part) for part in (counts._keys, counts._counts)) < 40 * len(keys)


def test_shares_are_drawn_evenly_and_anew_by_each_seed() -> None:
    keys = [key_of(b"%d" % n) for n in range(4000)]
    for seed in (0, 1, 7):
        assert 0.17 < sum(share_of(key, seed) < 0.2 for key in keys) / len(keys) < 0.23
    both = sum(share_of(key, 0) < 0.2 and share_of(key, 1) < 0.2 for key in keys) / len(keys)
    assert 0.02 < both < 0.06


def numbered(path: Path, rows: int) -> Path:
    path.write_bytes(b"".join(b'{"n": %d, "pad": "%s"}\n' % (n, b"x" * 500) for n in range(rows)))
    return path


def first_and_count(block: Block) -> tuple[int, int, int]:
    """Which process, first line, lines."""
    lines = list(block.lines())
    assert json.loads(lines[0])["n"] == block.first_line - 1
    return os.getpid(), block.first_line, len(lines)


def test_work_is_done_in_order_by_several_processes(tmp_path: Path) -> None:
    source = find_sources(str(numbered(tmp_path / "rows.jsonl", 40_000)))
    found = list(map_blocks(first_and_count, blocks_of(source), workers=3))
    assert sum(count for _, _, count in found) == 40_000
    assert [first for _, first, _ in found] == sorted(first for _, first, _ in found)
    assert os.getpid() not in {process for process, _, _ in found}
    alone = list(map_blocks(first_and_count, blocks_of(source), workers=1))
    assert [part[1:] for part in alone] == [part[1:] for part in found]


def test_small_inputs_are_not_worth_a_process(tmp_path: Path) -> None:
    source = find_sources(str(numbered(tmp_path / "rows.jsonl", 100)))
    assert [process for process, _, _ in map_blocks(first_and_count, blocks_of(source), workers=3)] == [
        os.getpid()
    ]


def fails_at(block: Block) -> int:
    if block.first_line > 20_000:
        raise CheckFailed("no more", where=f"line {block.first_line}")
    return block.first_line


def dies_at(block: Block) -> int:
    if block.first_line > 20_000:
        os._exit(9)
    return block.first_line


def test_an_error_in_a_process_is_told_as_it_was(tmp_path: Path) -> None:
    source = find_sources(str(numbered(tmp_path / "rows.jsonl", 40_000)))
    with pytest.raises(CheckFailed, match="no more") as caught:
        list(map_blocks(fails_at, blocks_of(source), workers=2))
    assert caught.value.where is not None
    with pytest.raises(WorkFailed, match="worker process died"):
        list(map_blocks(dies_at, blocks_of(source), workers=2))


def test_processes_are_started_anew_beside_threads(tmp_path: Path) -> None:
    source = find_sources(str(numbered(tmp_path / "rows.jsonl", 20_000)))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        found = list(map_blocks(first_and_count, blocks_of(source), workers=2))
    finally:
        done.set()
        thread.join()
    assert sum(count for _, _, count in found) == 20_000


ENDLESS = """
import os, sys, time
from pathlib import Path
from nemotron.data.stream.blocks import blocks_of
from nemotron.data.stream.parallel import map_blocks
from nemotron.data.stream.sources import find_sources

def work(block):
    (Path(sys.argv[2]) / str(os.getpid())).touch()
    time.sleep(0.05)

if __name__ == "__main__":
    while True:
        list(map_blocks(work, blocks_of(find_sources(sys.argv[1])), workers=2))
"""


def test_processes_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    path = numbered(tmp_path / "rows.jsonl", 40_000)
    parent = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path), str(tmp_path / "pids")])
    patience = time.monotonic() + 40
    while len(list((tmp_path / "pids").iterdir())) < 2 and time.monotonic() < patience:
        time.sleep(0.02)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    parent.kill()
    parent.wait()
    assert len(pids) >= 2
    while any(is_running(pid) for pid in pids) and time.monotonic() < patience:
        time.sleep(0.02)
    assert not [pid for pid in pids if is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n{"n": 4}\r\n')
    loads = codec()[0]
    found = [parse_row(line, loads) for _, line in lines_of(path) if isinstance(line, bytes)]
    assert found == [{"n": 1}, {"n": 4}]


def test_outputs_appear_together_or_not_at_all(tmp_path: Path) -> None:
    places = {"a": tmp_path / "a", "b": tmp_path / "b"}
    places["a"].write_text("before")
    with pytest.raises(RuntimeError), Outputs(places) as outputs:
        outputs.write("a", b"new")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert places["a"].read_text() == "before"
    with Outputs(places) as outputs:
        outputs.write("a", b"new")
        outputs.publish()
    assert (places["a"].read_text(), places["b"].read_text()) == ("new", "")


def test_places_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    for place in (tmp_path / "file" / "a", tmp_path / "directory"):
        with pytest.raises(NemotronError), Outputs({"a": place}):
            pass
    with pytest.raises(UsageError, match="one place"):
        Outputs({"a": tmp_path / "x", "b": tmp_path / "x"})


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 100, 65_536, 65_537, 200_000]), max_size=9))
def test_pieces_of_any_size_are_written_one_after_the_other(sizes: list[int]) -> None:
    pieces = [bytes([number]) * size for number, size in enumerate(sizes * 2, start=65)]
    with tempfile.TemporaryFile() as file:
        write_at(file.fileno(), [memoryview(piece) for piece in pieces], 3)
        assert file.read() == b"\0" * 3 * any(sizes) + b"".join(pieces)


def test_a_thousand_small_pieces_are_written() -> None:
    with tempfile.TemporaryFile() as file:
        write_at(file.fileno(), [memoryview(b"%04d" % number) for number in range(1300)], 0)
        assert file.read() == b"".join(b"%04d" % number for number in range(1300))
