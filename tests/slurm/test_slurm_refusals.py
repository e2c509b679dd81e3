"""What cannot work is refused with exit code 4 before anything is handed to Slurm; nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_site import Site

pytestmark = pytest.mark.slurm

IMAGE = "run.env.container_image=nvcr.io/nvidia/nemo-rl:v0.6.0"
RLHF = ("rl/nemo_rl/rlhf", "-c", "default")


def refused(site: Site, cli: Callable[..., Any], *words: str) -> str:
    """What is said of a launch that is refused; the dry run says the same."""
    shown = cli("steps", "run", *words, "-b", "cluster", "-d")
    done = cli("steps", "run", *words, "-b", "cluster")
    assert (shown.code, done.code) == (4, 4), (shown.err, done.err)
    assert site.queue() == [] and site.world.runs() == []
    assert "Traceback" not in done.err
    return str(done.err)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("run.env.partition=bacth", "run.env.partition=batch"),
        ("run.env.account=reserch", "run.env.account=research"),
        ("run.env.nodes=3", "3 nodes are asked for, partition batch has 2"),
        ("run.env.gpus_per_node=9", "9 GPUs a node are asked for, partition batch has 8"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(
    site: Site, cli: Callable[..., Any], word: str, said: str
) -> None:
    assert said in refused(site, cli, "make/rows", word)


def test_paths_that_no_mount_covers_are_refused(
    site: Site, cli: Callable[..., Any], write_rows: Callable[..., Path]
) -> None:
    rows = write_rows("data/rows.jsonl", "training_jsonl")
    with (site.work / "env.toml").open("a", encoding="utf-8") as file:
        file.write('mounts = ["/opt/nothing:/opt/nothing"]\n[cluster.env_vars]\nHF_HOME = "/cache/hub"\n')
    said = refused(site, cli, "use/count", IMAGE, "-i", f"rows={rows}")
    assert f"{rows} is below no mount" in said and "/cache/hub is below no mount" in said
    assert "rows_path" in said and "env_vars.HF_HOME" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run.env.nodes=1",), "the allocation has 1 nodes, the step needs 2"),
        (("cluster.num_nodes=4",), "5 nodes are asked for, partition batch has 2"),
        (("env.nemo_gym.num_gpu_nodes=2", "run.env.nodes=2"), "the step needs 3 (cluster.num_nodes 1 + env"),
    ],
)
def test_nodes_that_do_not_add_up_are_refused(
    site: Site,
    cli: Callable[..., Any],
    write_rows: Callable[..., Path],
    write_model: Callable[..., Path],
    words: tuple[str, ...],
    said: str,
) -> None:
    place = site.world.root
    with (site.work / "env.toml").open("a", encoding="utf-8") as file:
        file.write(f'mounts = ["{place}:{place}"]\n')
    inputs = {
        "prompts": write_rows("prompts.jsonl", "prompt_jsonl"),
        "policy": write_model("policy"),
        "reward_model": write_model("judge"),
        "validation": write_rows("validation.jsonl", "prompt_jsonl"),
    }
    bound = [word for port, path in inputs.items() for word in ("-i", f"{port}={path}")]
    assert said in refused(site, cli, *RLHF, *bound, *words)
