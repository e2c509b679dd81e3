"""One attempt under a scheduler: signals, hangs, outputs, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scheduled_run import ScheduledRun, ended

Wait = Callable[..., Any]
Alive = Callable[[int], bool]


def started(run: ScheduledRun, wait_for: Wait) -> int:
    """The process of the trainer, once it listens to signals."""
    wait_for(lambda: (run.directory / "environment.json").exists() and run.starts(), "for the trainer")
    return run.starts()[-1][0]


def test_the_trainer_is_not_told_of_the_allocation(scheduled: ScheduledRun) -> None:
    """A launch that a job makes of itself would take it for its own."""
    assert scheduled.run(PART=1, PARTS=2, RESTARTS=0, NODES=1, DEADLINE=int(time.time()) + 99)[0] == 0
    seen = {n for n in scheduled.read("environment.json") if n.startswith("NEMOTRON_")}
    assert seen == {"NEMOTRON_RUN_DIR", "NEMOTRON_LIFELINE_FD"}


def test_the_trainers_exit_code_and_last_words_come_through(scheduled: ScheduledRun) -> None:
    scheduled.behave(fails_at=2)
    assert scheduled.run()[0] == 9
    assert scheduled.ends() == [(1, 9, "trainer failed")]
    failure = scheduled.read("failure.json")
    assert "ValueError: no number" in failure["what"]
    assert "attempt-1.log" in failure["where"]


def test_a_trainers_own_word_is_not_replaced(scheduled: ScheduledRun) -> None:
    code = "import sys; open('failure.json', 'w').write('{\"what\": \"mine\"}'); sys.exit(3)"
    scheduled.change("plan.json", placement={"argv": [sys.executable, "-c", code]})
    assert scheduled.run()[0] == 3
    assert scheduled.read("failure.json") == {"what": "mine"}


def test_a_signal_that_comes_twice_at_once_is_one(scheduled: ScheduledRun, wait_for: Wait) -> None:
    """A scheduler signals every process of a job, and the job's script passes its own on."""
    scheduled.behave(steps=400, saving=0.6)
    job = scheduled.start()
    started(scheduled, wait_for)
    job.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    assert ended(job)[0] == 130
    assert scheduled.steps(), "it had the time to save"


def test_another_signal_kills(scheduled: ScheduledRun, wait_for: Wait, alive: Alive) -> None:
    scheduled.behave(steps=400, term="ignore")
    job = scheduled.start(PART=1, PARTS=2, DEADLINE=int(time.time()) + 600)
    trainer = started(scheduled, wait_for)
    job.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    job.send_signal(signal.SIGTERM)
    assert ended(job)[0] == 130
    assert not alive(trainer)
    assert scheduled.ends() == [(1, 130, "interrupted")], "somebody wanted more than the time's end"


def test_a_trainer_that_does_not_listen_is_killed_before_the_time_is_up(
    scheduled: ScheduledRun, wait_for: Wait, alive: Alive
) -> None:
    scheduled.behave(steps=4000, term="ignore")
    deadline = int(time.time()) + 13
    job = scheduled.start(PART=1, PARTS=2, DEADLINE=deadline)
    trainer = started(scheduled, wait_for)
    job.send_signal(signal.SIGUSR1)
    assert ended(job)[0] == 130
    assert time.time() < deadline - 5
    assert not alive(trainer)
    assert scheduled.ends() == [(1, 130, "walltime")]


def test_a_job_stopped_before_its_trainer_starts_none(scheduled: ScheduledRun, wait_for: Wait) -> None:
    upstream = scheduled.directory.parent / "up-20261121-101010-abcd"
    upstream.mkdir()
    late = {"types": ["eval_results"], "run": upstream.name, "directory": str(upstream), "port": "x"}
    scheduled.change("place.json", late={"rows": late})
    job = scheduled.start()
    wait_for(lambda: (scheduled.directory / "attempt.json").exists())
    job.send_signal(signal.SIGTERM)
    assert ended(job)[0] == 130
    assert scheduled.starts() == []
    assert scheduled.ends() == [(1, 130, "interrupted")]


def test_processes_that_outlive_the_trainer_are_killed(scheduled: ScheduledRun, alive: Alive) -> None:
    """They would hold the run's lock, and write into what the next attempt makes."""
    code = "import subprocess; p = subprocess.Popen(['sleep', '300']); open('child', 'w').write(str(p.pid))"
    scheduled.change("plan.json", placement={"argv": [sys.executable, "-c", code]}, outputs=[])
    assert scheduled.run()[0] == 0
    assert not alive(int((scheduled.directory / "child").read_text()))


def test_a_sign_of_life_tells_what_the_attempt_is_doing(scheduled: ScheduledRun, wait_for: Wait) -> None:
    scheduled.behave(steps=400)
    job = scheduled.start(JOB_ID=7, PART=2, PARTS=3)
    seen = wait_for(lambda: (found := scheduled.read("attempt.json")).get("phase") == "running" and found)
    assert {k: seen[k] for k in ("attempt", "job", "part", "parts")} == {
        "attempt": 1,
        "job": "7",
        "part": 2,
        "parts": 3,
    }
    assert seen["at"] <= scheduled_now()
    wait_for(scheduled.steps)
    job.send_signal(signal.SIGTERM)
    ended(job)
    last = scheduled.read("attempt.json")
    assert (last["phase"], last["stopping"]) == ("ended", "interrupted")
    assert last["step"] == max(json.loads(line)["step"] for line in metrics(scheduled))


def metrics(run: ScheduledRun) -> list[str]:
    return (run.directory / "metrics.jsonl").read_text().splitlines()


def scheduled_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.999Z", time.gmtime())


def test_outputs_that_are_not_what_their_type_says_fail_the_attempt(scheduled: ScheduledRun) -> None:
    scheduled.behave(content="{")
    assert scheduled.run()[0] == 4
    failure = scheduled.read("failure.json")
    assert "output policy is no eval_results" in failure["what"]
    assert failure["exit_code"] == 4
    assert "results.json" in failure["where"]
    [(_, code, reason)] = scheduled.ends()
    assert (code, reason) == (4, failure["what"])


@pytest.mark.slow
def test_a_hang_ends_the_attempt_and_tells_where_it_stands(scheduled: ScheduledRun, alive: Alive) -> None:
    scheduled.behave(hangs_at=1, term="die")
    code, err = scheduled.run(HANG_START=3)
    assert code == 1, err
    assert scheduled.ends() == [(1, 1, "hang")]
    failure = scheduled.read("failure.json")
    assert "no first step" in failure["what"]
    assert failure["node"]
    assert "trainer.py" in (scheduled.directory / "logs/attempt-1.log").read_text(), "the stacks"
    assert not alive(scheduled.starts()[0][0])


def test_nothing_tells_the_value_of_a_secret(scheduled: ScheduledRun, wait_for: Wait) -> None:
    scheduled.change("plan.json", placement={"profile": "p"})
    script = scheduled.directory / "launch.sh"
    reads = "while IFS= read -r -d '' pair; do export \"$pair\"; done < .secrets\nexec "
    script.write_text(script.read_text().replace("exec ", reads))
    (scheduled.directory / ".secrets").write_text("TOKEN=s3cr3t-value\0")
    scheduled.behave(steps=400)
    job = scheduled.start(PART=1, PARTS=2)
    started(scheduled, wait_for)
    assert scheduled.read("environment.json")["TOKEN"] == "s3cr3t-value"
    (scheduled.directory / "environment.json").unlink()
    job.send_signal(signal.SIGUSR1)
    assert "s3cr3t" not in ended(job)[1]
    files = [p for p in scheduled.records_dir.parent.rglob("*") if p.is_file()]
    telling = [p.name for p in files if b"s3cr3t-value" in p.read_bytes()]
    assert telling == [".secrets"]


class TestOtherNodes:
    """A runtime is started once a node; those that are not needed end at once."""

    def test_a_program_for_one_node_needs_no_help(self, scheduled: ScheduledRun) -> None:
        assert scheduled.run(NODES=2, NODE_RANK=1) == (0, "")
        assert not (scheduled.directory / "logs").exists()

    def test_a_stub_needs_no_help(self, scheduled: ScheduledRun) -> None:
        scheduled.change("plan.json", placement={"launch": "ray", "stub": True})
        assert scheduled.run(NODES=2, NODE_RANK=1)[0] == 0

    def test_a_run_that_is_over_needs_no_help(self, scheduled: ScheduledRun) -> None:
        assert scheduled.run(JOB_ID=1, PART=1, PARTS=2)[0] == 0
        scheduled.change("plan.json", placement={"launch": "torchrun"})
        assert scheduled.run(JOB_ID=2, PART=2, PARTS=2, NODES=2, NODE_RANK=1)[0] == 0

    def test_they_are_let_go_when_an_input_is_missing(self, scheduled: ScheduledRun, tmp_path: Path) -> None:
        scheduled.change("plan.json", placement={"launch": "torchrun"})
        late = {"types": ["eval_results"], "path": str(tmp_path / "nothing")}
        scheduled.change("place.json", late={"rows": late})
        helper = scheduled.start(NODES=2, NODE_RANK=1)
        assert scheduled.run(NODES=2)[0] == 4
        assert ended(helper)[0] == 0


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    place = tmp_path / "small-disk"
    place.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    mounted = subprocess.run(size, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_told_without_a_traceback(scheduled: ScheduledRun, full_disk: Path) -> None:
    """The trainer fills the disk that the records are on too."""
    records = full_disk / "records"
    scheduled.change("place.json", records_dir=str(records))
    code = (
        f"import os; f = open({str(full_disk / 'big')!r}, 'wb')\nwhile True: f.write(bytes(4096)); f.flush()"
    )
    scheduled.change("plan.json", placement={"argv": [sys.executable, "-c", code]})
    code_of_job, err = scheduled.run()
    assert code_of_job == 1
    assert "no space left on device" in err
    assert os.listdir(records)  # noqa: PTH208 - what was written before
    (full_disk / "big").unlink()
    scheduled.behave()
    assert scheduled.run(RESTARTS=1)[0] == 0, "the lost attempt is accounted for when there is space"
    ends = sorted(json.loads(p.read_text())["exit_code"] for p in records.rglob("*.ended.json"))
    assert ends == [0, 137]


@pytest.mark.slow
def test_two_nodes_train_as_one_and_end_together(scheduled: ScheduledRun) -> None:
    program = (
        "import os, pathlib\n"
        "rank = os.environ['RANK']\n"
        "pathlib.Path('world').mkdir(exist_ok=True)\n"
        "pathlib.Path('world', rank).write_text(os.environ['WORLD_SIZE'])\n"
        "place = pathlib.Path('checkpoints/step_1')\n"
        "if rank == '0':\n"
        "    place.mkdir(parents=True)\n"
        "    (place / 'results.json').write_text('{}')\n"
    )
    (scheduled.directory / "program.py").write_text(program)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "{run_dir}/program.py"]
    scheduled.change("plan.json", placement={"launch": "torchrun", "argv": words, "nodes": 2})
    helper = scheduled.start(NODES=2, NODE_RANK=1)
    code, err = scheduled.run(NODES=2)
    assert code == 0, err
    assert ended(helper)[0] == 0
    world = {p.name: p.read_text() for p in (scheduled.directory / "world").iterdir()}
    assert world == {"0": "2", "1": "2"}


@pytest.mark.slow
def test_a_node_that_goes_away_ends_the_attempt_and_not_the_chain(
    scheduled: ScheduledRun, wait_for: Wait
) -> None:
    program = scheduled.directory / "program.py"
    program.write_text("import os, time\nopen('rank-' + os.environ['RANK'], 'w')\ntime.sleep(300)\n")
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", str(program)]
    scheduled.change("plan.json", placement={"launch": "torchrun", "argv": words, "nodes": 2})
    (scheduled.directory / ".secrets").write_text("A=b\0")
    helper = scheduled.start(JOB_ID=1, PART=1, PARTS=2, NODES=2, NODE_RANK=1)
    first = scheduled.start(JOB_ID=1, PART=1, PARTS=2, NODES=2)
    wait_for(lambda: len(list(scheduled.directory.glob("rank-*"))) == 2, "for both nodes")
    os.killpg(helper.pid, signal.SIGKILL)
    assert ended(first)[0] == 137
    assert scheduled.ends() == [(1, 137, "node lost")]
    assert "node 1" in scheduled.read("failure.json")["what"]
    assert (scheduled.directory / ".secrets").exists()
    scheduled.change("plan.json", placement={"launch": "python", "nodes": 1})
    scheduled.behave()
    assert scheduled.run(JOB_ID=2, PART=2, PARTS=2)[0] == 0
