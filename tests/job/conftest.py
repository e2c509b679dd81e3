"""Fixtures of the job's tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scheduled_run import TRAINER, ScheduledRun

from nemotron.artifacts.store import Store
from nemotron.launch.bundle import write_bundle
from nemotron.planning.build import plan_step
from nemotron.planning.request import Request


@pytest.fixture
def scheduled(world: Any, tmp_path: Path, alive: Callable[[int], bool]) -> Iterator[ScheduledRun]:
    """A run of a trainer with checkpoints, placed on a scheduler that is the test."""
    store = Store(tmp_path / "store")
    directory = store.runs_dir / "rows-20261121-101010-abcd"
    directory.mkdir(parents=True)
    write_bundle(directory, plan_step(Request("make/rows")), store)
    (directory / "trainer.py").write_text(TRAINER)
    run = ScheduledRun(directory, store.records_dir)
    selected = {"path": "checkpoints", "select": "latest", "inside": "results.json", "required": True}
    run.change(
        "plan.json",
        placement={"backend": "slurm", "launch": "python"},
        outputs=[{"port": "policy", "type": "eval_results", "key": None, **selected}],
    )
    run.behave()
    yield run
    for job in run.started:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()
    for pid, _ in run.starts():
        if alive(pid):
            os.killpg(pid, signal.SIGKILL)
