"""A trainer's end and the signals around it, whichever of them is heard first."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from nemotron.job.allocation import INTERRUPTED, Allocation
from nemotron.job.watching.supervision import Ended, Events, supervise


@dataclass
class Trainer:
    """Stands for processes that have ended."""

    sent: list[int] = field(default_factory=list)
    closed: bool = False

    def send(self, number: int) -> None:
        self.sent.append(number)

    def close(self) -> None:
        self.closed = True


class Care:
    """Looks after nothing."""

    looks = False

    def on_signal(self, number: int) -> None:
        raise AssertionError("nothing is left that could be signalled")


@pytest.mark.parametrize(
    ("allocation", "code", "late", "stopped"),
    [
        (Allocation(job="7"), -signal.SIGTERM, signal.SIGTERM, INTERRUPTED),
        (Allocation(job="7"), 1, signal.SIGTERM, INTERRUPTED),
        (Allocation(job="7"), 0, signal.SIGTERM, INTERRUPTED),
        (Allocation(job="7"), 1, signal.SIGUSR1, None),
        (Allocation(), -signal.SIGTERM, signal.SIGTERM, None),
    ],
)
def test_a_signal_that_ended_the_trainer_may_be_heard_after_its_end(
    allocation: Allocation, code: int, late: int, stopped: str | None
) -> None:
    trainer: Any = Trainer()
    care: Any = Care()
    events = Events()
    events.put(Ended(code))
    timer = threading.Timer(0.05, lambda: events.put(late))
    timer.start()
    end = supervise(trainer, events, allocation, care, leaves_in_time=False)
    timer.join()
    assert (end.code, end.stopped, trainer.closed, trainer.sent) == (code, stopped, True, [])
