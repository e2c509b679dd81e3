"""Steps of Megatron-Bridge on a real scheduler, with the stub in place of the framework."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_site import Site

from nemotron.artifacts.checks import check_artifact

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_stub_of_the_training_runs_on_one_node_and_on_two(site: Site, nodes: int) -> None:
    words = ("sft/megatron_bridge", "-r", "cluster", "--stub", f"run.env.nodes={nodes}")
    done = site.run("steps", "run", *words)
    assert done.returncode == 0, done.stderr
    (left,) = Path(site.world.home).glob("runs/sft-megatron_bridge-*/checkpoints")
    assert check_artifact(left, "checkpoint_megatron").ok
