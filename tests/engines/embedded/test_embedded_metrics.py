"""What a run writes while it trains: rows that survive kills and say the same after resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.engines.embedded.metrics import NAMES, MetricsFile, read_metrics, renamed


def written(directory: Path, rows: dict[int, float], start: int = 0) -> Path:
    file = MetricsFile(directory)
    file.start(start, 9)
    for step, value in rows.items():
        file.write(step, {"train/loss": value})
    return directory / "metrics.jsonl"


def steps_in(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


def test_rows_after_the_step_resumed_from_are_written_again(tmp_path: Path) -> None:
    path = written(tmp_path, {0: 9.0, 1: 8.0, 2: 7.0, 3: 6.0})
    before = path.read_bytes()
    again = written(tmp_path, {2: 7.0, 3: 6.0}, start=1)
    assert again.read_bytes() == before


def test_a_run_that_starts_over_keeps_no_row(tmp_path: Path) -> None:
    path = written(tmp_path, {0: 9.0, 1: 8.0})
    before = path.read_bytes()
    assert written(tmp_path, {0: 9.0, 1: 8.0}).read_bytes() == before


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, {1: 8.0, 2: 7.0})
    path.write_bytes(path.read_bytes()[:-3])
    assert steps_in(path) == [1]
    assert steps_in(written(tmp_path, {3: 6.0}, start=2)) == [1, 3]


@given(st.integers(0, 80))
def test_a_file_cut_anywhere_reads_as_a_prefix(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        path = written(Path(place), {1: 8.0, 2: 7.0, 3: 6.0})
        whole = read_metrics(path)
        path.write_bytes(path.read_bytes()[:cut])
        rows = read_metrics(path)
        assert rows == whole[: len(rows)]
        assert len(rows) == path.read_bytes().count(b"\n")


def test_the_latest_value_of_each_metric_up_to_a_step(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    assert file.latest(5) == {}
    file.start(0, 9)
    file.write(1, {"train/loss": 3.0, "train/lr": 0.1})
    file.write(1, {"validation/accuracy": 0.5})
    file.write(2, {"train/loss": 2.0})
    assert file.latest(0) == {}
    assert file.latest(1) == {"train/loss": 3.0, "train/lr": 0.1, "validation/accuracy": 0.5}
    assert file.latest(2) == {"train/loss": 2.0, "train/lr": 0.1, "validation/accuracy": 0.5}


def test_times_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.phase("importing")
    file.start(0, 2)
    file.write(1, {"train/loss": 1.0})
    file.step_done(1)
    events = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["phase", "start", "step"]
    assert events[1]["total_steps"] == 2
    assert all("at" in e for e in events)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "train/loss": 1.0}]


def test_only_metrics_are_kept_under_their_public_names() -> None:
    logs = {
        "loss": 1,
        "reward": 2.5,
        "monitor/warmth": 0.25,
        "train_runtime": 9.0,
        "epoch": 1.0,
        "kl": float("nan"),
        "entropy": float("inf"),
        "note": "text",
    }
    assert renamed(logs) == {"train/loss": 1.0, "train/reward": 2.5, "monitor/warmth": 0.25}


def test_public_names_have_a_group() -> None:
    assert {name.partition("/")[0] for name in NAMES.values()} == {"train", "judge", "validation"}
    assert all(name.count("/") == 1 for name in NAMES.values())


def test_writing_before_the_start_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        MetricsFile(tmp_path).write(1, {})
