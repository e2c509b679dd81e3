"""Whether a trainer makes progress, and where its processes stand when it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemotron.job.keeper import descendants
from nemotron.job.stacks import dump_tree
from nemotron.job.watching import watch as watch_module
from nemotron.job.watching.watch import Watch

HANGING = """
import subprocess, sys, threading, time
def wait_for_the_others():
    time.sleep(600)
threading.Thread(target=wait_for_the_others, name="loader", daemon=True).start()
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, sys.argv[0], "child"], process_group=0)
print("ready", flush=True)
wait_for_the_others()
"""


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now

    def go(self, watch: Watch, seconds: float, every: float = 5.0) -> str | None:
        """The first verdict of a watch that is asked every few seconds for so long."""
        end = self.now + seconds
        while self.now < end:
            self.now += every
            if verdict := watch.poll():
                return verdict
        return None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watch_module, "time", made)
    return made


def make_run(directory: Path, select: str | None = "latest") -> Path:
    plan = {"outputs": [{"path": "checkpoints", "select": select}]}
    (directory / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return directory


def write_step(directory: Path, step: int) -> None:
    with (directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "loss": 1.0}) + "\n")


def test_a_trainer_whose_steps_come_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(make_run(tmp_path), clock.time())
    for step in range(1, 30):
        assert clock.go(watch, 500) is None
        write_step(tmp_path, step)


def test_five_times_the_median_without_a_step_is_a_hang(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(make_run(tmp_path), clock.time())
    assert clock.go(watch, 3000) is None  # a long way to the first step is no step
    for step in range(1, 6):
        write_step(tmp_path, step)
        assert clock.go(watch, 300) is None
    assert clock.go(watch, 1190) is None
    verdict = clock.go(watch, 30)
    assert verdict is not None
    assert "since step 5" in verdict
    assert "a step takes 300" in verdict


def test_quick_steps_do_not_make_a_hang_of_ten_minutes(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(make_run(tmp_path), clock.time())
    for step in range(1, 10):
        write_step(tmp_path, step)
        clock.go(watch, 5)
    assert clock.go(watch, 580) is None
    assert clock.go(watch, 30) is not None


def test_steps_that_come_in_bursts_share_the_time_between_them(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(make_run(tmp_path), clock.time())
    write_step(tmp_path, 1)
    clock.go(watch, 1000, every=50)
    for step in (2, 3, 4, 5):
        write_step(tmp_path, step)
    clock.go(watch, 5)
    assert clock.go(watch, 1150) is None  # five times 250
    assert clock.go(watch, 120) is not None


def test_files_that_grow_in_the_outputs_are_progress(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(make_run(tmp_path), clock.time())
    for step in range(1, 6):
        write_step(tmp_path, step)
        clock.go(watch, 10)
    shard = tmp_path / "checkpoints" / "step_5" / "weights"
    shard.parent.mkdir(parents=True)
    for _ in range(10):
        with shard.open("ab") as file:
            file.write(b"x" * 100)
        assert clock.go(watch, 400) is None
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "attempt-1.log").write_text("still waiting\n", encoding="utf-8")
    assert clock.go(watch, 620) is not None


def test_before_the_first_step_there_are_two_hours(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(make_run(tmp_path), clock.time())
    assert clock.go(watch, 7100) is None
    verdict = clock.go(watch, 200)
    assert verdict is not None
    assert "no first step" in verdict


def test_a_run_without_checkpoints_has_no_steps_to_wait_for(tmp_path: Path, clock: Clock) -> None:
    assert clock.go(Watch(make_run(tmp_path, select=None), clock.time()), 50_000) is None


def test_steps_of_an_earlier_attempt_do_not_count(tmp_path: Path, clock: Clock) -> None:
    for step in range(1, 9):
        write_step(make_run(tmp_path), step)
    watch = Watch(tmp_path, clock.time())
    assert clock.go(watch, 7100) is None


def test_a_job_that_was_suspended_is_not_taken_for_a_hanging_one(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(make_run(tmp_path), clock.time())
    for step in range(1, 9):
        write_step(tmp_path, step)
        clock.go(watch, 5)
    clock.now += 90_000
    assert clock.go(watch, 500) is None


def test_the_limits_can_be_set(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMOTRON_HANG_FLOOR", "20")
    monkeypatch.setenv("NEMOTRON_HANG_START", "60")
    watch = Watch(make_run(tmp_path), clock.time())
    for step in range(1, 6):
        write_step(tmp_path, step)
        assert clock.go(watch, 2, every=1) is None
    assert clock.go(watch, 30, every=1) is not None
    assert clock.go(Watch(tmp_path, clock.time()), 70, every=1) is not None


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python that waits for ever, in a session of its own with its stderr in `tmp_path/err`."""
    running: list[subprocess.Popen[str]] = []
    script = tmp_path / "hanging.py"
    script.write_text(HANGING, encoding="utf-8")

    def start(*words: str, **environ: str) -> subprocess.Popen[str]:
        with (tmp_path / "err").open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, str(script), *words],
                env={**os.environ, **environ},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        running.append(process)
        assert process.stdout is not None
        for _ in range(2 if len(words) > 1 else 1):
            assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        for pid in descendants(process.pid):
            os.kill(pid, 9)
        process.kill()
        process.communicate()


@pytest.mark.skipif(shutil.which("py-spy") is None, reason="py-spy is not installed")
def test_py_spy_tells_the_stacks_of_all_processes_and_no_arguments(
    tmp_path: Path, hanging: Callable[..., subprocess.Popen[str]]
) -> None:
    process = hanging("--token=hidden", "with-a-child")
    log = tmp_path / "attempt-1.log"
    Watch(make_run(tmp_path), time.time()).dump(process.pid, log)
    text = log.read_text(encoding="utf-8")
    assert text.count("wait_for_the_others (hanging.py:4)") >= 3
    assert text.count("process ") >= 2
    assert "hidden" not in text
    assert process.poll() is None


def test_without_py_spy_faulthandler_writes_the_stacks(
    tmp_path: Path, hanging: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = hanging("--token=hidden", PYTHONFAULTHANDLER="1")
    other = hanging()
    monkeypatch.setenv("PATH", "/nowhere")
    log = tmp_path / "attempt-1.log"
    watch = Watch(make_run(tmp_path), time.time())
    watch.dump(process.pid, log)
    watch.dump(other.pid, log)
    text = log.read_text(encoding="utf-8")
    assert f"process {process.pid} is aborted" in text
    assert "hidden" not in text
    assert "thread" in text  # the kernel's word for where each waits
    assert process.wait(5) == -6
    assert 'hanging.py", line 4 in wait_for_the_others' in (tmp_path / "err").read_text(encoding="utf-8")
    # Without the handler an abort would tell nothing.
    assert other.poll() is None


def test_a_tree_is_dumped_from_its_root_on(
    tmp_path: Path, hanging: Callable[..., subprocess.Popen[str]]
) -> None:
    process = hanging("first", "with-a-child")
    dump_tree(process.pid, tmp_path / "log")
    (child,) = descendants(process.pid)
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert f"process {child}:" in text
    assert f"process {process.pid}:" not in text


def test_processes_that_are_gone_are_no_trouble(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"], start_new_session=True)
    process.wait()
    Watch(make_run(tmp_path), time.time()).dump(process.pid, tmp_path / "log")
    assert "where the processes stand" in (tmp_path / "log").read_text(encoding="utf-8")
