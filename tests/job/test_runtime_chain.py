"""One run over several allocations: walltime, no progress, requeue, and parts that have nothing to do."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from scheduled_run import ScheduledRun, ended

Wait = Callable[..., Any]


def until_step(run: ScheduledRun, step: int, wait_for: Wait) -> None:
    wait_for(lambda: run.steps() and run.steps()[-1] >= step, f"for step {step}")


def until_started(run: ScheduledRun, times: int, wait_for: Wait) -> int:
    """The process of the trainer."""
    wait_for(lambda: len(run.starts()) >= times, "for the trainer")
    return run.starts()[-1][0]


def out_of_time(run: ScheduledRun, step: int, wait_for: Wait, **variables: object) -> tuple[int, str]:
    """Run an allocation whose time is up when a step is saved."""
    job = run.start(**variables)
    until_step(run, step, wait_for)
    job.send_signal(signal.SIGUSR1)
    return ended(job)


def test_three_allocations_finish_what_one_cannot(scheduled: ScheduledRun, wait_for: Wait) -> None:
    scheduled.behave(steps=40)
    (scheduled.directory / ".secrets").write_text("TOKEN=x\0")
    first = out_of_time(scheduled, 2, wait_for, JOB_ID=1, PART=1, PARTS=3)[0]
    assert (first, scheduled.read("record.json")["reason"]) == (130, "walltime")
    assert (scheduled.directory / ".secrets").exists(), "the next part needs it"
    reached = scheduled.steps()[-1]
    assert out_of_time(scheduled, reached + 2, wait_for, JOB_ID=2, PART=2, PARTS=3)[0] == 130
    assert scheduled.starts()[1][1] == reached, "it went on where the first one had saved"
    assert scheduled.run(JOB_ID=3, PART=3, PARTS=3)[0] == 0
    assert scheduled.steps()[-1] == 40
    assert scheduled.ends() == [(1, 130, "walltime"), (2, 130, "walltime"), (3, 0, None)]
    assert scheduled.read("record.json")["outputs"]["policy"]["step_of_training"] == 40
    assert not (scheduled.directory / ".secrets").exists()


def test_a_part_after_the_end_does_nothing(scheduled: ScheduledRun) -> None:
    assert scheduled.run(JOB_ID=1, PART=1, PARTS=3)[0] == 0
    (scheduled.directory / ".secrets").write_text("TOKEN=x\0")
    code, err = scheduled.run(JOB_ID=2, PART=2, PARTS=3)
    assert (code, len(scheduled.starts())) == (0, 1)
    assert "is over" in err
    assert scheduled.read("record.json")["exit_code"] == 0
    assert not (scheduled.directory / ".secrets").exists()


def test_a_part_after_a_failure_does_nothing(scheduled: ScheduledRun) -> None:
    scheduled.behave(fails_at=2)
    assert scheduled.run(JOB_ID=1, PART=1, PARTS=2)[0] == 9
    assert scheduled.run(JOB_ID=2, PART=2, PARTS=2)[0] == 0
    assert scheduled.ends() == [(1, 9, "trainer failed")]


def test_a_new_submission_goes_on_after_a_failure(scheduled: ScheduledRun) -> None:
    scheduled.behave(fails_at=2)
    assert scheduled.run(JOB_ID=1, PART=1, PARTS=2)[0] == 9
    scheduled.behave()
    assert scheduled.run(JOB_ID=3, PART=1, PARTS=2)[0] == 0


def test_a_lost_first_part_of_a_new_submission_does_not_end_it(scheduled: ScheduledRun) -> None:
    """The record that is there is from the submission before."""
    scheduled.behave(fails_at=2)
    assert scheduled.run(JOB_ID=1, PART=1, PARTS=1)[0] == 9
    lines = [
        {"event": "submitted", "job": job, "name": scheduled.directory.name, "part": part, "at": job}
        for job, part in (("1", 1), ("5", 1), ("6", 2))
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (scheduled.directory / "submissions.jsonl").write_text(text)
    scheduled.behave()
    assert scheduled.run(JOB_ID=6, PART=2, PARTS=2)[0] == 0
    assert len(scheduled.starts()) == 2


def test_an_allocation_that_saved_nothing_is_no_progress(scheduled: ScheduledRun, wait_for: Wait) -> None:
    """Steps that were trained and not saved are lost; doing them again and again leads nowhere."""
    scheduled.behave(steps=400, every=400, term="leave")
    job = scheduled.start(JOB_ID=1, PART=1, PARTS=3)
    wait_for(lambda: (scheduled.directory / "metrics.jsonl").exists())
    job.send_signal(signal.SIGUSR1)
    assert ended(job)[0] == 1
    assert "no progress: allocation 1 of 3" in scheduled.read("failure.json")["what"]
    assert scheduled.run(JOB_ID=2, PART=2, PARTS=3)[0] == 0
    assert scheduled.ends() == [(1, 1, "no progress")]


def test_without_a_chain_walltime_is_the_end(scheduled: ScheduledRun, wait_for: Wait) -> None:
    scheduled.behave(steps=400)
    (scheduled.directory / ".secrets").write_text("TOKEN=x\0")
    assert out_of_time(scheduled, 1, wait_for)[0] == 130
    assert scheduled.read("record.json")["reason"] == "walltime"
    assert not (scheduled.directory / ".secrets").exists()


def test_what_was_complete_when_the_time_was_up_has_succeeded(
    scheduled: ScheduledRun, wait_for: Wait
) -> None:
    """The signal came while the last checkpoint was being written."""
    scheduled.behave(steps=1, seconds=1.0)
    scheduled.change("place.json", planned_steps=1)
    job = scheduled.start(PART=1, PARTS=3)
    until_started(scheduled, 1, wait_for)
    job.send_signal(signal.SIGUSR1)
    assert ended(job)[0] == 0
    assert scheduled.read("record.json")["outputs"]["policy"]["step_of_training"] == 1


def test_a_killed_job_is_accounted_for_and_goes_on(
    scheduled: ScheduledRun, wait_for: Wait, alive: Callable[[int], bool]
) -> None:
    scheduled.behave(steps=30)
    job = scheduled.start(JOB_ID=1)
    until_step(scheduled, 2, wait_for)
    trainer = scheduled.starts()[0][0]
    for group in (job.pid, trainer):
        os.killpg(group, signal.SIGKILL)
    wait_for(lambda: not alive(trainer))
    assert scheduled.run(JOB_ID=1, RESTARTS=1)[0] == 0
    assert scheduled.ends() == [(1, 137, "lost"), (2, 0, None)]
    assert scheduled.starts()[1][1] >= 2


def test_the_word_of_a_client_on_a_lost_attempt_stands(scheduled: ScheduledRun, wait_for: Wait) -> None:
    scheduled.behave(steps=400)
    job = scheduled.start(JOB_ID=1, PART=1, PARTS=2)
    until_step(scheduled, 1, wait_for)
    for group in (job.pid, scheduled.starts()[0][0]):
        os.killpg(group, signal.SIGKILL)
    job.communicate()
    [begun] = scheduled.records_dir.rglob("*.started.json")
    record = json.loads(begun.read_text())
    told = {**record, "phase": "ended", "exit_code": 137, "reason": "out of memory"}
    (begun.parent / begun.name.replace("started", "ended")).write_text(json.dumps(told))
    assert scheduled.run(JOB_ID=2, PART=2, PARTS=2)[0] == 0
    assert scheduled.ends() == [(1, 137, "out of memory")]
    assert len(scheduled.starts()) == 1, "what ran out of memory will do so again"


def test_a_job_killed_while_it_stopped_was_cancelled(scheduled: ScheduledRun, wait_for: Wait) -> None:
    """Nobody is there to write the record; the sign of life says what was going on."""
    scheduled.behave(steps=400, term="ignore")
    job = scheduled.start(JOB_ID=1, PART=1, PARTS=2)
    until_step(scheduled, 1, wait_for)
    job.send_signal(signal.SIGTERM)
    wait_for(lambda: scheduled.read("attempt.json").get("stopping"))
    for group in (job.pid, scheduled.starts()[0][0]):
        os.killpg(group, signal.SIGKILL)
    job.communicate()
    assert scheduled.run(JOB_ID=2, PART=2, PARTS=2)[0] == 0
    assert scheduled.ends() == [(1, 130, "interrupted")]
    assert len(scheduled.starts()) == 1


def test_a_preempted_job_goes_on_when_it_is_started_anew(scheduled: ScheduledRun, wait_for: Wait) -> None:
    scheduled.behave(steps=20)
    (scheduled.directory / ".secrets").write_text("TOKEN=x\0")
    job = scheduled.start(JOB_ID=1, PART=2, PARTS=3)
    until_step(scheduled, 1, wait_for)
    job.send_signal(signal.SIGTERM)
    assert ended(job)[0] == 130
    assert (scheduled.directory / ".secrets").exists(), "a requeue needs it"
    assert scheduled.run(JOB_ID=1, PART=2, PARTS=3, RESTARTS=1)[0] == 0
    assert scheduled.ends() == [(1, 130, "interrupted"), (2, 0, None)]


def test_a_cancelled_run_is_over_for_the_next_part(scheduled: ScheduledRun, wait_for: Wait) -> None:
    scheduled.behave(steps=400)
    job = scheduled.start(JOB_ID=1, PART=1, PARTS=2)
    until_step(scheduled, 1, wait_for)
    job.send_signal(signal.SIGTERM)
    assert ended(job)[0] == 130
    assert scheduled.run(JOB_ID=2, PART=2, PARTS=2)[0] == 0
    assert len(scheduled.starts()) == 1


def test_a_requeued_job_that_had_succeeded_does_nothing(scheduled: ScheduledRun) -> None:
    assert scheduled.run(JOB_ID=1)[0] == 0
    assert scheduled.run(JOB_ID=1, RESTARTS=1)[0] == 0
    assert len(scheduled.starts()) == 1


def test_the_next_part_waits_for_what_is_left_of_the_one_before(
    scheduled: ScheduledRun, wait_for: Wait
) -> None:
    scheduled.behave(steps=40, seconds=0.05)
    first = scheduled.start(JOB_ID=1, PART=1, PARTS=2)
    until_started(scheduled, 1, wait_for)
    second = scheduled.start(JOB_ID=2, PART=2, PARTS=2)
    assert ended(first)[0] == 0
    assert ended(second)[0] == 0
    assert len(scheduled.starts()) == 1


def test_a_new_job_does_not_wait_for_one_that_is_going_on(scheduled: ScheduledRun, wait_for: Wait) -> None:
    scheduled.behave(steps=400)
    scheduled.start(JOB_ID=1)
    until_started(scheduled, 1, wait_for)
    code, err = scheduled.run(JOB_ID=2)
    assert code == 5
    assert "running already" in err


def own_deadline(run: ScheduledRun, written: str) -> None:
    """A trainer of this framework leaves after so many days, hours, minutes, seconds."""
    run.change("plan.json", placement={"config": {"checkpointing.checkpoint_must_save_by": written}})


class TestATrainerThatLeavesInTime:
    """Frameworks with a deadline of their own save and end with exit code 0 before the time is up."""

    @pytest.fixture
    def leaving(self, scheduled: ScheduledRun) -> ScheduledRun:
        scheduled.change("plan.json", recipe={"engine": "nemo_rl"})
        own_deadline(scheduled, "00:00:00:01")
        scheduled.change("place.json", planned_steps=6)
        return scheduled

    def test_it_has_not_finished(self, leaving: ScheduledRun) -> None:
        leaving.behave(steps=6, leaves_at=3, seconds=0.4)
        assert leaving.run(JOB_ID=1, PART=1, PARTS=2)[0] == 130
        assert leaving.run(JOB_ID=2, PART=2, PARTS=2)[0] == 0
        assert leaving.ends() == [(1, 130, "walltime"), (2, 0, None)]
        assert leaving.steps()[-1] == 6

    def test_long_before_its_time_is_up_it_has_finished(self, leaving: ScheduledRun) -> None:
        """It may stop early because its metric is good enough."""
        leaving.behave(steps=6, leaves_at=3)
        own_deadline(leaving, "00:01:00:00")
        assert leaving.run(PART=1, PARTS=2)[0] == 0

    def test_it_is_not_disturbed_while_it_saves(self, leaving: ScheduledRun, wait_for: Wait) -> None:
        leaving.behave(steps=6, leaves_at=3, seconds=0.3)
        job = leaving.start(PART=1, PARTS=2, DEADLINE=int(time.time()) + 60)
        until_step(leaving, 1, wait_for)
        job.send_signal(signal.SIGUSR1)
        assert ended(job)[0] == 130
        assert leaving.steps()[-1] == 3
        assert not (leaving.directory / "heard").exists()

    def test_it_is_asked_when_it_is_overdue(self, leaving: ScheduledRun, wait_for: Wait) -> None:
        leaving.behave(steps=4000)
        leaving.change("place.json", planned_steps=4000)
        job = leaving.start(PART=1, PARTS=2, DEADLINE=int(time.time()) + 43)
        until_step(leaving, 1, wait_for)
        job.send_signal(signal.SIGUSR1)
        assert ended(job)[0] == 130
        assert (leaving.directory / "heard").exists()
