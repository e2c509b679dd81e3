"""Which checkpoint a selection means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron.checkpoints.select_step import resolve_step
from nemotron.errors import NotFound, UsageError


def run(root: Path, infos: dict[int, dict[str, Any]], config: str | None = None) -> Path:
    """A NeMo-RL checkpoint directory."""
    for step, info in infos.items():
        place = root / f"step_{step}"
        place.mkdir(parents=True)
        (place / "training_info.json").write_text(json.dumps(info))
        if config is not None:
            (place / "config.yaml").write_text(config)
    (root / "tmp_step_99").mkdir()
    return root


CONFIG = "policy:\n  model_name: m\ncheckpointing:\n  metric_name: 'val:accuracy'\n  higher_is_better: true\n"
INFOS = {
    2: {"val:accuracy": 0.5, "val_loss": 1.0},
    4: {"val:accuracy": 0.9, "val_loss": 0.4},
    10: {"val:accuracy": 0.9, "val_loss": 0.7},
    12: {"val_loss": float("nan")},
}


@pytest.mark.parametrize(
    ("selection", "step"),
    [
        ("latest", 12),
        ("step:4", 4),
        ("best", 10),
        ("best:val:accuracy", 10),
        ("best:min:val_loss", 4),
        ("best:max:val_loss", 2),
        ("best:min:val:accuracy", 2),
    ],
)
def test_a_selection_means_a_step(tmp_path: Path, selection: str, step: int) -> None:
    assert resolve_step(run(tmp_path / "c", INFOS, CONFIG), selection) == step


def test_our_own_note_of_the_ranking_counts_first(tmp_path: Path) -> None:
    root = run(tmp_path / "c", INFOS, CONFIG)
    (root / "metric.json").write_text('{"metric_name": "val_loss", "higher_is_better": false}')
    assert resolve_step(root, "best") == 4
    assert resolve_step(root, "best:val_loss") == 4


@pytest.mark.parametrize(
    ("selection", "error", "match"),
    [
        ("step:5", NotFound, "no checkpoint of step 5"),
        ("best:val_los", NotFound, "no checkpoint has the metric"),
        ("best:val_loss", UsageError, "not known whether a higher val_loss is better"),
        ("newest", UsageError, "selects no checkpoint"),
        ("step:", UsageError, "selects no checkpoint"),
        ("step:-1", UsageError, "selects no checkpoint"),
        ("latest:1", UsageError, "selects no checkpoint"),
        ("best:", UsageError, "selects no checkpoint"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    tmp_path: Path, selection: str, error: type[Exception], match: str
) -> None:
    root = run(tmp_path / "c", INFOS, CONFIG)
    with pytest.raises(error, match=match):
        resolve_step(root, selection)


def test_a_close_metric_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as raised:
        resolve_step(run(tmp_path / "c", INFOS), "best:max:val:acuracy")
    assert raised.value.nearest[0] == "val:accuracy"


def test_iterations_have_a_tracker_and_no_metrics(tmp_path: Path) -> None:
    for number in (10, 20, 30):
        (tmp_path / f"iter_{number:07}").mkdir()
    assert resolve_step(tmp_path, "latest") == 30
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("20\n")
    assert resolve_step(tmp_path, "latest") == 20
    assert resolve_step(tmp_path, "step:10") == 10
    with pytest.raises(UsageError, match="keep no metrics"):
        resolve_step(tmp_path, "best:max:val_loss")


def test_an_empty_directory_has_none(tmp_path: Path) -> None:
    (tmp_path / "tmp_step_3").mkdir()
    with pytest.raises(NotFound, match="no finished checkpoint"):
        resolve_step(tmp_path, "latest")
    with pytest.raises(NotFound, match="no such directory"):
        resolve_step(tmp_path / "nowhere", "latest")
