"""RLHF on a real Ray cluster, with all that it is built on: detached and attached, failing, cancelled, found.

One store for all of these: what one test has built, the others use.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_server import ADDRESS

from nemotron.launch.ray_jobs.api import Jobs

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEP = ("steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny", "--engine", "embedded")
# Of the whole chain, and of its last run: for busy machines.
_CHAIN_SECONDS, _RUN_SECONDS = 1500.0, 500.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of this module."""
    return tmp_path_factory.mktemp("rlhf") / "store"


@pytest.fixture
def cluster(place: Any, shared: Path) -> Iterator[Any]:
    """A world with that store; its tests stand in the order in which they run."""
    place.environ["NEMOTRON_HOME"] = str(shared)
    yield place


def states(world: Any) -> dict[str, str]:
    return {each["run"]: each["state"] for each in world.run("runs", "list", "--json").json["runs"]}


def run_of(world: Any, step: str) -> list[str]:
    return [run for run in states(world) if run.startswith(step)]


def ended(process: Any, seconds: float) -> tuple[str, str]:
    out, err = process.communicate(timeout=seconds)
    return str(out), str(err)


def test_a_chain_outlives_its_client_and_is_found_again(cluster: Any, wait_for: Callable[..., Any]) -> None:
    """Killed while the first run goes on: those after it wait on the cluster, and begin there."""
    client = cluster.start(*STEP, "-r", "ray")
    wait_for(lambda: (cluster.home / "runs").is_dir() and run_of(cluster, "rl-rlhf"), seconds=120)
    run = wait_for(lambda: run_of(cluster, "rl-rlhf"))[0]
    journal = cluster.home / "runs" / run / "submissions.jsonl"
    wait_for(lambda: journal.is_file() and '"submitted"' in journal.read_text(), seconds=60)
    client.send_signal(signal.SIGKILL)
    client.wait()
    known = states(cluster)
    assert known[run] == "queued" and len(known) >= 4
    shown = cluster.run("runs", "show", run, "--json").json
    assert shown["state"] == "queued" and "waits for the runs" in json.dumps(shown)
    jobs = {str(each["submission_id"]): each for each in Jobs(ADDRESS).jobs()}
    assert f"{run}.wait" in jobs and run not in jobs
    follower = cluster.start("runs", "logs", run, "-f")
    out, err = ended(follower, _CHAIN_SECONDS)
    assert follower.returncode == 0, err
    assert "reward" in out
    waited = cluster.run("runs", "wait", *known)
    assert waited.code == 0, waited.err
    assert set(states(cluster)) == set(known) and set(states(cluster).values()) == {"succeeded"}
    record = json.loads((cluster.home / "runs" / run / "record.json").read_text())
    assert {each["made_by"] for each in record["inputs"].values()} < set(known)


def test_detached_it_is_reused_and_attached_it_runs_again(cluster: Any) -> None:
    before = states(cluster)
    again = cluster.run(*STEP, "-b", "ray", "--json")
    assert again.code == 0, again.err
    assert again.json["outcome"] == "reused" and states(cluster) == before
    client = cluster.start(*STEP, "-r", "ray", "--no-cache")
    out, err = ended(client, _RUN_SECONDS)
    assert client.returncode == 0, err[-3000:]
    assert "reward" in out
    (run,) = set(states(cluster)) - set(before)
    assert (cluster.home / "runs" / run / "outputs.json").is_file()


def test_one_that_fails_ends_with_its_exit_code_and_its_reason(cluster: Any) -> None:
    client = cluster.start(*STEP, "-r", "ray", "policy.generation.max_new_tokens=100000")
    out, err = ended(client, _RUN_SECONDS)
    assert client.returncode not in (0, 6, 130), out[-2000:]
    newest = cluster.run("runs", "list", "--json").json["runs"][0]
    assert newest["state"] == "failed"
    assert newest["run"] in err and "Traceback" not in err
    assert cluster.run("runs", "logs", newest["run"]).code == 0


def test_one_that_is_cancelled_has_saved_and_goes_on(cluster: Any, wait_for: Callable[..., Any]) -> None:
    words = (*STEP, "-b", "ray", "grpo.max_num_steps=60")
    begun = cluster.run(*words)
    assert begun.code == 0, begun.err
    run = begun.out.strip()
    metrics = cluster.home / "runs" / run / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and len(metrics.read_text().splitlines()) > 2, seconds=120)
    cancelled = cluster.run("runs", "cancel", run)
    assert cancelled.code == 0, cancelled.err
    assert states(cluster)[run] == "interrupted"
    assert list((cluster.home / "runs" / run).rglob("step_*"))
    again = cluster.run(*words, "--json")
    assert (again.json["run"], again.json["outcome"]) == (run, "resumed"), again.err
    waiter = cluster.start("runs", "wait", run)
    _, err = ended(waiter, _RUN_SECONDS)
    assert waiter.returncode == 0, err
    assert {str(each["submission_id"]) for each in Jobs(ADDRESS).jobs()} >= {run, f"{run}.2"}
