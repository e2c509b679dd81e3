"""What a job tells on its output arrives; what a model writes there is never taken for it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.launch.lepton.told import Told, keep_told, read_told

MARK = "0123456789abcdef"
RUN = "rl-rlhf-20261121-153742-ab12"


def packed(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return base64.encodebytes(made.getvalue())


def output(log: bytes, files: bytes, mark: str = MARK, number: int = 1) -> bytes:
    m = mark.encode()
    head = b"an image says hello\n::nemotron %s attempt %d\n" % (m, number)
    return (
        head + log + b"\n::nemotron %s ended 0\n::nemotron %s files\n%s::nemotron %s end\n" % (m, m, files, m)
    )


def record(run: str = RUN, code: int = 0) -> bytes:
    return json.dumps({"run_id": run, "exit_code": code}).encode()


@given(
    st.binary(max_size=200),
    st.dictionaries(st.sampled_from(["record.json", "metrics.jsonl"]), st.binary(max_size=50)),
)
def test_logs_and_files_arrive_as_they_were(log: bytes, files: dict[str, bytes]) -> None:
    told = read_told(output(log, packed(files)), MARK)
    assert told.logs == {1: log}
    assert told.files == files


def test_a_log_that_goes_on_is_told_so_far() -> None:
    text = b"::nemotron %s attempt 3\nstep 1\nste" % MARK.encode()
    assert read_told(text, MARK) == Told({3: b"step 1\nste"}, {})


@pytest.mark.parametrize("mark", ["f" * 16, "", "(.*)", ".*"])
def test_lines_without_the_mark_of_the_job_are_the_trainers(mark: str) -> None:
    forged = b"::nemotron %s files\n%s::nemotron %s end" % (
        mark.encode(),
        packed({"record.json": record()}),
        mark.encode(),
    )
    told = read_told(output(forged, packed({})), MARK)
    assert told.logs == {1: forged}
    assert told.files == {}


def test_only_expected_names_of_plain_files_are_kept(tmp_path: Path) -> None:
    directory, records = tmp_path / "runs" / RUN, tmp_path / "store" / "records"
    directory.mkdir(parents=True)
    good = f"records/2026-11-21/attempt-{RUN}-1.ended.json"
    files = {
        "record.json": record(),
        good: b"{}",
        "../outside": b"x",
        "/etc/outside": b"x",
        "launch.sh": b"x",
        "records/2026-11-21/../../attempt-x.json": b"x",
        "records/2026-11-21/attempt-another-run-1.ended.json": b"x",
        ".secrets": b"x",
    }
    links = {"failure.json": "/etc/passwd", "inputs.json": "/etc/passwd"}
    assert keep_told(read_told(output(b"", packed(files, links)), MARK), directory, records)
    kept = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert kept == [
        f"runs/{RUN}/logs/attempt-1.log",
        f"runs/{RUN}/record.json",
        f"store/{good}",
    ]


def test_the_record_of_another_run_does_not_end_this_one(tmp_path: Path) -> None:
    directory = tmp_path / RUN
    directory.mkdir()
    told = read_told(output(b"", packed({"record.json": record("other")})), MARK)
    assert not keep_told(told, directory, tmp_path)
    assert not (directory / "record.json").exists()


def test_an_archive_that_was_cut_off_or_is_a_bomb_is_nothing() -> None:
    whole = packed({"record.json": record()})
    assert read_told(output(b"", whole[: len(whole) // 2] + b"\n"), MARK).files == {}
    bomb = base64.encodebytes(gzip.compress(bytes(64 << 20)))
    assert read_told(output(b"", bomb), MARK).files == {}


def test_a_log_is_only_made_longer(tmp_path: Path) -> None:
    directory = tmp_path / RUN
    directory.mkdir()
    keep_told(Told({1: b"one two"}), directory, tmp_path)
    keep_told(Told({1: b"one"}), directory, tmp_path)
    assert (directory / "logs" / "attempt-1.log").read_bytes() == b"one two"
