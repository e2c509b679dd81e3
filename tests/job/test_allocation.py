"""What the environment of a job says of its allocation."""

from __future__ import annotations

import signal

import pytest

from nemotron.errors import CheckFailed
from nemotron.job.allocation import Allocation


def test_nothing_is_known_where_no_scheduler_has_a_hand() -> None:
    assert Allocation.read({"PATH": "/bin"}) == Allocation()


def test_what_the_submitted_script_exports_is_read() -> None:
    given = {"JOB_ID": "77", "PART": "2", "PARTS": "3", "RESTARTS": "1", "NODES": "4", "DEADLINE": "1000"}
    found = Allocation.read({f"NEMOTRON_{name}": value for name, value in given.items()})
    assert found == Allocation("77", part=2, parts=3, restarts=1, nodes=4, deadline=1000.0)
    assert not found.is_last
    assert Allocation(part=3, parts=3).is_last


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({"NEMOTRON_JOB_ID": "7", "SLURM_NODEID": "2"}, 2),
        ({"NEMOTRON_JOB_ID": "7", "SLURM_NODEID": "2", "NEMOTRON_NODE_RANK": "1"}, 1),
        ({"NEMOTRON_JOB_ID": "7"}, 0),
        # Somebody types a command in an interactive session on the second node.
        ({"SLURM_NODEID": "1"}, 0),
    ],
)
def test_the_rank_of_a_node(environ: dict[str, str], rank: int) -> None:
    assert Allocation.read(environ).rank == rank


@pytest.mark.parametrize("name", ["NEMOTRON_PART", "NEMOTRON_DEADLINE"])
def test_what_is_no_number_is_named(name: str) -> None:
    with pytest.raises(CheckFailed, match=name):
        Allocation.read({name: "soon"})


@pytest.mark.parametrize(
    ("number", "left", "reason"),
    [
        (signal.SIGUSR1, 600.0, "walltime"),
        (signal.SIGTERM, 600.0, "interrupted"),
        (signal.SIGINT, 600.0, "interrupted"),
        (signal.SIGTERM, 1.0, "walltime"),
        (signal.SIGTERM, -30.0, "walltime"),
    ],
)
def test_why_a_signal_comes(number: int, left: float, reason: str) -> None:
    assert Allocation(job="7", deadline=1000.0).reason(number, 1000.0 - left) == reason


def test_without_a_deadline_a_polite_kill_is_an_interruption() -> None:
    assert Allocation(job="7").reason(signal.SIGTERM, 1e12) == "interrupted"
