"""Packed rows mean the same to our packing, to Megatron-Bridge and to the embedded engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nemotron.engines.packed import Pack, for_megatron, read_packs
from nemotron.errors import CheckFailed, NotFound

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

# Two conversations: the answers are 12 13 and 22.
ROW: dict[str, Any] = {"input_ids": [10, 11, 12, 13, 20, 21, 22], "seq_start_id": [0, 4]}
OF_TOKENS = [0, 0, 1, 1, 0, 0, 1]
# As Megatron-Bridge packs: shifted by one within each conversation.
OF_PLACES = [0, 1, 1, 0, 0, 1, 0]


def write(path: Path, mask: list[int], metadata: dict[str, str]) -> Path:
    columns = {"input_ids": pa.int32(), "loss_mask": pa.uint8(), "seq_start_id": pa.int32()}
    schema = pa.schema([(n, pa.list_(t)) for n, t in columns.items()], metadata=metadata)
    table = pa.Table.from_pylist([{**ROW, "loss_mask": mask}] * 3, schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


def test_both_ways_of_counting_are_read_as_one(tmp_path: Path) -> None:
    ours = write(tmp_path / "ours.parquet", OF_TOKENS, {"nemotron.pack_size": "8"})
    theirs = write(tmp_path / "theirs.parquet", OF_PLACES, {})
    told = write(
        tmp_path / "told.parquet", OF_PLACES, {"nemotron.pack_size": "8", "nemotron.loss_mask": "next"}
    )
    for path in (ours, theirs, told):
        packs = list(read_packs(path))
        assert [list(pack.mask) for pack in packs] == [OF_TOKENS] * 3
        assert list(packs[0].sequences()) == [(0, 4), (4, 7)]


def test_megatron_gets_a_copy_that_counts_its_way_once(tmp_path: Path) -> None:
    write(tmp_path / "data" / "shard_0.parquet", OF_TOKENS, {"nemotron.pack_size": "8"})
    write(tmp_path / "data" / "shard_1.parquet", OF_TOKENS, {"nemotron.pack_size": "8"})
    made = for_megatron(tmp_path / "data", tmp_path / "copy")
    assert made == tmp_path / "copy" and sorted(p.name for p in made.iterdir()) == [
        "shard_0.parquet",
        "shard_1.parquet",
    ]
    table = pq.read_table(made / "shard_0.parquet")
    assert table.column("loss_mask").to_pylist() == [OF_PLACES] * 3
    assert table.column("input_ids").to_pylist() == [ROW["input_ids"]] * 3
    assert table.schema.metadata[b"nemotron.loss_mask"] == b"next"
    # What was copied is not shifted again, and is not copied again.
    assert for_megatron(made, tmp_path / "again") == made
    assert next(iter(read_packs(made))).mask == OF_TOKENS


def test_data_that_count_its_way_are_read_in_place(tmp_path: Path) -> None:
    path = write(tmp_path / "theirs.parquet", OF_PLACES, {})
    assert for_megatron(path, tmp_path / "copy") == path
    assert not (tmp_path / "copy").exists()


def test_nothing_is_left_of_a_copy_that_was_interrupted(tmp_path: Path) -> None:
    path = write(tmp_path / "ours.parquet", OF_TOKENS, {"nemotron.pack_size": "8"})
    (tmp_path / ".copy.tmp").mkdir()
    (tmp_path / ".copy.tmp" / "half.parquet").write_bytes(b"PAR1")
    made = for_megatron(path, tmp_path / "copy")
    assert [p.name for p in made.iterdir()] == ["ours.parquet"]


@pytest.mark.parametrize(
    "row",
    [
        {"input_ids": [1, 2], "loss_mask": [1], "seq_start_id": [0]},
        {"input_ids": [1, 2], "loss_mask": [1, 1], "seq_start_id": [1]},
        {"input_ids": [1, 2], "loss_mask": [1, 1], "seq_start_id": [0, 2]},
        {"input_ids": [1, 2], "loss_mask": [1, 1], "seq_start_id": []},
        {"input_ids": [1, 2], "loss_mask": [1, 1], "seq_start_id": None},
    ],
)
def test_a_row_that_makes_no_sense_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    schema = pa.schema([(n, pa.list_(pa.int32())) for n in ("input_ids", "loss_mask", "seq_start_id")])
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "rows.parquet")
    with pytest.raises(CheckFailed, match="do not fit together") as told:
        list(read_packs(tmp_path / "rows.parquet"))
    assert str(told.value.where).endswith("rows.parquet:1")


def test_what_is_no_packed_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        list(read_packs(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(CheckFailed, match="no Parquet file"):
        list(read_packs(tmp_path))
    pq.write_table(pa.table({"input_ids": [[1]]}), tmp_path / "a.parquet")
    with pytest.raises(CheckFailed, match="no column loss_mask, seq_start_id"):
        list(read_packs(tmp_path))


def test_a_pack_of_one_sequence() -> None:
    assert list(Pack([1, 2, 3], [0, 1, 1], [0]).sequences()) == [(0, 3)]
