"""A run that ended is told to W&B afterwards, once, by `runs export --format wandb`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb", reason="of the test group: make test")


@pytest.fixture
def ended(training: Any) -> tuple[Any, Path]:
    """The world, and a run of it that W&B has not heard of."""
    assert training.run("steps", "run", "train/chat", "logger.wandb_enabled=false").code == 0
    return training, next(run for run in training.runs() if run.name.startswith("train"))


def export(world: Any, run: Path, **environ: str) -> Any:
    return world.run("runs", "export", run.name, "--format", "wandb", **environ)


def test_all_of_an_ended_run_is_told(ended: tuple[Any, Path], kept: Any) -> None:
    world, run = ended
    done = export(world, run)
    assert done.code == 0, done.err
    (where,) = done.out.splitlines()
    assert Path(where).parent == run / "wandb"
    told = kept(run)
    assert [step for step, _ in told.metrics] == [1, 2, 3, 4, 5]
    assert [a.type for a in told.artifacts] == ["training_jsonl", "eval_results"]
    assert told.exits == [0]


def test_rows_are_told_once_however_often_it_is_exported(ended: tuple[Any, Path], kept: Any) -> None:
    world, run = ended
    assert export(world, run).code == export(world, run).code == 0
    told = kept(run)
    assert len(told.runs) == 2
    assert [step for step, _ in told.metrics] == [1, 2, 3, 4, 5]


def test_another_project_is_told_everything(ended: tuple[Any, Path], kept: Any) -> None:
    world, run = ended
    assert export(world, run).code == 0
    note = json.loads((run / "wandb.json").read_text(encoding="utf-8"))
    (run / "wandb.json").write_text(json.dumps({**note, "target": "me/other/x"}), encoding="utf-8")
    assert export(world, run).code == 0
    assert [step for step, _ in kept(run).metrics] == [1, 2, 3, 4, 5] * 2


def test_a_run_whose_output_is_gone_keeps_its_place_in_the_graph(ended: tuple[Any, Path], kept: Any) -> None:
    world, run = ended
    (run / "scores.json").unlink()
    assert export(world, run).code == 0
    made = kept(run).artifacts[-1]
    assert made.name.startswith("eval_results-")
    assert list(made.manifest.contents) == []


def test_a_directory_is_referred_to_file_by_file(training: Any, kept: Any) -> None:
    script = "from pathlib import Path\nPath('out').mkdir()\n"
    script += "[Path('out', name).write_text('{}') for name in ('a b.json', 'c#d.json')]\n"
    toml = '[step]\nid = "{id}"\ndescription = "Makes a directory."\n[[produces]]\nname = "out"\n'
    toml += 'type = "binidx"\nconfig = "output"\n[run]\nengines = ["script"]\nlaunch = "python"\n'
    training.add_step("make/two", toml, configs={"default": "output: out"}, script=script)
    done = training.run("steps", "run", "make/two")
    assert done.code == 0, done.err
    (run,) = training.runs()
    assert export(training, run).code == 0
    (made,) = kept(run).artifacts
    assert {entry.path for entry in made.manifest.contents} == {"a b.json", "c#d.json"}
    assert all(entry.ref.startswith((run / "out").as_uri()) for entry in made.manifest.contents)


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("raise ModuleNotFoundError('no wandb', name='wandb')", 2, "pip install 'nemotron[wandb]'"),
        ("raise RuntimeError('broken')", 6, "RuntimeError: broken"),
        ("import time; time.sleep(600)", 6, "no answer within 1 s"),
    ],
)
def test_what_goes_wrong_is_the_commands_failure(
    ended: tuple[Any, Path], code: str, exit_code: int, said: str
) -> None:
    world, run = ended
    place = world.root / "fake"
    place.mkdir()
    (place / "wandb.py").write_text(code, encoding="utf-8")
    path = os.pathsep.join([str(place), world.environ.get("PYTHONPATH", "")])
    done = export(world, run, PYTHONPATH=path, NEMOTRON_WANDB_SECONDS="1")
    assert done.code == exit_code
    assert said in done.err
    assert done.out == ""


def test_a_run_that_is_going_on_is_left_to_its_launcher(training: Any, wait_for: Any) -> None:
    training.start("steps", "run", "train/chat", "behave=slow", "steps=50", "logger.wandb_enabled=false")
    wait_for(lambda: list((training.home / "runs").glob("train-*/metrics.jsonl")))
    run = next(run for run in training.runs() if run.name.startswith("train"))
    done = export(training, run)
    assert done.code == 5
    assert "is going on" in done.err
