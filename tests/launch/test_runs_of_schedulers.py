"""`nemotron runs` on runs that a scheduler has: what is printed, and what the commands end with."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_scheduler import Scheduler, submitted

from nemotron.artifacts.records import AttemptRecord, timestamp, write_record
from nemotron.artifacts.runs import Run
from nemotron.artifacts.submissions import Journal, Submission
from nemotron.launch import backend

Cli = Callable[..., Any]
ID = "rl-rlhf-20261121-123005-00ff"


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """What `find_backend("fake")` finds."""
    made = Scheduler()
    module = types.ModuleType("fake_backend")
    module.BACKEND = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_backend", module)
    monkeypatch.setattr(backend, "_OURS", {"fake": "fake_backend"})
    return made


def run_of(world: Any, run_id: str = ID, **changes: Any) -> Run:
    place = world.home / "runs" / run_id
    place.mkdir(parents=True)
    recipe = {"step": "rl/nemo_rl/rlhf", "engine": "embedded", "config": {"grpo": {"kl": 0.1}}}
    placement = {"backend": "fake", "profile": "big", "nodes": 1, "environment": {"HF_HOME": "/hf"}}
    plan = {"recipe": recipe, "placement": placement, "config_name": "tiny", **changes}
    (place / "plan.json").write_text(json.dumps(plan))
    told = {"records_dir": str(world.home / "records"), "inputs": {}}
    (place / "place.json").write_text(json.dumps(told))
    (place / "recipe").write_text("blake3:" + "c" * 64 + "\n")
    return Run(place)


def ended(run: Run, job: str, code: int, reason: str | None = None, **more: Any) -> None:
    (run.directory / "logs").mkdir(exist_ok=True)
    (run.directory / "logs/attempt-1.log").write_text("the last line\n")
    now = timestamp(datetime.now(UTC))
    record = AttemptRecord(
        run_id=run.id,
        attempt=1,
        phase="ended",
        at=now,
        exit_code=code,
        reason=reason,
        scheduler_id=job,
        **more,
    )
    write_record(Path(run.place["records_dir"]), record)
    (run.directory / "record.json").write_text(json.dumps(record.as_dict()))


def test_a_list_asks_once_and_shows_job_and_place(world: Any, cli: Cli, scheduler: Scheduler) -> None:
    runs = [run_of(world, f"a-20261121-12300{n}-0000") for n in range(3)]
    for n, run in enumerate(runs):
        submitted(run.directory, f"4{n}")
        scheduler.tell(f"4{n}", "pending", reason="Priority")
    scheduler.tell("42", "running")
    lines = [line.split() for line in cli("runs", "list").out.splitlines()]
    assert lines[0][:6] == ["RUN", "STEP", "ENGINE", "STATE", "JOB", "WHERE"]
    assert [line[3:6] for line in lines[1:]] == [
        ["running", "42", "fake/big"],
        ["queued", "41", "fake/big"],
        ["queued", "40", "fake/big"],
    ]
    assert [what for what, _ in scheduler.calls] == ["status"]
    listed = cli("runs", "list", "--no-refresh", "--json").json["runs"]
    assert len(scheduler.calls) == 1
    assert [r["reason"] for r in listed] == [None, "Priority", "Priority"]
    assert (listed[0]["backend"], listed[0]["profile"], listed[0]["job"]) == ("fake", "big", "42")


def test_what_is_known_is_shown_with_its_age_while_a_scheduler_is_silent(
    world: Any, cli: Cli, scheduler: Scheduler
) -> None:
    run = run_of(world)
    submitted(run.directory, "40")
    scheduler.tell("40", "running")
    cli("runs", "list")
    seen = run.directory / "scheduler.json"
    then = timestamp(datetime.now(UTC) - timedelta(minutes=5))
    seen.write_text(json.dumps(json.loads(seen.read_text()) | {"at": then}))
    scheduler.silent = True
    done = cli("runs", "list")
    assert done.code == 0
    assert "running (5 min ago)" in done.out
    assert "connection refused" in done.err
    assert "running (5 min ago)" in cli("runs", "show", run.id).out


def test_a_run_that_was_adopted_is_listed_once(world: Any, cli: Cli, scheduler: Scheduler) -> None:
    run = run_of(world)
    begun = Submission("fake", "", run.id, at=timestamp(datetime.now(UTC)))
    Journal(run.directory).note("submitting", begun)
    early = AttemptRecord(
        run_id=run.id, attempt=1, phase="submitted", at=begun.at, directory=str(run.directory), backend="fake"
    )
    write_record(Path(run.place["records_dir"]), early)
    scheduler.known = {run.id: (Submission("fake", "40", run.id, cluster="c1"),)}
    scheduler.tell("40", "pending")
    for _ in range(2):
        (listed,) = cli("runs", "list", "--json").json["runs"]
        assert (listed["run"], listed["job"], listed["state"]) == (run.id, "40", "queued")


def test_a_list_of_ended_runs_loads_no_backend(world: Any) -> None:
    run = run_of(world)
    submitted(run.directory, "40")
    ended(run, "40", 0)
    code = (
        "import sys; from nemotron.cli.app import run; run(['runs', 'list'], None)\n"
        "print(*[m for m in sys.modules if m.startswith(('nemotron.launch', 'nemotron.planning'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=world.environ, cwd=world.work, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[1].split()[0] == ID, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_a_run_is_shown_with_its_jobs_and_why_it_waits(world: Any, cli: Cli, scheduler: Scheduler) -> None:
    run = run_of(world)
    submitted(run.directory, "40", "41")
    (run.directory / "submit.sh").touch()
    scheduler.tell("40", "running", nodes=("n1", "n2"), started="2026-11-21T12:31:00Z")
    scheduler.tell("41", "pending", reason="Dependency")
    text = cli("runs", "show", run.id[:7]).out
    assert "job      40 (part 1 of 2): running on n1, n2" in text
    assert "job      41 (part 2 of 2): pending (Dependency)" in text
    assert f"script   {run.directory}/submit.sh" in text
    shown = cli("runs", "show", run.id, "--no-refresh", "--json").json
    assert [(j["job"], j["state"], j["nodes"]) for j in shown["jobs"]] == [
        ("40", "running", ["n1", "n2"]),
        ("41", "pending", []),
    ]
    assert shown["state"] == "running"


@pytest.mark.parametrize(("code", "reason"), [(0, None), (42, "trainer failed"), (130, "walltime")])
def test_waiting_ends_as_the_run_does(
    world: Any, cli: Cli, scheduler: Scheduler, code: int, reason: str | None
) -> None:
    run = run_of(world)
    submitted(run.directory, "40")
    scheduler.tell("40", "running")

    def end() -> None:
        ended(run, "40", code, reason)
        scheduler.tell("40", "timeout" if reason == "walltime" else "succeeded")

    timer = threading.Timer(0.4, end)
    timer.start()
    done = cli("runs", "wait", run.id, "--timeout", "30", "--json")
    timer.join()
    assert done.code == code
    (told,) = done.json["runs"]
    assert (told["run"], told["exit_code"], told["reason"]) == (run.id, code, reason)
    assert f"{run.id} is running" in done.err


def test_waiting_for_several_tells_of_all(world: Any, cli: Cli, scheduler: Scheduler) -> None:
    runs = [run_of(world, f"a-20261121-12300{n}-0000") for n in range(3)]
    for n, run in enumerate(runs):
        submitted(run.directory, f"4{n}")
        ended(run, f"4{n}", n and 40 + n, "trainer failed" if n else None)
    done = cli("runs", "wait", *[run.id for run in runs])
    assert done.code == 41, "the first that did not succeed"
    assert [line.split()[1] for line in done.out.splitlines()] == ["succeeded", "failed:", "failed:"]


def test_waiting_no_longer_than_wanted(world: Any, cli: Cli, scheduler: Scheduler) -> None:
    run = run_of(world)
    submitted(run.directory, "40")
    scheduler.tell("40", "pending")
    done = cli("runs", "wait", run.id, "--timeout", "0.5")
    assert done.code == 6
    assert "still queued" in done.err


def test_a_run_is_cancelled_and_one_that_is_over_is_no_error(
    world: Any, cli: Cli, scheduler: Scheduler
) -> None:
    run, over = run_of(world), run_of(world, "b-20261121-123005-0000")
    submitted(run.directory, "40")
    submitted(over.directory, "41")
    ended(over, "41", 0)
    scheduler.tell("40", "pending")
    done = cli("runs", "cancel", run.id, over.id)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [f"{run.id} interrupted", f"{over.id} succeeded, was over already"]
    again = cli("runs", "cancel", run.id, "--json").json["runs"]
    assert again == [{"run": run.id, "state": "interrupted", "was_over": True}]


def test_an_attached_run_of_another_terminal_can_be_cancelled(
    world: Any, cli: Cli, wait_for: Callable[..., Any]
) -> None:
    client = world.start("steps", "run", "make/rows", "behave=sleep")
    run = wait_for(lambda: next((r for r in world.runs() if (r / "starts").exists()), None))
    done = cli("runs", "cancel", run.name)
    assert (done.code, done.out) == (0, f"{run.name} interrupted\n"), done.err
    client.communicate(timeout=40)
    assert client.returncode == 130


# Logs.


def test_following_goes_over_attempts_and_allocations(
    world: Any, cli: Cli, scheduler: Scheduler, wait_for: Callable[..., Any]
) -> None:
    run = run_of(world)
    submitted(run.directory, "40", "41")
    scheduler.tell("40", "pending", reason="Priority")
    scheduler.tell("41", "pending", reason="Dependency")
    cli("runs", "list")
    follower = world.start("runs", "logs", run.id, "-f")
    logs = run.directory / "logs"
    logs.mkdir()

    def write(name: str, text: str) -> None:
        with (logs / name).open("a") as file:
            file.write(text)

    write("attempt-1.log", "one\n")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "one\n"
    (run.directory / "record.json").write_text(
        json.dumps({"exit_code": 130, "reason": "walltime", "at": "2026-11-21T13:00:00.000Z", "attempt": 1})
    )
    write("attempt-1.log", "saved\n")
    assert follower.stdout.readline() == "saved\n"
    write("attempt-2.log", "two, \u6a21")
    time.sleep(0.4)
    write("attempt-2.log", "\u578b\n")
    assert follower.stdout.readline() == "two, \u6a21\u578b\n"
    assert follower.poll() is None
    write("attempt-2.log", "the end\n")
    ended(run, "41", 0)
    write("attempt-2.log", "")
    out, err = follower.communicate(timeout=40)
    assert follower.returncode == 0
    assert out == "the end\n", "nothing at the end is lost"
    assert f"{run.id} is queued: Priority" in err
    assert "attempt 2" in err


def test_the_log_of_a_node_is_its_own(world: Any, cli: Cli) -> None:
    run = run_of(world)
    nodes = run.directory / "logs/nodes"
    nodes.mkdir(parents=True)
    for attempt in (1, 2):
        (run.directory / f"logs/attempt-{attempt}.log").write_text(f"first node, attempt {attempt}\n")
        (nodes / f"attempt-{attempt}.node-1.log").write_text(f"second node, attempt {attempt}\n")
    assert cli("runs", "logs", run.id, "--node", "1").out == "second node, attempt 2\n"
    assert cli("runs", "logs", run.id, "--node", "0").out == "first node, attempt 2\n"
    assert cli("runs", "logs", run.id, "--node", "1", "-f").out == "second node, attempt 2\n"
    done = cli("runs", "logs", run.id, "--node", "2")
    assert done.code == 3
    assert "of node 2" in done.err


def test_what_the_scheduler_kept_is_shown_of_a_job_that_never_began(world: Any, cli: Cli) -> None:
    run = run_of(world)
    (run.directory / "logs").mkdir()
    (run.directory / "logs/slurm-40.out").write_text("pyxis: couldn't start container\n")
    for words in ((), ("-f",)):
        assert cli("runs", "logs", run.id, *words).out == "pyxis: couldn't start container\n"


# Differences.


def test_runs_are_compared_with_what_matters_first(world: Any, cli: Cli) -> None:
    first = run_of(world)
    second = run_of(
        world,
        "rl-rlhf-20261121-123006-00ff",
        recipe={
            "step": "rl/nemo_rl/rlhf",
            "engine": "embedded",
            "config": {"grpo": {"kl": 0.4}},
            "image": "i",
        },
        placement={
            **{"backend": "fake", "profile": "big", "nodes": 2, "options": {"time": "4:00:00"}},
            "environment": {"HF_HOME": "/other"},
        },
    )
    row = {"type": "training_jsonl", "path": "/a", "digest": "blake3:" + "a" * 64}
    other = {**row, "path": "/b", "digest": "blake3:" + "b" * 64}
    ended(first, "40", 0, inputs={"data": {**row, "reference": "/a"}, "prompts": {**row, "reference": "/p"}})
    ended(
        second, "41", 7, inputs={"data": {**other, "reference": "/b"}, "prompts": {**row, "reference": "/q"}}
    )
    text = cli("runs", "diff", first.id, second.id).out.splitlines()
    assert text[0] == f"{first.id} (succeeded) -> {second.id} (failed)"
    assert text[1:] == [
        "inputs",
        "  data: other content, aaaaaaaaaaaa (/a) -> bbbbbbbbbbbb (/b)",
        "  prompts: same content, /p -> /q",
        "config",
        "  grpo.kl: 0.1 -> 0.4",
        "image",
        '  image: not set -> "i"',
        "resources",
        "  nodes: 1 -> 2",
        '  options.time: not set -> "4:00:00"',
        "environment",
        '  HF_HOME: "/hf" -> "/other"',
    ]
    told = cli("runs", "diff", first.id, second.id, "--json").json
    assert [run["state"] for run in told["runs"]] == ["succeeded", "failed"]
    assert {"kind": "config", "key": "grpo.kl", "change": "changed", "old": 0.1, "new": 0.4} in told[
        "differences"
    ]


def test_a_run_does_not_differ_from_itself(world: Any, cli: Cli) -> None:
    run = cli("steps", "run", "make/rows", "--json").json["run"]
    done = cli("runs", "diff", run, run)
    assert done.out.splitlines()[1:] == ["no difference in what was asked for"]
    assert cli("runs", "diff", run, run, "--json").json["differences"] == []


def test_real_runs_differ_in_what_was_changed(world: Any, cli: Cli) -> None:
    runs = [cli("steps", "run", "make/rows", f"rows={n}", "--json").json["run"] for n in (3, 4)]
    told = cli("runs", "diff", *runs, "--json").json["differences"]
    asked = [(d["kind"], d["key"], d["old"], d["new"]) for d in told if d["kind"] != "outputs"]
    assert asked == [("config", "rows", 3, 4)]
    (left,) = (d for d in told if d["kind"] == "outputs")
    assert (left["key"], left["change"]) == ("rows", "changed")
    assert left["old"]["digest"] != left["new"]["digest"]
    assert "rows: other content" in cli("runs", "diff", *runs).out
