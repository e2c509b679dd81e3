"""Which of a trainer's files are the outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron.job.outputs import find_outputs, select_step


def output(**changes: Any) -> dict[str, Any]:
    return {
        "port": "policy",
        "type": "checkpoint_hf",
        "path": "checkpoints",
        "select": "best",
        "inside": "policy",
        "required": True,
    } | changes


def save(root: Path, step: int | str, **metrics: Any) -> None:
    place = root / f"step_{step}" / "policy"
    place.mkdir(parents=True)
    (place.parent / "training_info.json").write_text(json.dumps(metrics))


def rank_by(root: Path, name: str | None, *, higher: bool = True) -> None:
    (root / "metric.json").write_text(json.dumps({"metric_name": name, "higher_is_better": higher}))


def test_the_latest_checkpoint_is_the_highest_step_not_the_last_by_name(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        save(tmp_path, step)
    assert select_step(tmp_path, "latest") == 100
    assert select_step(tmp_path, "best") == 100, "nothing says what better is"


@pytest.mark.parametrize(("higher", "best"), [(True, 20), (False, 10)])
def test_the_best_checkpoint_is_the_best_by_its_metric(tmp_path: Path, higher: bool, best: int) -> None:
    for step, reward in ((10, 0.1), (20, 0.9), (30, 0.5)):
        save(tmp_path, step, reward=reward)
    rank_by(tmp_path, "reward", higher=higher)
    assert select_step(tmp_path, "best") == best
    assert select_step(tmp_path, "latest") == 30


def test_of_equals_the_later_one_is_taken(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, reward=1.0 if step < 30 else 0.0)
    rank_by(tmp_path, "reward")
    assert select_step(tmp_path, "best") == 20


def test_checkpoints_without_a_usable_score_do_not_win(tmp_path: Path) -> None:
    for step, reward in ((10, 0.5), (20, float("nan")), (30, "NaN"), (40, None), (50, float("inf"))):
        save(tmp_path, step, reward=reward)
    rank_by(tmp_path, "reward")
    assert select_step(tmp_path, "best") == 10
    rank_by(tmp_path, "another")
    assert select_step(tmp_path, "best") == 50


def test_what_is_still_being_written_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path, "20.tmp")
    save(tmp_path, "x")
    (tmp_path / "tmp_step_30").mkdir()
    assert select_step(tmp_path, "latest") == 10


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b'{"metric_name": 5}'])
def test_a_damaged_ranking_falls_back_to_the_latest(tmp_path: Path, damage: bytes) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "metric.json").write_bytes(damage)
    assert select_step(tmp_path, "best") == 2


def test_outputs_name_their_place_and_the_step_of_training(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints", 7)
    (tmp_path / "rows.jsonl").write_text("")
    planned = [
        output(),
        output(port="rows", type="training_jsonl", path="rows.jsonl", select=None, inside=None),
    ]
    assert find_outputs(tmp_path, planned) == (
        {
            "policy": {
                "type": "checkpoint_hf",
                "path": str(tmp_path / "checkpoints/step_7/policy"),
                "step_of_training": 7,
            },
            "rows": {"type": "training_jsonl", "path": str(tmp_path / "rows.jsonl")},
        },
        None,
    )


def test_every_missing_output_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/step_3").mkdir(parents=True)
    planned = [
        output(),
        output(port="rows", path="rows.jsonl", select=None),
        output(port="extra", path="extra", select=None, required=False),
    ]
    found, missing = find_outputs(tmp_path, planned)
    assert found == {}
    assert missing is not None
    assert "output policy" in missing
    assert "output rows" in missing
    assert "extra" not in missing


def test_an_output_may_lie_outside_the_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "rows.jsonl").write_text("")
    found, _ = find_outputs(tmp_path / "run", [output(path=str(tmp_path / "rows.jsonl"), select=None)])
    assert found["policy"]["path"] == str(tmp_path / "rows.jsonl")
