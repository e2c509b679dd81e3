"""What became of runs on a scheduler: asked once for all, kept, and written where the job could not."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_scheduler import SUBMITTED, Scheduler, submitted

from nemotron.artifacts.records import AttemptRecord, timestamp, write_record
from nemotron.artifacts.run_list import list_runs
from nemotron.artifacts.run_state import is_unfinished
from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store
from nemotron.artifacts.submissions import Journal, Submission
from nemotron.errors import Conflict, SchedulerError
from nemotron.launch.refresh import refresh
from nemotron.launch.waiting import Teller, cancel_runs, wait_for_end

ID = "rl-rlhf-20261121-123005-00ff"


def ago(seconds: float) -> str:
    return timestamp(datetime.now(UTC) - timedelta(seconds=seconds))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


def run_of(store: Store, run_id: str = ID) -> Run:
    """A run as a client leaves it that has written its bundle."""
    place = store.runs_dir / run_id
    place.mkdir(parents=True, exist_ok=True)
    plan = {
        "recipe": {"step": "rl/nemo_rl/rlhf", "engine": "embedded"},
        "placement": {"backend": "fake", "profile": "big"},
    }
    (place / "plan.json").write_text(json.dumps(plan))
    (place / "place.json").write_text(json.dumps({"records_dir": str(store.records_dir), "inputs": {}}))
    return Run(place)


def began(run: Run, job: str, *, beat: float = 0.0, host: str = "node7") -> None:
    """The run's first attempt is going on, and gave a sign of life so many seconds ago."""
    (run.directory / "logs").mkdir(exist_ok=True)
    (run.directory / "logs/attempt-1.log").touch()
    told = {"attempt": 1, "phase": "running", "host": host, "job": job, "at": ago(beat)}
    (run.directory / "attempt.json").write_text(json.dumps(told))


def ended(store: Store, run: Run, job: str, code: int, reason: str | None = None, attempt: int = 1) -> None:
    """The job itself recorded the end of an attempt."""
    (run.directory / "logs").mkdir(exist_ok=True)
    (run.directory / f"logs/attempt-{attempt}.log").touch()
    record = AttemptRecord(
        run_id=run.id,
        attempt=attempt,
        phase="ended",
        at=ago(1),
        exit_code=code,
        reason=reason,
        scheduler_id=job,
    )
    write_record(store.records_dir, record)
    (run.directory / "record.json").write_text(json.dumps(record.as_dict()))


def records(store: Store, phase: str = "ended") -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(store.records_dir.rglob(f"attempt-*.{phase}.json"))]


@contextmanager
def locked(run: Run) -> Iterator[None]:
    with (run.directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# States, told from files alone.


def test_a_run_that_was_handed_over_waits_until_somebody_says_otherwise(store: Store) -> None:
    run = run_of(store)
    assert run.state() == "prepared"
    Journal(run.directory).note("submitting", Submission("fake", "", run.id, at=SUBMITTED))
    assert run.state() == "unknown", "whether there is a job only the scheduler knows"
    submitted(run.directory, "7")
    assert run.state() == "queued"
    with locked(run):
        assert run.state() == "running"


def test_a_submission_that_failed_leaves_a_run_that_was_never_handed_over(store: Store) -> None:
    run = run_of(store)
    begun = Submission("fake", "", run.id, at=SUBMITTED)
    Journal(run.directory).note("submitting", begun)
    Journal(run.directory).note("failed", begun)
    assert run.state() == "prepared"
    assert not is_unfinished(run.directory)


def test_a_sign_of_life_from_another_host_is_believed_while_it_is_fresh(store: Store) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    began(run, "7", beat=5)
    assert run.state() == "running"
    began(run, "7", beat=3600)
    assert run.state() == "queued", "nobody was asked since it was handed over"
    began(run, "7", beat=5, host=os.uname().nodename)
    assert run.state() == "queued", "on this host the lock tells"


def test_the_scheduler_knows_better_than_a_sign_of_life_that_is_older(
    store: Store, scheduler: Scheduler
) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    began(run, "7", beat=20)
    scheduler.tell("7", "node_fail", nodes=("n1",), ended=ago(15))
    refresh(store, [run], scheduler)
    assert run.state() == "interrupted"


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (["running", "pending"], "running"),
        (["timeout", "pending"], "queued"),
        (["node_fail", "running"], "running"),
        (["unknown"], "unknown"),
        (["timeout", "unknown"], "unknown"),
    ],
)
def test_the_last_word_of_the_scheduler_tells_where_no_file_does(
    store: Store, scheduler: Scheduler, words: list[str], state: str
) -> None:
    run = run_of(store)
    jobs = [str(n) for n in range(7, 7 + len(words))]
    submitted(run.directory, *jobs)
    for job, word in zip(jobs, words, strict=True):
        scheduler.tell(job, word)
    refresh(store, [run], scheduler)
    assert run.state() == state
    assert run.standing().asked is not None


def test_a_run_between_two_allocations_waits(store: Store, scheduler: Scheduler) -> None:
    run = run_of(store)
    submitted(run.directory, "7", "8")
    ended(store, run, "7", 130, "walltime")
    scheduler.tell("7", "timeout")
    scheduler.tell("8", "pending", reason="Priority")
    refresh(store, [run], scheduler)
    assert (run.state(), run.standing().reason) == ("queued", "Priority")
    (listed,) = list_runs(store, 5).runs
    assert (listed.state, listed.job, listed.reason) == ("queued", "8", "Priority")
    scheduler.tell("8", "running", nodes=("n2",))
    refresh(store, [run], scheduler)
    assert (run.state(), run.standing().nodes) == ("running", ("n2",))
    scheduler.tell("8", "cancelled")
    refresh(store, [run], scheduler)
    assert run.state() == "interrupted"
    assert [r["reason"] for r in records(store)] == ["walltime"], "its last attempt has its record already"


def test_a_run_that_failed_is_over_whatever_waits_behind_it(store: Store) -> None:
    run = run_of(store)
    submitted(run.directory, "7", "8")
    ended(store, run, "7", 1, "no progress")
    assert run.state() == "failed"
    submitted(run.directory, "9", at=ago(0))
    assert run.state() == "queued", "it was handed over once more"


def test_a_run_that_succeeded_has_succeeded(store: Store) -> None:
    run = run_of(store)
    submitted(run.directory, "7", "8")
    ended(store, run, "7", 0)
    assert run.state() == "succeeded"
    assert not is_unfinished(run.directory)


# Asking.


def test_one_call_asks_for_the_jobs_of_all_runs(store: Store, scheduler: Scheduler) -> None:
    runs = [run_of(store, f"a-20261121-12300{n}-0000") for n in range(9)]
    for n, run in enumerate(runs):
        submitted(run.directory, f"{n}1", f"{n}2")
        scheduler.tell(f"{n}1", "running" if n else "pending")
    ended(store, runs[8], "81", 0)
    told = refresh(store, runs, scheduler)
    ((what, jobs),) = scheduler.calls
    assert what == "status"
    assert sorted(jobs) == sorted(f"{n}{part}" for n in range(8) for part in (1, 2)), (
        "and of no run that is over"
    )
    assert {(c.before, c.now) for c in told.changes} == {("queued", "running")}
    assert len(told.changes) == 7


def test_nobody_is_asked_when_all_runs_are_over(store: Store) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    ended(store, run, "7", 3)

    def no_backend(name: str) -> Any:
        raise AssertionError(name)

    assert refresh(store, [run, run_of(store, "b-20261121-123005-0000")], no_backend).changes == ()


def test_a_scheduler_that_is_silent_changes_nothing_and_is_told_once(
    store: Store, scheduler: Scheduler
) -> None:
    runs = [run_of(store, f"a-20261121-12300{n}-0000") for n in range(3)]
    for n, run in enumerate(runs):
        submitted(run.directory, str(n))
        scheduler.tell(str(n), "running")
    refresh(store, runs, scheduler)
    before = [run.standing() for run in runs]
    scheduler.silent = True
    told = refresh(store, runs, scheduler)
    assert [run.standing() for run in runs] == before, "the last known state, and its age"
    assert told.changes == ()
    (finding,) = told.findings
    assert "connection refused" in finding.message


def test_a_job_that_ended_long_ago_and_is_forgotten_stays_what_it_was(
    store: Store, scheduler: Scheduler
) -> None:
    run = run_of(store)
    submitted(run.directory, "7", "8")
    scheduler.tell("7", "timeout")
    scheduler.tell("8", "running")
    refresh(store, [run], scheduler)
    scheduler.said.clear()
    refresh(store, [run], scheduler)
    assert [s.state for s in Journal(run.directory).seen()[1]] == ["timeout", "unknown"]
    assert run.state() == "unknown"


# Submissions that nobody lived to note.


def test_the_job_of_a_client_that_was_killed_is_adopted(store: Store, scheduler: Scheduler) -> None:
    run = run_of(store)
    submitted(run.directory, "6")
    begun = Submission("fake", "", run.id, at=ago(1), part=2, parts=2)
    Journal(run.directory).note("submitting", begun)
    own = Submission("fake", "6", run.id, cluster="c1")
    scheduler.known = {run.id: (own, replace(own, job="10"))}
    scheduler.tell("6", "running")
    scheduler.tell("10", "pending")
    for _ in range(2):
        refresh(store, [run], scheduler)
    journal = Journal(run.directory)
    assert [(j.job, j.part) for j in journal.submitted()] == [("6", 1), ("10", 2)]
    assert journal.unanswered() == ()
    assert sum(line.get("adopted", False) for line in journal.lines()) == 1
    assert [r.run for r in list_runs(store, 9).runs] == [run.id]
    assert [what for what, _ in scheduler.calls] == ["find", "status", "status"]


def test_two_clients_that_adopt_at_once_leave_one_job(store: Store, scheduler: Scheduler) -> None:
    run = run_of(store)
    Journal(run.directory).note("submitting", Submission("fake", "", run.id, at=ago(1)))
    scheduler.known = {run.id: (Submission("fake", "10", run.id, cluster="c1"),)}
    scheduler.tell("10", "pending")
    threads = [threading.Thread(target=refresh, args=(store, [run], scheduler)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [j.job for j in Journal(run.directory).submitted()] == ["10"]
    assert run.state() == "queued"


def test_a_submission_that_never_was_is_asked_for_twice_and_given_up(
    store: Store, scheduler: Scheduler
) -> None:
    run = run_of(store)
    begun = Submission("fake", "", run.id, at=ago(2))
    Journal(run.directory).note("submitting", begun)
    (run.directory / ".secrets").write_text("HF_TOKEN=x\0")
    refresh(store, [run], scheduler)
    assert run.state() == "unknown", "its client may live, and wait for an answer"
    assert (run.directory / ".secrets").exists()
    (run.directory / "submissions.jsonl").unlink()
    Journal(run.directory).note("submitting", replace(begun, at=ago(200)))
    scheduler.calls.clear()
    refresh(store, [run], scheduler)
    assert [what for what, _ in scheduler.calls] == ["find", "find"]
    assert Journal(run.directory).lines()[-1]["reason"] == "never submitted"
    assert run.state() == "prepared"
    assert not (run.directory / ".secrets").exists()


def test_a_submission_is_not_given_up_while_the_scheduler_is_silent(
    store: Store, scheduler: Scheduler
) -> None:
    run = run_of(store)
    Journal(run.directory).note("submitting", Submission("fake", "", run.id, at=ago(600)))
    scheduler.silent = True
    assert refresh(store, [run], scheduler).findings
    assert run.state() == "unknown"


# Ends that no job could write.


@pytest.mark.parametrize(
    ("word", "more", "reason", "code", "state"),
    [
        ("timeout", {}, "walltime", 130, "interrupted"),
        ("node_fail", {"nodes": ("n1",)}, "node lost", 137, "interrupted"),
        ("node_fail", {}, "lost", 137, "interrupted"),
        ("cancelled", {}, "cancelled", 130, "interrupted"),
        ("preempted", {}, "preempted", 130, "interrupted"),
        ("out_of_memory", {"exit_code": 125}, "out of memory", 125, "failed"),
        ("failed", {"exit_code": 9}, "job failed", 9, "failed"),
        ("succeeded", {"exit_code": 0}, "job left no record", 1, "failed"),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_a_job_that_was_killed_gets_its_end_recorded(
    store: Store,
    scheduler: Scheduler,
    word: str,
    more: dict[str, Any],
    reason: str,
    code: int,
    state: str,
    begun: bool,
) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    (run.directory / ".secrets").touch()
    if begun:
        began(run, "7", beat=600)
        start = AttemptRecord(
            run_id=run.id, attempt=1, phase="started", at=ago(700), host="node7", user="ada", step="s/t"
        )
        write_record(store.records_dir, start)
    scheduler.tell("7", word, ended=ago(60), **more)
    told = refresh(store, [run], scheduler)
    assert [(c.before, c.now) for c in told.changes] == [("queued", state)]
    (record,) = records(store)
    assert (record["reason"], record["exit_code"], record["attempt"]) == (reason, code, 1)
    assert record["scheduler_id"] == "7"
    assert record["host" if begun else "profile"] == ("node7" if begun else "big"), (
        "what is known of the attempt"
    )
    assert run.record == record
    assert run.state() == state
    assert not (run.directory / ".secrets").exists()
    assert run.attempts == 1, "an attempt that never began has its number: the next one takes another"
    scheduler.calls.clear()
    assert refresh(store, [run], scheduler).changes == ()
    assert scheduler.calls == []
    (listed,) = list_runs(store, 3).runs
    assert (listed.state, listed.job) == (state, "7")


def test_what_a_job_wrote_at_its_end_is_waited_for(store: Store, scheduler: Scheduler) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    began(run, "7", beat=1)
    scheduler.tell("7", "failed", exit_code=1, ended=ago(0))
    refresh(store, [run], scheduler)
    assert records(store) == []
    ended(store, run, "7", 42, "trainer failed")
    refresh(store, [run], scheduler)
    assert [r["exit_code"] for r in records(store)] == [42]
    assert run.state() == "failed"


def test_a_run_whose_trainer_holds_the_lock_is_not_ended_in_its_name(
    store: Store, scheduler: Scheduler
) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    began(run, "7", beat=600)
    scheduler.tell("7", "cancelled")
    with locked(run):
        refresh(store, [run], scheduler)
        assert run.state() == "running"
    assert records(store) == []


def test_while_a_part_of_the_chain_waits_nobody_ends_the_run(store: Store, scheduler: Scheduler) -> None:
    run = run_of(store)
    submitted(run.directory, "7", "8")
    began(run, "7", beat=600)
    (run.directory / ".secrets").touch()
    scheduler.tell("7", "node_fail", nodes=("n1",), ended=ago(60))
    scheduler.tell("8", "pending")
    refresh(store, [run], scheduler)
    assert (records(store), run.state()) == ([], "queued")
    assert (run.directory / ".secrets").exists(), "the next part reads it"


def test_clients_that_record_the_same_end_at_once_agree(store: Store, scheduler: Scheduler) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    scheduler.tell("7", "cancelled", ended=ago(60), reason="DependencyNeverSatisfied")
    threads = [threading.Thread(target=refresh, args=(store, [run], scheduler)) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    (record,) = records(store)
    assert run.record == record
    assert "DependencyNeverSatisfied" in (run.directory / "logs/attempt-1.log").read_text()


def test_a_cancelled_resubmission_does_not_take_the_name_of_the_attempt_before(
    store: Store, scheduler: Scheduler
) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    ended(store, run, "7", 3, "trainer failed")
    (run.directory / "record.json").unlink()
    submitted(run.directory, "8", at=ago(1))
    scheduler.tell("7", "failed", exit_code=3)
    scheduler.tell("8", "cancelled")
    refresh(store, [run], scheduler)
    found = {r["attempt"]: r["reason"] for r in records(store)}
    assert found[1] == "trainer failed"
    assert run.state() in ("failed", "interrupted")
    assert run.record["attempt"] in found


def test_a_directory_that_cannot_be_written_does_not_hold_up_the_others(
    store: Store, scheduler: Scheduler
) -> None:
    bad, good = run_of(store, "a-20261121-123005-0000"), run_of(store, "b-20261121-123005-0000")
    for n, run in enumerate((bad, good)):
        submitted(run.directory, str(n))
        scheduler.tell(str(n), "running")
    (bad.directory / "scheduler.json").mkdir()
    told = refresh(store, [bad, good], scheduler)
    assert good.state() == "running"
    (finding,) = told.findings
    assert bad.id in finding.message


# Waiting and cancelling.


class Heard(Teller):
    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.findings: list[str] = []

    def change(self, change: Any) -> None:
        self.changes.append((change.run, change.now))

    def finding(self, finding: Any) -> None:
        self.findings.append(finding.message)


def later(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_waiting_ends_with_the_run_and_tells_its_exit_code(store: Store, scheduler: Scheduler) -> None:
    run, other = run_of(store), run_of(store, "b-20261121-123005-0000")
    submitted(run.directory, "7")
    submitted(other.directory, "8")
    ended(store, other, "8", 0)
    scheduler.tell("7", "pending", reason="Resources")
    heard = Heard()
    timer = later(0.5, lambda: ended(store, run, "7", 42, "trainer failed"))
    told = wait_for_end(store, [run, other], heard, 30, scheduler)
    timer.join()
    assert [(e.state, e.exit_code, e.reason) for e in told] == [
        ("failed", 42, "trainer failed"),
        ("succeeded", 0, None),
    ]
    assert heard.changes == [(run.id, "queued"), (run.id, "failed")]


def test_waiting_longer_than_wanted_is_an_error_and_ends_nothing(store: Store, scheduler: Scheduler) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    scheduler.silent = True
    heard = Heard()
    with pytest.raises(SchedulerError, match="still queued"):
        wait_for_end(store, [run], heard, 1.5, scheduler)
    assert len(heard.findings) == 1, "told once, however often it was asked"
    assert [what for what, _ in scheduler.calls if what == "cancel"] == []


def test_a_run_that_nobody_started_is_not_waited_for(store: Store, scheduler: Scheduler) -> None:
    with pytest.raises(Conflict, match="has not begun"):
        wait_for_end(store, [run_of(store)], Teller(), 30, scheduler)


def test_cancelling_ends_every_part_and_removes_the_secrets(store: Store, scheduler: Scheduler) -> None:
    run, over = run_of(store), run_of(store, "b-20261121-123005-0000")
    submitted(run.directory, "7", "8", "9")
    (run.directory / ".secrets").touch()
    began(run, "7", beat=600)
    scheduler.tell("7", "timeout", ended=ago(600))
    scheduler.tell("8", "pending")
    scheduler.tell("9", "pending")
    submitted(over.directory, "3")
    ended(store, over, "3", 0)
    assert cancel_runs(store, [run, over], Teller(), 20, scheduler) == {run.id: True, over.id: False}
    assert [jobs for what, jobs in scheduler.calls if what == "cancel"] == [("8", "9")]
    assert run.state() == "interrupted"
    assert over.state() == "succeeded"
    assert not (run.directory / ".secrets").exists()
    assert [line["job"] for line in Journal(run.directory).lines() if line["event"] == "cancelled"] == [
        "8",
        "9",
    ]


def test_cancelling_what_the_scheduler_does_not_take_is_an_error(store: Store, scheduler: Scheduler) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    scheduler.silent = True
    with pytest.raises(SchedulerError, match="connection refused"):
        cancel_runs(store, [run], Teller(), 5, scheduler)
    assert run.state() == "queued"


def test_a_cancel_that_is_not_confirmed_is_an_error(
    store: Store, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(store)
    submitted(run.directory, "7")
    scheduler.tell("7", "running")
    monkeypatch.setattr(scheduler, "cancel", lambda jobs: None)
    with pytest.raises(SchedulerError, match="still running"):
        cancel_runs(store, [run], Teller(), 1, scheduler)
