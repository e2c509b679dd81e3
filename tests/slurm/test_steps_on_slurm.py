"""Steps on a real Slurm through the command line: how they end, go on, and are found again."""

from __future__ import annotations

import json
import signal
import time

import pytest
from slurm_cluster import wait_until
from slurm_site import Site

pytestmark = pytest.mark.slurm


def test_an_attached_run_shows_its_log_and_its_outputs(site: Site) -> None:
    done = site.run("steps", "run", "make/rows", "-r", "cluster")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("started witho\nwritten\n")
    ((run, told),) = site.listed().items()
    assert told["state"] == "succeeded" and run in done.stdout
    assert site.json(run, "outputs.json")["rows"]["type"] == "training_jsonl"
    again = json.loads(site.run("steps", "run", "make/rows", "-r", "cluster", "--json").stdout)
    assert (again["outcome"], again["run"]) == ("reused", run)


def test_a_detached_run_goes_on_alone(site: Site) -> None:
    done = site.run("steps", "run", "make/rows", "-b", "cluster")
    assert done.returncode == 0, done.stderr
    run = done.stdout.strip()
    wait_until((site.directory(run) / "record.json").exists, "it does not end")
    # Nobody has waited for it.
    again = json.loads(site.run("steps", "run", "make/rows", "-b", "cluster", "--json").stdout)
    assert (again["outcome"], again["run"]) == ("reused", run)
    assert site.wait(run) == (0, ["succeeded"])
    assert "written" in site.run("runs", "logs", run).stdout


def test_the_exit_code_of_a_failing_trainer_comes_through(site: Site) -> None:
    attached = site.run("steps", "run", "make/rows", "-r", "cluster", "behave=fail")
    assert attached.returncode == 7
    assert "the reason is in this line" in attached.stdout and "Traceback" not in attached.stderr
    run = site.submit("make/rows", "behave=fail", "rows=5")
    assert site.wait(run) == (7, ["failed"])
    assert site.cluster.exit_code(site.job(run)) == "7:0"


def test_queued_and_running_runs_are_cancelled(site: Site) -> None:
    queued = site.submit("make/rows", "rows=4", "run.env.sbatch.hold=true")
    running = site.submit("make/rows", "behave=sleep")
    site.until_started(running)
    assert {run["state"] for run in site.listed().values()} == {"queued", "running"}
    done = site.run("runs", "cancel", queued, running)
    assert done.returncode == 0, done.stderr
    assert {run["state"] for run in site.listed().values()} == {"interrupted"}
    assert site.queue() == []
    assert site.json(running, "record.json")["exit_code"] == 130
    # Both go on when somebody asks for them once more.
    assert site.submit("make/rows", "behave=sleep") == running
    site.run("runs", "cancel", running)


def test_ctrl_c_cancels_an_attached_run(site: Site) -> None:
    client = site.start("steps", "run", "make/rows", "-r", "cluster", "behave=polite")
    wait_until(lambda: len(site.world.runs()) == 1, "no run")
    (directory,) = site.world.runs()
    site.until_started(directory.name)
    client.send_signal(signal.SIGINT)
    _, said = client.communicate(timeout=60)
    assert client.returncode == 130 and "is cancelled" in said
    assert site.listed()[directory.name]["state"] == "interrupted" and site.queue() == []


def test_a_requeued_job_is_a_second_attempt_of_the_same_run(site: Site) -> None:
    run = site.submit("make/rows", "behave=sleep_once")
    site.until_started(run)
    site.cluster.run(["scontrol", "requeue", site.job(run)], check=True)
    assert site.wait(run) == (0, ["succeeded"])
    assert list(site.listed()) == [run]
    assert site.json(run, "record.json")["attempt"] == 2
    assert len(site.jobs(run)) == 1
    assert {p.name for p in site.directory(run).glob("logs/attempt-*")} == {
        "attempt-1.log",
        "attempt-2.log",
    }


def test_a_run_waits_for_a_drained_node_and_says_why(site: Site) -> None:
    for node in ("n1", "n2"):
        site.cluster.drain(node)
    run = site.submit("make/rows")
    wait_until(lambda: "DRAINED" in str(site.listed()[run]["reason"]), "it does not say why")
    assert site.listed()[run]["state"] == "queued"
    site.cluster.resume("n2")
    assert site.wait(run) == (0, ["succeeded"])


def test_a_controller_that_restarts_is_waited_for(site: Site) -> None:
    run = site.submit("make/rows", "behave=gate", f"text={site.work / 'gate'}")
    site.until_started(run)
    waiting = site.start("runs", "wait", run)
    site.cluster.stop_controller()
    try:
        listed = site.run("runs", "list", "--json")
        told = {each["run"]: each for each in json.loads(listed.stdout)["runs"]}
        assert told[run]["state"] == "running"
        begun = time.monotonic()
        (site.work / "gate").touch()
        wait_until((site.directory(run) / "record.json").exists, "the job does not end by itself")
        assert time.monotonic() - begun < 30
    finally:
        site.cluster.start_controller()
    out, said = waiting.communicate(timeout=60)
    assert (waiting.returncode, out.split()) == (0, [run, "succeeded"]), said
