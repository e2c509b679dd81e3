"""Whatever is killed, nothing goes on without its starter, and the same command goes on from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.launch import launcher

Wait = Callable[..., Any]
Alive = Callable[[int], bool]
SLEEPER = ("steps", "run", "make/rows", "behave=sleep_once", "--json")


def trainer_pid(world: Any, wait_for: Wait) -> tuple[Path, int]:
    """The run directory and the process of the program, once it runs."""

    def look() -> tuple[Path, int] | None:
        for run in world.runs():
            log = run / "logs/attempt-1.log"
            if log.exists() and "started" in log.read_text():
                return run, int((run / "starts").read_text().split()[-1])
        return None

    found: tuple[Path, int] = wait_for(look, "for the program to start")
    return found


def job_pid(run: Path) -> int:
    return int((run / "lock").read_text().split()[1])


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def state(world: Any, run: Path) -> str:
    return str(world.run("runs", "show", run.name, "--json").json["state"])


def resumed(world: Any, run: Path) -> dict[str, Any]:
    done = world.run(*SLEEPER)
    assert done.code == 0, done.err
    found: dict[str, Any] = done.json
    assert (found["outcome"], found["run"]) == ("resumed", run.name)
    assert len((run / "starts").read_text().split()) == 2
    return found


def test_a_killed_client_takes_job_and_program_with_it(world: Any, wait_for: Wait, alive: Alive) -> None:
    client = world.start(*SLEEPER)
    run, pid = trainer_pid(world, wait_for)
    job = job_pid(run)
    assert alive(job)
    assert alive(pid)
    client.kill()
    begun = time.monotonic()
    wait_for(lambda: not alive(job) and not alive(pid), "for job and program to end")
    assert time.monotonic() - begun < 10
    assert state(world, run) == "interrupted"
    resumed(world, run)
    phases = sorted((r["attempt"], r["phase"]) for r in world.records() if r["kind"] == "attempt")
    assert phases == [(1, "started"), (2, "ended"), (2, "started")], "a killed job leaves no last word"


def test_a_killed_program_is_a_failure_that_resumes(world: Any, wait_for: Wait) -> None:
    client = world.start(*SLEEPER)
    run, pid = trainer_pid(world, wait_for)
    os.kill(pid, signal.SIGKILL)
    code, out, err = finished(client)
    assert code == 1, err
    assert json.loads(out)["error"]["kind"] == "failed"
    ended = next(r for r in world.records() if r.get("phase") == "ended")
    assert (ended["exit_code"], ended["reason"]) == (137, "signal SIGKILL")
    resumed(world, run)


def test_a_killed_job_is_a_failure_of_the_launch(
    world: Any, cli: Callable[..., Any], wait_for: Wait, alive: Alive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is what watches the program: without it the program is nobody's, and the run's lock is its."""
    client = world.start(*SLEEPER)
    run, pid = trainer_pid(world, wait_for)
    os.kill(job_pid(run), signal.SIGKILL)
    code, _, err = finished(client)
    assert code == 1, err
    assert alive(pid), "a program that does not listen to its lifeline goes on"
    assert state(world, run) == "running"
    monkeypatch.setattr(launcher, "_ORPHAN_SECONDS", 0.2)
    assert cli(*SLEEPER).code == 5, "nobody writes beside it"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid))
    resumed(world, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_polite_kill_end_the_run_in_order(
    world: Any, wait_for: Wait, alive: Alive, number: int
) -> None:
    client = world.start(*SLEEPER)
    run, pid = trainer_pid(world, wait_for)
    job = job_pid(run)
    client.send_signal(number)
    code, out, err = finished(client)
    assert (code, out) == (130, ""), err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not alive(job)
    assert not alive(pid)
    ended = next(r for r in world.records() if r.get("phase") == "ended")
    assert (ended["exit_code"], ended["reason"]) == (130, "interrupted")
    assert state(world, run) == "interrupted"
    resumed(world, run)


def test_a_program_that_stops_politely_is_interrupted_not_done(world: Any, wait_for: Wait) -> None:
    """It may have saved half of its output and ended with exit code 0."""
    client = world.start("steps", "run", "make/rows", "behave=polite")
    run, _ = trainer_pid(world, wait_for)
    wait_for(lambda: (run / "rows.jsonl").exists())
    client.send_signal(signal.SIGINT)
    code, _, err = finished(client)
    assert code == 130, err
    assert not (run / "outputs.json").exists()
    assert state(world, run) == "interrupted"


def test_a_second_ctrl_c_kills_what_does_not_listen(world: Any, wait_for: Wait, alive: Alive) -> None:
    script = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: open('asked', 'w').close())\n"
    world.add_step("make/stubborn", script=script + (world.catalog / "make/rows/step.py").read_text())
    client = world.start("steps", "run", "make/stubborn", "behave=sleep")
    run, pid = trainer_pid(world, wait_for)
    client.send_signal(signal.SIGINT)
    wait_for(lambda: (run / "asked").exists())
    assert client.poll() is None
    assert alive(pid)
    client.send_signal(signal.SIGINT)
    code, _, err = finished(client)
    assert code == 130, err
    assert not alive(pid)


def test_a_program_sees_no_signal_that_was_meant_for_the_client(world: Any, wait_for: Wait) -> None:
    """Ctrl-C reaches the whole group of a terminal; the job has a session of its own."""
    client = world.start(*SLEEPER)
    run, pid = trainer_pid(world, wait_for)
    sessions = {os.getsid(p) for p in (client.pid, job_pid(run), pid)}
    assert len(sessions) == 3
    client.kill()


def test_interrupting_an_input_stops_the_chain(world: Any, wait_for: Wait) -> None:
    world.add_step(
        "make/slow", configs={"default": "behave: sleep_once\nrows: 2\ntext: x\nseconds: 60\noutput: r\n"}
    )
    words = ("steps", "run", "use/count", "-i", "rows=step://make/slow?config=default", "--json")
    client = world.start(*words)
    _, _ = trainer_pid(world, wait_for)
    client.send_signal(signal.SIGINT)
    assert finished(client)[0] == 130
    assert len(world.runs()) == 1
    done = world.run(*words)
    assert done.code == 0, done.err
    assert done.json["outcome"] == "ran"
    assert len(world.runs()) == 2, "the input went on in its own run"
