"""What a scheduler says to a profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nemotron.errors import NotFound, SchedulerError
from nemotron.findings import Finding
from nemotron.profiles.check import Partition, check_profile
from nemotron.profiles.load import Profiles
from nemotron.profiles.profile import Profile

Load = Callable[..., Profiles]


class Cluster:
    """A scheduler with two partitions and one account."""

    def partitions(self) -> Mapping[str, Partition]:
        return {"batch": Partition("batch", 2, 8), "cpu": Partition("cpu", None, None)}

    def accounts(self) -> tuple[str, ...] | None:
        return ("research",)

    def start_time(self, profile: Profile) -> str | None:
        return "2026-01-01T00:00:00"

    def findings(self, options: Mapping[str, Any], nodes: int, gpus_per_node: int) -> tuple[Finding, ...]:
        return ()


class Silent(Cluster):
    def partitions(self) -> Mapping[str, Partition]:
        raise SchedulerError("sinfo does not answer")


@pytest.mark.parametrize(
    ("rest", "ids"),
    [
        ('partition = "batch"\naccount = "research"\nnodes = 2\ngpus_per_node = 8', []),
        ('partition = "cpu,batch"', []),
        ("nodes = 900", []),
        ('partition = "bacth"', ["profiles.partition"]),
        ('partition = "cpu,x"', ["profiles.partition"]),
        ('run_partition = "x"\nbatch_partition = "y"', ["profiles.partition", "profiles.partition"]),
        ('partition = "batch"\nnodes = 3', ["profiles.nodes"]),
        ('partition = "batch"\ngpus_per_node = 9', ["profiles.gpus_per_node"]),
        ('account = "other"', ["profiles.account"]),
    ],
)
def test_the_profile_is_compared_with_the_cluster(load: Load, rest: str, ids: list[str]) -> None:
    checked = check_profile(load(f'[a]\nexecutor = "slurm"\n{rest}\n'), "a", Cluster())
    assert [finding.id for finding in checked.findings] == ids
    assert checked.asked
    assert checked.start_time == (None if ids else "2026-01-01T00:00:00")
    assert all(":" in str(finding.where) for finding in checked.findings)


def test_nobody_is_asked_without_a_probe(load: Load) -> None:
    checked = check_profile(load('[a]\nexecutor = "slurm"\npartition = "x"\n'), "a")
    assert (checked.findings, checked.asked, checked.start_time) == ((), False, None)


def test_a_scheduler_that_does_not_answer_is_told(load: Load) -> None:
    checked = check_profile(load('[a]\nexecutor = "slurm"\n'), "a", Silent())
    assert [finding.id for finding in checked.findings] == ["profiles.silent"]
    assert (checked.asked, checked.start_time) == (False, None)


def test_a_secret_that_is_not_set_here_is_a_warning(load: Load) -> None:
    text = (
        '[a]\nexecutor = "slurm"\nsecrets = ["NGC_API_KEY"]\n[a.env_vars]\nHF_TOKEN = "${oc.env:HF_TOKEN,}"\n'
    )
    (finding,) = check_profile(load(text), "a").findings
    assert finding.severity == "warning"
    assert "NGC_API_KEY" in finding.message
    assert check_profile(load(text, NGC_API_KEY="x"), "a").findings == ()


def test_a_profile_that_is_not_there(load: Load) -> None:
    with pytest.raises(NotFound):
        check_profile(load(""), "a")
