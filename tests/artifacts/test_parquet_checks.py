from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron.artifacts.checks import Checked, check_artifact, guess_type
from nemotron.artifacts.checks.parquet_footer import read_footer
from nemotron.artifacts.checks.report import Problem

pa = pytest.importorskip("pyarrow")

from pyarrow import parquet  # noqa: E402

TOLD = {
    "nemotron.tokenizer_digest": "sha256:" + "a" * 64,
    "nemotron.chat_template_digest": "sha256:" + "b" * 64,
    "nemotron.pack_size": "4096",
    "nemotron.tokenizer_size": "151936",
}
INT32S, UINT8S = pa.list_(pa.int32()), pa.list_(pa.uint8())


def table(rows: int = 100, told: dict[str, str] | None = None, **columns: Any) -> Any:
    """Packed sequences as they are written for training."""
    made = pa.table(
        {
            "input_ids": pa.array([[1, 2, 3]] * rows, INT32S),
            "loss_mask": pa.array([[0, 1, 1]] * rows, UINT8S),
            "seq_start_id": pa.array([[0]] * rows, INT32S),
            **columns,
        }
    )
    return made.replace_schema_metadata(TOLD if told is None else told)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "packed" / "shard_000000.parquet"
    path.parent.mkdir()
    parquet.write_table(table(), path, row_group_size=30, compression="zstd")
    return path


def checked(path: Path) -> Checked:
    return check_artifact(path, "packed_parquet")


def ids(result: Checked) -> list[str]:
    return [finding.id for finding in result.findings]


def test_a_shard_passes_with_its_facts(shard: Path) -> None:
    result = checked(shard)
    assert result.findings == ()
    assert dict(result.facts) == {
        "files": 1,
        "rows": 100,
        "row_groups": 4,
        "bytes": shard.stat().st_size,
        "columns": dict.fromkeys(("input_ids", "loss_mask", "seq_start_id"), "list of int32"),
        "tokenizer_digest": "sha256:" + "a" * 64,
        "chat_template_digest": "sha256:" + "b" * 64,
        "pack_size": 4096,
        "tokenizer_size": 151936,
        "errors": 0,
        "warnings": 0,
        "findings": {},
    }
    assert guess_type(shard) == "packed_parquet"


@pytest.mark.parametrize(
    "options",
    [
        {"version": "1.0", "compression": "none"},
        {"data_page_version": "2.0", "compression": "snappy"},
        {"use_dictionary": False, "write_statistics": False},
        {"use_compliant_nested_type": False},
        {"write_page_index": True},
        {"row_group_size": 1},
    ],
)
def test_whatever_way_it_is_written_it_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    parquet.write_table(table(20), tmp_path / "x.parquet", **options)
    facts = checked(tmp_path / "x.parquet").facts
    reference = parquet.ParquetFile(tmp_path / "x.parquet").metadata
    assert (facts["rows"], facts["row_groups"]) == (reference.num_rows, reference.num_row_groups)
    assert facts["errors"] == 0
    assert facts["pack_size"] == 4096


def test_the_shards_of_a_directory_are_one_artifact(shard: Path) -> None:
    parquet.write_table(table(7), shard.parent / "shard_000001.parquet")
    (shard.parent / "_SUCCESS").touch()
    result = checked(shard.parent)
    assert result.findings == ()
    assert (result.facts["files"], result.facts["rows"]) == (2, 107)
    assert guess_type(shard.parent) == "packed_parquet"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({**TOLD, "nemotron.tokenizer_digest": "sha256:c"}, "tokenizer_digest"),
        ({**TOLD, "nemotron.pack_size": "2048"}, "pack_size is 2048, that of shard_000000.parquet is 4096"),
        (
            {key: value for key, value in TOLD.items() if "template" not in key},
            "chat_template_digest is None",
        ),
    ],
)
def test_shards_of_different_making_are_an_error(shard: Path, told: dict[str, str], says: str) -> None:
    other = shard.parent / "shard_000001.parquet"
    parquet.write_table(table(told=told), other)
    (finding,) = checked(shard.parent).findings
    assert (finding.id, finding.where) == ("data.shards_disagree", str(other))
    assert says in finding.message


def test_shards_with_other_columns_are_an_error(shard: Path) -> None:
    parquet.write_table(table(weight=pa.array([1.0] * 100)), shard.parent / "shard_000001.parquet")
    assert ids(checked(shard.parent)) == ["data.shards_disagree"]


@pytest.mark.parametrize(
    ("columns", "problem", "says"),
    [
        ({"input_ids": pa.array([1] * 100)}, "data.wrong_type", "input_ids is int64"),
        ({"input_ids": pa.array(["1"] * 100)}, "data.wrong_type", "input_ids is bytes"),
        ({"input_ids": pa.array([[1.5]] * 100)}, "data.wrong_type", "input_ids is list of double"),
        ({"input_ids": pa.array([[[1]]] * 100)}, "data.wrong_type", "input_ids is group"),
        ({"loss_mask": pa.array([[0.5]] * 100)}, "data.wrong_type", "loss_mask is list of double"),
        ({"loss_mask": pa.array([{"a": 1}] * 100)}, "data.wrong_type", "loss_mask is group"),
    ],
)
def test_columns_of_another_type_are_an_error(
    shard: Path, columns: dict[str, Any], problem: str, says: str
) -> None:
    parquet.write_table(table(**columns), shard)
    (finding,) = checked(shard).findings
    assert (finding.id, finding.severity) == (problem, "error")
    assert says in finding.message


def test_a_mask_of_booleans_is_one_too(shard: Path) -> None:
    parquet.write_table(table(loss_mask=pa.array([[True, False, True]] * 100)), shard)
    assert checked(shard).findings == ()


def test_a_table_of_something_else_is_no_packed_data(shard: Path) -> None:
    parquet.write_table(pa.table({"question": ["?"]}), shard)
    assert ids(checked(shard)) == ["data.missing_field", "data.missing_field"]
    assert guess_type(shard) is None
    assert guess_type(shard.parent) is None


def test_a_pack_size_that_is_no_number_is_an_error(shard: Path) -> None:
    parquet.write_table(table(told={**TOLD, "nemotron.pack_size": "many"}), shard)
    assert ids(checked(shard)) == ["data.wrong_type"]


def test_shards_without_rows(shard: Path) -> None:
    parquet.write_table(table(0), shard)
    assert set(ids(checked(shard))) == {"data.no_rows"}
    assert not checked(shard).ok
    parquet.write_table(table(1), shard.parent / "x.parquet")
    assert [(f.id, f.severity) for f in checked(shard.parent).findings] == [("data.no_rows", "warning")]


def test_a_directory_without_shards_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    assert ids(checked(tmp_path)) == ["data.no_shards"]


def test_a_link_to_a_shard_elsewhere_is_not_followed(shard: Path, tmp_path: Path) -> None:
    shard.rename(tmp_path / "x.parquet")
    shard.symlink_to(tmp_path / "x.parquet")
    assert "artifact.link_outside" in ids(checked(shard.parent))


@pytest.mark.parametrize("kept", [0, 3, 11, 100, -1, -8, -9])
def test_a_file_that_was_cut_short_is_an_error(shard: Path, kept: int) -> None:
    os.truncate(shard, kept if kept >= 0 else shard.stat().st_size + kept)
    (finding,) = checked(shard.parent).findings
    assert (finding.id, finding.where) == ("data.broken_parquet", str(shard))
    assert guess_type(shard) == "packed_parquet", "the check then says what is wrong"


def test_pages_that_the_file_does_not_hold_are_an_error(shard: Path) -> None:
    content = shard.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    shard.write_bytes(b"PAR1" + content[-8 - length :])
    (finding,) = checked(shard).findings
    assert finding.id == "data.broken_parquet"
    assert "the footer begins at 4" in finding.message


def test_an_encrypted_file_is_named_as_such(shard: Path) -> None:
    shard.write_bytes(b"PARE" + shard.read_bytes()[4:])
    assert "encrypted" in checked(shard).findings[0].message


def footer_file(path: Path, footer: bytes) -> Path:
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return path


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        b"\x00",
        b"\x1c" * 1000,  # structures in structures
        b"\x19" + b"\x19" * 1000,  # lists in lists
        b"\x29\xfc\xff\xff\xff\xff\x0f",  # a schema of four billion elements
        b"\x29\x1c\x15\x00\x48\x01a\x15\xfe\xff\xff\xff\x0f\x00",  # an element with two billion children
        b"\x16" + b"\xff" * 100,  # a number without an end
        b"\x58\xff\xff\xff\xff\x7f",  # a string longer than the file
    ],
)
def test_a_hostile_footer_is_an_error(tmp_path: Path, footer: bytes) -> None:
    found = read_footer(footer_file(tmp_path / "x.parquet", footer))
    assert isinstance(found, Problem)
    assert found.id == "data.broken_parquet"


def test_pages_in_another_file_are_refused(tmp_path: Path) -> None:
    chunk = b"\x18\x0b../../other\x00"
    footer = b"\x49\x1c\x19\x1c" + chunk + b"\x00\x00"
    found = read_footer(footer_file(tmp_path / "x.parquet", footer))
    assert isinstance(found, Problem)
    assert "'../../other'" in found.message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_byte_of_a_footer_can_make_the_check_raise(shard: Path, data: st.DataObject) -> None:
    parquet.write_table(table(3), shard)
    content = bytearray(shard.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[-data.draw(st.integers(1, length + 8))] = data.draw(st.integers(0, 255))
    shard.write_bytes(bytes(content))
    json.dumps(dict(checked(shard).facts), allow_nan=False)
    guess_type(shard)
