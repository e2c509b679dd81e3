"""What becomes of runs on a real Slurm: followed, cancelled, lost and adopted by other processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster

from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store
from nemotron.artifacts.submissions import Journal, Submission
from nemotron.launch.bundle import write_bundle
from nemotron.launch.refresh import refresh
from nemotron.launch.slurm.backend import BACKEND
from nemotron.launch.waiting import Teller, cancel_runs, wait_for_end
from nemotron.planning.build import plan_step
from nemotron.planning.request import Request

pytestmark = pytest.mark.slurm


def handed_over(world: Any, *overrides: str, noted: bool = True, hold: bool = False) -> Run:
    """A run of make/rows on the cluster; not noted: its client was killed before it could."""
    store = Store(world.home)
    plan = plan_step(Request("make/rows", overrides=overrides))
    options = {"time": 5, **({"sbatch": {"hold": True}} if hold else {})}
    plan = replace(plan, placement=replace(plan.placement, backend="slurm", profile="c", options=options))
    directory = store.runs_dir / f"make-rows-20261121-100000-{os.urandom(2).hex()}"
    directory.mkdir(parents=True)
    write_bundle(directory, plan, store)
    for name, text in BACKEND.files(plan).items():
        (directory / name).write_text(text.replace("{run_dir}", str(directory)))
    begun = Submission("slurm", "", directory.name, at="2026-01-01T00:00:00.000Z")
    Journal(directory).note("submitting", begun)
    job = BACKEND.submit(directory, plan, begun, ())
    if noted:
        Journal(directory).note("submitted", job, begun=begun.at)
    return Run(directory)


def test_runs_end_with_their_own_exit_codes(world: Any, cluster: Cluster) -> None:
    good, bad = handed_over(world), handed_over(world, "behave=fail")
    told = wait_for_end(Store(world.home), [good, bad], Teller(), 120)
    assert [(each.state, each.exit_code) for each in told] == [("succeeded", 0), ("failed", 7)]
    assert Path(good.record["outputs"]["rows"]["path"]).is_file()


def test_a_job_that_waits_is_cancelled_and_recorded(world: Any, cluster: Cluster) -> None:
    run, store = handed_over(world, hold=True), Store(world.home)
    refresh(store, [run])
    assert (run.state(), run.standing().reason) == ("queued", "JobHeldUser")
    assert cancel_runs(store, [run], Teller(), 60) == {run.id: True}
    assert (run.state(), run.record["reason"], run.attempts) == ("interrupted", "cancelled", 1)


def test_a_client_that_was_killed_leaves_no_job_unknown(world: Any, cluster: Cluster) -> None:
    run, store = handed_over(world, hold=True, noted=False), Store(world.home)
    assert run.state() == "unknown"
    for _ in range(2):
        refresh(store, [run])
    (job,) = Journal(run.directory).submitted()
    assert (run.state(), cluster.state(job.job)) == ("queued", "PENDING")
    cancel_runs(store, [run], Teller(), 60)
