"""The steps of Megatron-Bridge as a user types them: plans, stubs, and the tiny config for real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.checks import check_artifact
from nemotron.checkpoints.compare_tensors import compare
from nemotron.checkpoints.inspect_checkpoint import inspect_checkpoint

PROFILE = """\
[cluster]
executor = "slurm"
account = "research"
partition = "batch"
time = "04:00:00"
nodes = 2
"""
Call = Callable[..., Any]


@pytest.fixture
def profile(world: Any) -> None:
    (world.work / "env.toml").write_text(PROFILE, encoding="utf-8")


def plan(cli: Call, *words: str) -> dict[str, Any]:
    made = cli("steps", "run", *words, "-d", "--json")
    return made.json.get("plan", made.json)  # type: ignore[no-any-return]


@pytest.mark.usefixtures("profile")
def test_a_plan_says_which_converter_runs(cli: Call) -> None:
    model = ("-i", "model=hf://Qwen/Qwen3-0.6B")
    here = plan(cli, "convert/hf_to_megatron", *model)
    assert (here["recipe"]["engine"], here["recipe"]["image"]) == ("script", None)
    there = plan(cli, "convert/hf_to_megatron", *model, "-b", "cluster", "run.env.nodes=1")
    assert there["recipe"]["engine"] == "megatron_bridge"
    assert there["recipe"]["image"] == "nvcr.io/nvidia/nemo:26.04"
    assert there["placement"]["argv"][-2:] == ["--with", "megatron_bridge"]
    assert there["placement"]["code"]["files"] > 10
    ours = plan(cli, "convert/hf_to_megatron", *model, "-b", "cluster", "--engine", "script")
    assert (ours["recipe"]["engine"], ours["recipe"]["image"]) == ("script", None)


@pytest.mark.usefixtures("profile")
def test_a_conversion_takes_one_node(cli: Call) -> None:
    made = plan(cli, "convert/hf_to_megatron", "-b", "cluster", "-i", "model=hf://Qwen/Qwen3-0.6B")
    assert [f["fix"] for f in made["findings"] if f["id"] == "place.nodes"] == ["run.env.nodes=1"]


@pytest.mark.usefixtures("profile")
def test_the_way_back_without_its_origin_says_that_ours_runs(cli: Call) -> None:
    words = ("convert/megatron_to_hf", "-b", "cluster", "-i", "model=/lustre/megatron", "run.env.nodes=1")
    assert plan(cli, *words)["recipe"]["engine"] == "script"
    words = (*words, "--engine", "megatron_bridge")
    made = plan(cli, *words)
    (finding,) = (f for f in made["findings"] if f["id"] == "megatron_bridge.origin")
    assert finding["severity"] == "warning" and "our own converter" in finding["message"]
    assert ["output", "written by our own converter, in the container"] in [list(n) for n in made["notes"]]
    with_origin = plan(cli, *words, "-i", "origin=hf://Qwen/Qwen3-0.6B")
    assert not [f for f in with_origin["findings"] if f["id"] == "megatron_bridge.origin"]


@pytest.mark.usefixtures("profile")
def test_training_takes_the_nodes_of_the_profile_and_leaves_in_time(cli: Call) -> None:
    made = plan(
        cli, "sft/megatron_bridge", "-b", "cluster", "-i", "model=/lustre/m", "-i", "packed=/lustre/p"
    )
    placement = made["placement"]
    assert (placement["nodes"], placement["gpus_per_node"], placement["launch"]) == (2, 8, "torchrun")
    assert placement["argv"][1:4] == ["-m", "torch.distributed.run", "--nproc-per-node=8"]
    assert placement["argv"][4].startswith("{run_dir}/code/")
    assert placement["config"]["train.exit_duration_in_mins"] == 215
    assert made["planned_steps"] == 1000
    assert not [f for f in made["findings"] if f["id"].startswith("megatron_bridge.")]


def test_without_data_nothing_is_launched(cli: Call) -> None:
    done = cli(
        "steps", "run", "sft/megatron_bridge", "--engine", "embedded", "-i", "model=hf://Qwen/Qwen3-0.6B"
    )
    assert done.code == 4 and "-i packed=" in done.err


def test_a_stub_leaves_a_checkpoint_that_the_next_step_takes(cli: Call, world: Any) -> None:
    done = cli("steps", "run", "sft/megatron_bridge", "--engine", "megatron_bridge", "--stub", "--json")
    assert done.code == 0, done.err
    (left,) = Path(world.home).glob("runs/sft-megatron_bridge-*/checkpoints")
    assert check_artifact(left, "checkpoint_megatron").ok


@pytest.mark.slow
def test_the_tiny_config_trains_here_and_leaves_megatron_checkpoints(world: Any) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("trl")
    process = world.start("steps", "run", "sft/megatron_bridge", "-c", "tiny")
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    (run,) = Path(world.home).glob("runs/sft-megatron_bridge-*")
    saved = [run / "checkpoints" / f"step_{step}" / "policy" / "weights" for step in (20, 40)]
    assert all(check_artifact(each, "checkpoint_megatron").ok for each in saved)
    assert all(inspect_checkpoint(each).tokenizer for each in saved)
    (start,) = Path(world.home).glob("runs/convert-hf_to_megatron-*/checkpoint")
    trained = compare(saved[0], saved[1])
    assert trained.numbers and not (
        trained.only_first or trained.only_second or trained.shape or trained.dtype
    )
    # Padded rows of the vocabulary were cut on the way in, and are not there on the way out.
    assert set(compare(start, saved[1]).shape) <= {"embedding.word_embeddings.weight"}
