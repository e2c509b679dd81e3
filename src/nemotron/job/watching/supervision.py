"""Waiting for a trainer: signals are passed on to it, and now and then it is looked after."""

from __future__ import annotations

import contextlib
import queue
import signal
import time
from dataclasses import dataclass
from typing import Protocol

from nemotron.job.allocation import INTERRUPTED, Allocation
from nemotron.job.trainer import Trainer

# How long a trainer may take to save its state after it was asked to stop.
GRACE_SECONDS = 60.0
# A trainer in trouble has little to save, and its nodes cost as much as those of a healthy one.
_TROUBLE_SECONDS = 20.0
# What is left of an allocation after the trainer was killed: for records and the end of the other nodes.
_LAST_SECONDS = 10.0
# A trainer that leaves by itself in time, and did not, is asked so long before it is killed.
_OVERDUE_SECONDS = 30.0
# A scheduler signals every process of a job and its script too, which passes the signal on.
_REPEAT_SECONDS = 5.0
# By then the runtime of a busy node has heard, too, of a signal that ended its trainer.
_LATE_SECONDS, _LATE_WELL_SECONDS = 2.0, 0.2
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Trouble:
    """Why a trainer has to be ended. reason: `hang` or `node lost`; what: a sentence."""

    reason: str
    what: str


@dataclass(frozen=True)
class End:
    """How a trainer ended.

    code: as `Popen.returncode`. stopped: why it was asked to, None if it was not. left_in_time: it may have
    ended by itself because its time was nearly up.
    """

    code: int
    stopped: str | None = None
    trouble: Trouble | None = None
    left_in_time: bool = False


@dataclass(frozen=True)
class Ended:
    """The trainer's exit code, as an event."""

    code: int


class Care(Protocol):
    """What goes on beside a trainer while it runs."""

    @property
    def looks(self) -> bool:
        """Whether there is anything to look at."""

    def look(self) -> Trouble | None:
        """Called every few seconds; the first trouble ends the trainer."""

    def on_trouble(self, trouble: Trouble, group: int) -> None:
        """The trainer, whose process group this is, is about to be ended because of trouble."""

    def on_signal(self, number: int) -> None:
        """The trainer was sent a signal."""


# Signals (their numbers) and the trainer's end, in the order in which they came.
Events = queue.SimpleQueue[int | Ended]


def supervise(
    trainer: Trainer, events: Events, allocation: Allocation, care: Care, *, leaves_in_time: bool
) -> End:
    """Wait until a trainer, which tells `events` of it, has ended; what is left of its processes is killed.

    leaves_in_time: the trainer knows by itself when its time is up, and must not be disturbed while it saves.
    """
    return _Supervision(trainer, events, allocation, care, leaves_in_time).wait()


class _Supervision:
    def __init__(
        self, trainer: Trainer, events: Events, allocation: Allocation, care: Care, leaves_in_time: bool
    ) -> None:
        self._trainer = trainer
        self._events = events
        self._allocation = allocation
        self._care = care
        self._leaves_in_time = leaves_in_time
        self._stopped: str | None = None
        self._trouble: Trouble | None = None
        self._first: tuple[int, float] | None = None
        # Moments of the monotonic clock, in order, and what is sent then.
        self._agenda: list[tuple[float, int]] = []
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def wait(self) -> End:
        try:
            while True:
                event = self._next()
                if isinstance(event, Ended):
                    self._hear_what_ended_it(event.code)
                    return End(event.code, self._stopped, self._trouble)
                if event is not None:
                    self._on_signal(event)
                self._on_time()
        finally:
            self._trainer.close()

    def _hear_what_ended_it(self, code: int) -> None:
        """A scheduler signals all processes of a job at once, and the trainer may be the faster to end."""
        if self._first is not None or self._trouble is not None or self._allocation.job is None:
            return
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=_LATE_SECONDS if code else _LATE_WELL_SECONDS)
            if event in (signal.SIGTERM, signal.SIGINT):
                self._stopped = self._allocation.reason(signal.SIGTERM, time.time())

    def _next(self) -> int | Ended | None:
        moments = [moment for moment, _ in self._agenda[:1]] + ([self._next_look] if self._care.looks else [])
        try:
            if not moments:
                return self._events.get()
            return self._events.get(timeout=max(0.0, min(moments) - time.monotonic()))
        except queue.Empty:
            return None

    def _on_time(self) -> None:
        now = time.monotonic()
        while self._agenda and self._agenda[0][0] <= now:
            self._send(self._agenda.pop(0)[1])
        if self._care.looks and self._next_look <= now:
            trouble = self._care.look()
            if trouble is not None and self._stopped is None and self._trouble is None:
                self._trouble = trouble
                self._care.on_trouble(trouble, self._trainer.group)
                self._end_within(_TROUBLE_SECONDS)
            self._next_look = time.monotonic() + _LOOK_SECONDS

    def _on_signal(self, number: int) -> None:
        now = time.time()
        reason = self._allocation.reason(number, now)
        if self._first is not None:
            same, since = self._first[0] == number, now - self._first[1]
            if not (same and self._allocation.job and since < _REPEAT_SECONDS):
                self._send(signal.SIGKILL)
                self._stopped = reason if reason == INTERRUPTED else self._stopped
            return
        self._first = (number, now)
        self._stopped = reason
        deadline = self._allocation.deadline
        if number != signal.SIGUSR1 or deadline is None:
            self._end_within(GRACE_SECONDS)
            return
        left = max(1.0, deadline - now - _LAST_SECONDS)
        self._end_within(left, after=max(0.0, left - _OVERDUE_SECONDS) if self._leaves_in_time else 0.0)

    def _send(self, number: int) -> None:
        self._trainer.send(number)
        self._care.on_signal(number)

    def _end_within(self, seconds: float, after: float = 0.0) -> None:
        begun = time.monotonic()
        self._agenda = [(begun + after, signal.SIGTERM), (begun + seconds, signal.SIGKILL)]
