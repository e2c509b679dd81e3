"""Other ways to the same end: a Bradley-Terry reward model as the judge, and DPO without any."""

from __future__ import annotations

from typing import Any

import pytest

from nemotron.data.tiny_chat import warmth

pytestmark = pytest.mark.slow

BRADLEY_TERRY = "step://rm/nemo_rl?config=tiny_bradley_terry"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_a_bradley_terry_model_ranks_held_out_pairs_and_aligns_the_policy(lab: Any) -> None:
    run = lab.run("rl/nemo_rl/rlhf", "-c", "tiny", "-i", f"reward_model={BRADLEY_TERRY}")
    (judge,) = [
        r
        for r in lab.records()
        if r.get("phase") == "ended" and "tiny_bradley" in str(r.get("metrics")) + "x"
    ] or [None]
    rewards = [row["train/reward"] for row in run.rows() if "train/reward" in row]
    spread = mean([row["train/reward_std"] for row in run.rows()[:6] if "train/reward_std" in row])
    assert mean(rewards[-5:]) > mean(rewards[:5]) + spread
