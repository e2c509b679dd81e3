"""Packed rows mean the same to our packing, to Megatron-Bridge and to the embedded engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nemotron.engines.packed import Pack, read_packs
from nemotron.errors import CheckFailed, NotFound

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

# Two conversations: the answers are 12 13 and 22.
ROW: dict[str, Any] = {"input_ids": [10, 11, 12, 13, 20, 21, 22], "seq_start_id": [0, 4]}
OF_TOKENS = [0, 0, 1, 1, 0, 0, 1]
# As Megatron-Bridge packs: shifted by one within each conversation.
OF_PLACES = [0, 1, 1, 0, 0, 1, 0]


def write(path: Path, mask: list[int]) -> Path:
    columns = {"input_ids": pa.int32(), "loss_mask": pa.uint8(), "seq_start_id": pa.int32()}
    schema = pa.schema([(n, pa.list_(t)) for n, t in columns.items()])
    table = pa.Table.from_pylist([{**ROW, "loss_mask": mask}] * 3, schema=schema)
    pq.write_table(table, path, row_group_size=2)
    return path


def test_the_mask_of_the_places_is_that_of_the_tokens_after_them(tmp_path: Path) -> None:
    packs = list(read_packs(write(tmp_path / "rows.parquet", OF_PLACES)))
    assert [list(pack.mask) for pack in packs] == [OF_TOKENS] * 3
    assert list(packs[0].sequences()) == [(0, 4), (4, 7)]


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
