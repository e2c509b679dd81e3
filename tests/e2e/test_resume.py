"""Killed at random moments and started again: the same bytes as if nothing had happened.

Each run is killed with SIGKILL (the command, not the trainer) and typed again until it ends. Another store
holds the same recipe undisturbed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def assert_same(disturbed: Any, whole: Any, port: str) -> None:
    """Metrics, weights, summary and the checkpoint's own record are byte-identical."""
    for name in ("metrics.jsonl", "summary.json", "curve.txt"):
        assert (disturbed.directory / name).read_bytes() == (whole.directory / name).read_bytes(), name
    mine, theirs = disturbed.output(port), whole.output(port)
    assert weights(mine) == weights(theirs)
    assert disturbed.outputs[port]["digest"] == whole.outputs[port]["digest"]
    steps = [next(p for p in path.parents if p.name.startswith("step_")) for path in (mine, theirs)]
    infos = [(step / "training_info.json").read_bytes() for step in steps]
    assert infos[0] == infos[1]


def weights(checkpoint: Path) -> dict[str, bytes]:
    """The files of tensors, Hugging Face's or Megatron's, by path."""
    found = [p for kind in ("*.safetensors", "*.distcp") for p in checkpoint.rglob(kind)]
    assert found
    return {str(p.relative_to(checkpoint)): p.read_bytes() for p in found}


def disturbed_and_whole(
    lab: Any, words: list[str], ports: list[str], port: str, kills: int, seed: int
) -> None:
    whole = lab.run(*words, *ports, store="undisturbed")
    before = len(lab.starts())
    disturbed, landed = lab.run_and_kill(*words, *ports, kills=kills, whole=whole, seed=seed)
    began = lab.starts()[before:]
    assert landed >= kills - 1, "the machine outran the kills"
    assert len(began) > 2, "most attempts came to train"
    assert max(began) > 0, "no attempt went on from a checkpoint"
    assert_same(disturbed, whole, port)


def test_rlhf_survives_five_kills(lab: Any, built: Any) -> None:
    words = ["rl/nemo_rl/rlhf", "-c", "tiny", "grpo.max_num_steps=12", "checkpointing.save_period=3"]
    words += ["embedded.compare_prompts=40", "grpo.val_period=4"]
    ports = built.words(validation="prompts_held_out", policy="policy", reward_model="judge")
    # 40 prompts are five steps of eight: the run goes through them more than twice.
    few = lab.root / "few_prompts.jsonl"
    few.write_text("".join(built.paths["prompts"].open(encoding="utf-8").readlines()[:40]), encoding="utf-8")
    ports += ["-i", f"prompts={few}"]
    disturbed_and_whole(lab, words, ports, "policy", kills=5, seed=1)


def test_sft_survives_kills_over_the_edge_of_an_epoch(lab: Any, built: Any) -> None:
    # 220 rows are 14 steps of 16, the last of them not full.
    words = ["sft/nemo_rl", "-c", "tiny", "sft.max_num_steps=60", "checkpointing.save_period=4"]
    words += ["sft.val_period=10"]
    ports = built.words(data="chat_held_out", validation="chat_held_out", model="sft")
    disturbed_and_whole(lab, words, ports, "model", kills=3, seed=2)


def test_the_judge_survives_kills(lab: Any, built: Any) -> None:
    words = ["rm/nemo_rl", "-c", "tiny", "rm.max_num_steps=30", "checkpointing.save_period=3"]
    words += ["rm.val_period=10"]
    ports = built.words(data="preferences", validation="preferences_held_out", model="sft")
    disturbed_and_whole(lab, words, ports, "reward_model", kills=3, seed=3)
