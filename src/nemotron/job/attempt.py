"""One attempt of a run on the first of its nodes: starts the trainer, watches it, records how it ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from nemotron.artifacts.atomic import os_error, write_json
from nemotron.artifacts.records import Phase
from nemotron.errors import NemotronError, SchedulerError
from nemotron.job.allocation import NAMES, Allocation
from nemotron.job.chain import count_attempts, forget_secrets
from nemotron.job.ending import Course, Ending, judge
from nemotron.job.late import pin_late_inputs
from nemotron.job.progress import kept_step, logged_step, saved_step
from nemotron.job.recorder import Recorder
from nemotron.job.trainer import Trainer
from nemotron.job.watching.heartbeat import Heartbeat
from nemotron.job.watching.looks import Looks
from nemotron.job.watching.supervision import End, Ended, Events, supervise

if TYPE_CHECKING:
    from nemotron.job.nodes.leader import Nodes

EXIT_NOT_STARTED = 127
FAILURE_FILE = "failure.json"
# A trainer that has this in its config saves and leaves by itself before its time is up.
_OWN_DEADLINE = "checkpointing.checkpoint_must_save_by"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def needs_nodes(placement: Mapping[str, Any], allocation: Allocation) -> bool:
    """Whether the runtime has to bring the nodes of an allocation together for this placement."""
    if placement["backend"] == "local" or placement.get("stub") or allocation.nodes < 1:
        return False
    launch = placement["launch"]
    return launch == "torchrun" or (launch == "ray" and allocation.own_ray)


class Attempt:
    """The next attempt of a run. `lock` is the handle of the run's lock, which the trainer inherits."""

    def __init__(self, recorder: Recorder, allocation: Allocation, lock: int) -> None:
        self.directory = recorder.directory
        self.allocation = allocation
        self._recorder = recorder
        self._lock = lock
        self._placement: Mapping[str, Any] = recorder.plan["placement"]
        self._inputs: Mapping[str, Any] = recorder.place["inputs"]
        logs = self.directory / "logs"
        try:
            logs.mkdir(exist_ok=True)
        except OSError as problem:
            raise os_error(problem, logs) from problem
        self.number = 1 + count_attempts(self.directory)
        self.log = logs / f"attempt-{self.number}.log"
        self._started = time.time()
        self._events: Events = Events()
        self._trainer: Trainer | None = None
        self._node_logs: list[Path] = []
        self._heartbeat: Heartbeat | None = None

    def run(self) -> int:
        """The whole attempt; returns the exit code. Errors: those of writing records."""
        for stale in ("record.json", FAILURE_FILE):
            (self.directory / stale).unlink(missing_ok=True)
        # The log comes first: it is what counts attempts, and no two attempts may have one number.
        with self.log.open("ab") as log:
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)
            course = self._course()
            fixed = {"attempt": self.number, "begun": course.begun}
            heartbeat = self._heartbeat = Heartbeat(self.directory, self.allocation, fixed, self._step)
            try:
                return self._finish(self._ended(course, log))
            finally:
                heartbeat.close()

    def kill(self) -> None:
        """Kill the trainer."""
        if self._trainer is not None:
            self._trainer.close()

    def _ended(self, course: Course, log: IO[bytes]) -> Ending:
        """Pin what is late, train, and judge."""
        refused = None
        try:
            if not self._placement.get("stub"):
                stopped = self._is_asked_to_stop
                pinned = pin_late_inputs(self.directory, self._recorder.place, stopped=stopped)
                self._inputs = {**self._inputs, **pinned}
        except NemotronError as problem:
            refused = problem
        self._record("started")
        try:
            if refused is not None and not self._is_asked_to_stop():
                self.dismiss()
                raise refused
            return judge(self._train(log), course)
        except NemotronError as problem:
            log.write(f"{problem.render()}\n".encode("utf-8", "backslashreplace"))
            return Ending(problem.exit_code, problem.what, failure=problem.as_dict())

    def _train(self, log: IO[bytes]) -> End:
        try:
            nodes = None if self._is_asked_to_stop() else self._bring_up()
        except SchedulerError:
            if not self._is_asked_to_stop():
                raise
            nodes = None
        code = 1
        try:
            argv, environment = self._argv(), self._environment()
            if nodes is not None:
                argv = nodes.argv(argv)
                environment |= nodes.environment()
            end = self._supervised(argv, environment, nodes, log)
            code = end.code
            return end
        finally:
            if nodes is not None:
                nodes.close(code)
                self._node_logs = nodes.logs()

    def _supervised(
        self, argv: list[str], environment: Mapping[str, str], nodes: Nodes | None, log: IO[bytes]
    ) -> End:
        if self._is_asked_to_stop():  # before there was anything to stop
            self.dismiss()
            number = self._events.get()
            assert isinstance(number, int)
            return End(128 + number, self.allocation.reason(number, time.time()))
        scheduled = self._is_scheduled
        looks = Looks(self.directory, self._recorder.plan, self.log, nodes, scheduled=scheduled)
        try:
            self._trainer = trainer = Trainer(
                argv, self.directory, environment, log, self._lock, lambda code: self._events.put(Ended(code))
            )
        except (OSError, ValueError) as problem:
            log.write(f"{argv[0]} cannot be started: {problem}\n".encode("utf-8", "backslashreplace"))
            why = problem.strerror if isinstance(problem, OSError) else problem
            write_json(self.directory / FAILURE_FILE, {"what": f"{argv[0]} cannot be started: {why}"})
            return End(EXIT_NOT_STARTED)
        self._tell("running")
        begun, leaves = time.monotonic(), self._leaves_in_time
        try:
            end = supervise(trainer, self._events, self.allocation, looks, leaves_in_time=leaves)
        finally:
            looks.close()
        return replace(end, left_in_time=looks.left_in_time(time.monotonic() - begun))

    def _bring_up(self) -> Nodes | None:
        """The nodes of the allocation as one, where the plan wants that and nobody else sees to it."""
        if not needs_nodes(self._placement, self.allocation):
            return None
        from nemotron.job.nodes.leader import bring_up

        count, plan = self.allocation.nodes, self._recorder.plan
        return bring_up(self.directory, plan, self.number, count, stopped=self._is_asked_to_stop)

    def dismiss(self) -> None:
        """Let the other nodes go home, which wait for this one."""
        if needs_nodes(self._placement, self.allocation):
            from nemotron.job.nodes.leader import dismiss

            dismiss(self.directory)

    def _is_asked_to_stop(self) -> bool:
        return not self._events.empty()

    def _argv(self) -> list[str]:
        """The plan's command; the user's own arguments at its end are not touched."""
        words: list[str] = self._placement["argv"]
        ours = len(words) - len(self._recorder.plan["recipe"]["arguments"])
        return [word.replace("{run_dir}", str(self.directory)) for word in words[:ours]] + words[ours:]

    def _environment(self) -> dict[str, str]:
        # A profile's environment comes with launch.sh, where its startup lines have the last word.
        own = {} if self._placement.get("profile") else self._placement["environment"]
        environment = {**os.environ, **own}
        environment["NEMOTRON_RUN_DIR"] = str(self.directory)
        if self._is_scheduled:  # a hanging Python program tells its stacks when it is aborted
            environment.setdefault("PYTHONFAULTHANDLER", "1")
        return {name: value for name, value in environment.items() if name not in NAMES}

    def _finish(self, ending: Ending) -> int:
        """Write down how it ended; the exit code."""
        if ending.failure is not None:
            write_json(self.directory / FAILURE_FILE, ending.failure)
        elif ending.is_trainers_own and not (self.directory / FAILURE_FILE).exists():
            self._tell_cause()
        self._record("ended", exit_code=ending.code, reason=ending.reason, outputs=ending.outputs)
        forget_secrets(self.directory, self.allocation, ending.code, ending.reason)
        return ending.code

    def _tell_cause(self) -> None:
        """Leave word of why the trainer failed, where its logs tell."""
        from nemotron.job.causes.first_cause import first_cause

        scheduler = self.directory / "logs" / f"slurm-{self.allocation.job}.out"
        logs = [self.log, *self._node_logs, *([scheduler] if scheduler.is_file() else [])]
        cause = first_cause(logs, self._started)
        if cause is not None:
            # Without an exit code: a number of the trainer's own is none of our kinds of failure.
            write_json(self.directory / FAILURE_FILE, cause)

    def _record(self, phase: Phase, **more: Any) -> None:
        job = self.allocation.job or os.environ.get("SLURM_JOB_ID")
        self._recorder.write(self.number, phase, inputs=self._inputs, scheduler_id=job, **more)

    def _course(self) -> Course:
        plan, place = self._recorder.plan, self._recorder.place
        return Course(
            directory=self.directory,
            planned=plan["outputs"],
            allocation=self.allocation,
            begun=kept_step(self.directory, plan["outputs"]),
            planned_steps=place.get("planned_steps"),
        )

    @property
    def _is_scheduled(self) -> bool:
        return self.allocation.job is not None

    @property
    def _leaves_in_time(self) -> bool:
        return self._placement.get("config", {}).get(_OWN_DEADLINE) is not None

    def _step(self) -> int | None:
        logged = logged_step(self.directory)
        return saved_step(self.directory, self._recorder.plan["outputs"]) if logged is None else logged

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._events.put(number)
        if self._heartbeat is not None:
            self._heartbeat.tell("stopping", stopping=self.allocation.reason(number, time.time()))

    def _tell(self, phase: str) -> None:
        if self._heartbeat is not None:
            self._heartbeat.tell(phase)
