"""Detached runs of this machine: real processes that nobody waits for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.run_state import process_lives
from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store
from nemotron.artifacts.submissions import Journal, Submission
from nemotron.errors import SchedulerError
from nemotron.launch.backend import After, find_backend
from nemotron.launch.bundle import write_bundle
from nemotron.launch.detached.backend import BACKEND
from nemotron.launch.refresh import refresh
from nemotron.launch.waiting import Teller, cancel_runs, wait_for_end
from nemotron.planning.build import plan_step
from nemotron.planning.plan import Plan
from nemotron.planning.request import Request

NOW = "2026-11-21T12:30:06.000Z"


class Desk:
    """Hands runs of make/rows over, as `steps run -b` does."""

    def __init__(self, world: Any) -> None:
        self.store = Store(world.home)
        self.gate = world.root / "gate"
        self.jobs: list[Submission] = []

    def prepare(self, *overrides: str, number: int = 0) -> tuple[Run, Plan]:
        plan = plan_step(Request("make/rows", overrides=overrides))
        directory = self.store.runs_dir / f"make-rows-20261121-1000{number:02d}-abcd"
        directory.mkdir(parents=True)
        write_bundle(directory, plan, self.store)
        return Run(directory), plan

    def submit(
        self, run: Run, plan: Plan, after: Sequence[After] = (), *, part: int = 1, parts: int = 1
    ) -> Submission:
        journal = Journal(run.directory)
        begun = Submission("local", "", run.id, at=NOW, part=part, parts=parts)
        journal.note("submitting", begun)
        job = BACKEND.submit(run.directory, plan, begun, after)
        journal.note("submitted", job, begun=NOW)
        self.jobs.append(job)
        return job

    def run(self, *overrides: str, number: int = 0, after: Sequence[After] = ()) -> tuple[Run, Submission]:
        run, plan = self.prepare(*overrides, number=number)
        return run, self.submit(run, plan, after)

    def wait(self, *runs: Run) -> list[tuple[str, int]]:
        ended = wait_for_end(self.store, runs, Teller(), 40)
        return [(each.state, each.exit_code) for each in ended]


@pytest.fixture
def desk(world: Any) -> Iterator[Desk]:
    made = Desk(world)
    yield made
    made.gate.touch()
    for job in made.jobs:
        if process_lives(job.job):
            os.killpg(pid_of(job), signal.SIGKILL)
    for starts in made.store.runs_dir.glob("*/starts"):
        kill_trainer(starts)


def kill_trainer(starts: Path) -> None:
    """A trainer that is no program of ours outlives a job that was killed; it is in a session of its own."""
    for pid in map(int, starts.read_text().split()):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if str(starts.parent).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def pid_of(job: Submission) -> int:
    return int(job.job.partition(":")[0])


def test_it_is_found_by_name() -> None:
    assert find_backend("local") is BACKEND


def test_a_detached_run_goes_on_by_itself_and_is_waited_for(desk: Desk, wait_for: Callable[..., Any]) -> None:
    run, job = desk.run("behave=gate", f"text={desk.gate}")
    wait_for(lambda: (run.directory / "starts").exists())
    assert run.state() == "running"
    assert os.getsid(pid_of(job)) == pid_of(job), "in a session of its own"
    assert BACKEND.status([job])[job.job].state == "running"
    desk.gate.touch()
    assert desk.wait(run) == [("succeeded", 0)]
    assert BACKEND.status([job])[job.job].state == "succeeded"
    assert run.record["scheduler_id"] == job.job
    assert "written" in (run.directory / "logs/attempt-1.log").read_text()
    assert not list(run.directory.glob("failure.json"))


def test_a_detached_run_outlives_the_process_that_started_it(
    world: Any, desk: Desk, wait_for: Callable[..., Any], alive: Callable[[int], bool]
) -> None:
    run, plan = desk.prepare("behave=gate", f"text={desk.gate}")
    (run.directory / "plan").write_text(plan.to_json())
    client = (
        "import json, os, signal, sys; from pathlib import Path\n"
        "from nemotron.launch.detached.backend import BACKEND; from nemotron.planning.plan import Plan\n"
        "from nemotron.artifacts.submissions import Journal, Submission\n"
        "place = Path(sys.argv[1])\n"
        "part = Submission('local', '', place.name, at='2026-11-21T12:30:06.000Z')\n"
        "Journal(place).note('submitting', part)\n"
        "BACKEND.submit(place, Plan.from_dict(json.loads((place / 'plan').read_text())), part, ())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", client, str(run.directory)], env=world.environ)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: (run.directory / "starts").exists())
    assert run.state() == "running"
    assert Journal(run.directory).submitted() == (), "it was killed before it could note the answer"
    refresh(desk.store, [run])
    (job,) = Journal(run.directory).submitted()
    desk.jobs.append(job)
    assert alive(pid_of(job))
    assert BACKEND.status([job])[job.job].state == "running"
    desk.gate.touch()
    assert desk.wait(run) == [("succeeded", 0)]


def test_its_exit_code_comes_through(desk: Desk) -> None:
    run, job = desk.run("behave=fail")
    assert desk.wait(run) == [("failed", 7)]
    assert BACKEND.status([job])[job.job].exit_code == 7


def test_cancelling_asks_the_trainer_to_leave(desk: Desk, wait_for: Callable[..., Any]) -> None:
    run, job = desk.run("behave=polite")
    wait_for(lambda: (run.directory / "rows.jsonl").exists())
    assert cancel_runs(desk.store, [run], Teller(), 30) == {run.id: True}
    assert (run.state(), run.record["reason"]) == ("interrupted", "interrupted")
    assert not process_lives(job.job)
    assert cancel_runs(desk.store, [run], Teller(), 30) == {run.id: False}, "over: no error, and said so"


def test_a_run_that_was_killed_is_interrupted_and_never_running_for_ever(
    desk: Desk, wait_for: Callable[..., Any]
) -> None:
    run, job = desk.run("behave=sleep")
    wait_for(lambda: (run.directory / "starts").exists())
    os.killpg(pid_of(job), signal.SIGKILL)
    wait_for(lambda: not process_lives(job.job))
    assert run.state() == "running", "its trainer works on, and holds the run's lock"
    kill_trainer(run.directory / "starts")
    wait_for(lambda: run.state() != "running")
    assert run.state() == "interrupted", "told without asking anybody"
    refresh(desk.store, [run])
    assert (run.state(), run.record["reason"], run.record["attempt"]) == ("interrupted", "lost", 1)


def test_after_a_reboot_its_number_is_that_of_another_process(desk: Desk) -> None:
    run, _ = desk.prepare()
    mine = Submission("local", f"{os.getpid()}:1", run.id, cluster=os.uname().nodename, at=NOW)
    Journal(run.directory).note("submitted", mine)
    assert run.state() == "interrupted"
    BACKEND.cancel([mine])  # does not end this process
    assert BACKEND.status([mine])[mine.job].state == "cancelled"


def test_it_waits_for_what_it_is_based_on(desk: Desk, wait_for: Callable[..., Any]) -> None:
    first, job = desk.run("behave=gate", f"text={desk.gate}")
    runs = [first]
    for number in (1, 2):
        run, job = desk.run(f"rows={number}", number=number, after=[After((job,))])
        runs.append(run)
    wait_for(lambda: (first.directory / "starts").exists())
    time.sleep(0.3)
    assert [run.state() for run in runs] == ["running", "queued", "queued"]
    assert [s.state for s in BACKEND.status(desk.jobs).values()] == ["running", "pending", "pending"]
    assert runs[1].attempts == 0
    desk.gate.touch()
    assert desk.wait(*runs) == [("succeeded", 0)] * 3
    assert runs[1].record["at"] > first.record["at"]


def test_what_is_based_on_a_failure_does_not_begin(desk: Desk) -> None:
    first, job = desk.run("behave=fail")
    second, job = desk.run(number=1, after=[After((job,))])
    third, _ = desk.run(number=2, after=[After((job,))])
    whatever, _ = desk.run("rows=5", number=3, after=[After((job,), "any")])
    told = desk.wait(first, second, third, whatever)
    assert told == [("failed", 7), ("interrupted", 130), ("interrupted", 130), ("succeeded", 0)]
    assert second.record["reason"] == "cancelled"
    assert f"run {first.id} did not succeed" in (second.directory / "logs/attempt-1.log").read_text()
    assert not (second.directory / "starts").exists()


def test_a_run_that_waits_can_be_cancelled(desk: Desk, wait_for: Callable[..., Any]) -> None:
    first, job = desk.run("behave=gate", f"text={desk.gate}")
    second, waiting = desk.run(number=1, after=[After((job,))])
    wait_for(lambda: (first.directory / "starts").exists())
    cancel_runs(desk.store, [second], Teller(), 30)
    assert (second.state(), first.state()) == ("interrupted", "running")
    assert not process_lives(waiting.job)
    desk.gate.touch()
    assert desk.wait(first, second) == [("succeeded", 0), ("interrupted", 130)]


def test_it_cannot_wait_for_a_job_of_a_cluster(desk: Desk) -> None:
    run, plan = desk.prepare()
    other = Submission("slurm", "12", "other", cluster="c1")
    with pytest.raises(SchedulerError, match="other"):
        desk.submit(run, plan, [After((other,))])


def test_a_job_of_another_machine_is_not_told_of_here(desk: Desk) -> None:
    run, _ = desk.prepare()
    job = Submission("local", "1:1", run.id, cluster="elsewhere", at=NOW)
    Journal(run.directory).note("submitted", job)
    assert BACKEND.status([job])["1:1"].state == "unknown"
    assert run.state() == "queued"
    with pytest.raises(SchedulerError, match="elsewhere"):
        BACKEND.cancel([job])


def test_no_word_of_an_allocation_around_it_reaches_the_job(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEMOTRON_DEADLINE", "1")
    monkeypatch.setenv("NEMOTRON_NODE_RANK", "3")
    run, job = desk.run()
    assert desk.wait(run) == [("succeeded", 0)]
    assert json.loads((run.directory / "attempt.json").read_text())["job"] == job.job


def test_a_store_with_any_name_will_do(world: Any, desk: Desk) -> None:
    desk.store = Store(world.root / "a $(touch x) 'b' \"c\" \u6a21;d")
    run, _ = desk.run()
    assert desk.wait(run) == [("succeeded", 0)]
    assert not Path("x").exists()
