"""Checkpoints: whole or absent, whatever is killed when; what is kept, and what is resumed from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron.engines.embedded.checkpoints import CheckpointDirectory

TRAINER = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
MODEL = ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json")


def trainer_wrote(where: Path) -> Path:
    """A directory as a trainer leaves it."""
    where.mkdir(parents=True)
    for name in (*TRAINER, *MODEL, "training_args.bin", "README.md"):
        (where / name).write_text(f"{where.name} {name}", encoding="utf-8")
    return where


def adopted(root: Path, step: int, **info: float) -> CheckpointDirectory:
    made = CheckpointDirectory(root)
    made.adopt(trainer_wrote(root.parent / "work" / f"checkpoint-{step}"), step, {"step": step, **info}, {})
    return made


def test_a_checkpoint_parts_the_model_from_the_trainers_state(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    written = trainer_wrote(tmp_path / "work" / "checkpoint-8")
    made = CheckpointDirectory(root).adopt(written, 8, {"step": 8, "val:accuracy": 0.5}, {"v.json": {"a": 1}})
    assert made == root / "step_8"
    assert {p.name for p in (made / "policy").iterdir()} == set(MODEL)
    assert {p.name for p in (made / "trainer").iterdir()} == {*TRAINER, "v.json"}
    assert json.loads((made / "training_info.json").read_text()) == {"step": 8, "val:accuracy": 0.5}
    assert not written.exists(), "moved, not copied"
    assert [p.name for p in root.iterdir()] == ["step_8"]


# Kills the process in the middle of adopt: at the Nth rename of any kind.
KILLED = """
import os, signal, sys
from pathlib import Path
from nemotron.engines.embedded.checkpoints import CheckpointDirectory

left = int(sys.argv[3])
rename = Path.rename

def counted(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.rename = counted
CheckpointDirectory(Path(sys.argv[1])).adopt(Path(sys.argv[2]), 4, {"step": 4}, {"v.json": {}})
"""


def test_a_kill_between_any_two_files_leaves_no_checkpoint(tmp_path: Path) -> None:
    files = len(TRAINER) + len(MODEL)
    for survived in (0, 1, files // 2, files, files + 1):
        root = tmp_path / str(survived) / "checkpoints"
        written = trainer_wrote(tmp_path / str(survived) / "work" / "checkpoint-4")
        words = [sys.executable, "-c", KILLED, str(root), str(written), str(survived)]
        done = subprocess.run(words, capture_output=True, timeout=60, check=False)
        after = CheckpointDirectory(root)
        if survived > files:  # each file is renamed once, then the whole
            assert (done.returncode, after.steps()) == (0, [4])
            continue
        assert done.returncode == -9, done.stderr.decode()
        assert after.steps() == []
        assert (root / "tmp_step_4").is_dir()
        after.remove_unfinished()
        assert list(root.iterdir()) == []


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    adopted(root, 4, **{"val:accuracy": 0.1})
    made = adopted(root, 4, **{"val:accuracy": 0.9})
    assert made.info(4)["val:accuracy"] == 0.9
    assert sorted(p.name for p in root.iterdir()) == ["step_4"]


def test_what_is_unfinished_or_not_ours_is_no_step(tmp_path: Path) -> None:
    made = adopted(tmp_path / "checkpoints", 4)
    for name in ("tmp_step_6", "tmp_step_2_removed", "step_", "step_5x", "best"):
        (made.root / name).mkdir()
    (made.root / "step_7").write_text("a file")
    assert made.steps() == [4]
    made.remove_unfinished()
    assert {p.name for p in made.root.iterdir()} == {"step_4", "step_", "step_5x", "best", "step_7"}


def test_steps_are_ordered_by_number(tmp_path: Path) -> None:
    made = CheckpointDirectory(tmp_path)
    for step in (10, 9, 100):
        made.step_dir(step).mkdir()
    assert made.steps() == [9, 10, 100]


@pytest.mark.parametrize(
    ("keep", "metric", "higher", "kept"),
    [
        (None, None, True, [1, 2, 3, 4]),
        (1, None, True, [4]),
        (2, None, True, [3, 4]),
        (0, None, True, [4]),
        (1, "val:accuracy", True, [2, 4]),
        (2, "val:accuracy", True, [2, 3, 4]),
        (1, "val:accuracy", False, [1, 4]),
        (1, "val:no_such", True, [4]),
        (9, "val:accuracy", True, [1, 2, 3, 4]),
    ],
)
def test_the_best_and_the_latest_are_kept(
    tmp_path: Path, keep: int | None, metric: str | None, higher: bool, kept: list[int]
) -> None:
    root = tmp_path / "checkpoints"
    for step, accuracy in {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.2}.items():
        made = adopted(root, step, **{"val:accuracy": accuracy})
    made.prune(keep, metric, higher)
    assert made.steps() == kept
    assert len(list(root.iterdir())) == len(kept)


def test_a_checkpoint_without_the_metric_is_the_worst(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    adopted(root, 1, **{"val:loss": 2.0})
    adopted(root, 2)
    made = adopted(root, 3, **{"val:loss": 3.0})
    made.prune(1, "val:loss", False)
    assert made.steps() == [1, 3]


PRUNE_KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from nemotron.engines.embedded.checkpoints import CheckpointDirectory

def half(path, **_):
    if Path(path).exists():
        os.unlink(Path(path) / "training_info.json")
        os.kill(os.getpid(), signal.SIGKILL)

made = CheckpointDirectory(Path(sys.argv[1]))
shutil.rmtree = half
made.prune(1, "val:loss", False)
"""


def test_a_kill_while_removing_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        made = adopted(root, step, **{"val:loss": 1.0 / step})
    words = [sys.executable, "-c", PRUNE_KILLED, str(root)]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr.decode()
    for step in made.steps():
        assert made.info(step)["step"] == step, "what looks like a checkpoint is whole"
    made.remove_unfinished()
    made.prune(1, "val:loss", False)
    assert made.steps() == [3]


def test_resuming_sees_model_and_state_side_by_side_and_copies_nothing(tmp_path: Path) -> None:
    made = adopted(tmp_path / "checkpoints", 4)
    for _ in range(2):  # the second time over what the first left
        view = made.resume_view(4, tmp_path / "work" / "resume")
        assert {p.name for p in view.iterdir()} == {*TRAINER, *MODEL}
        assert all(p.is_symlink() and p.is_file() for p in view.iterdir())
        assert (view / "optimizer.pt").read_text() == "checkpoint-4 optimizer.pt"
    assert (view / "config.json").samefile(made.step_dir(4) / "policy" / "config.json")
