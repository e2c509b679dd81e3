"""Other ways to the same end: a Bradley-Terry reward model as the judge, and DPO without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nemotron.data.tiny_chat import questions, warmth
from nemotron.engines.embedded.generation import generate
from nemotron.engines.embedded.grpo import is_right

pytestmark = pytest.mark.slow

BRADLEY_TERRY = "step://rm/nemo_rl?config=tiny_bradley_terry"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def told(model: Path) -> tuple[float, float]:
    """Warm and right shares of one sampled answer to every held-out question."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    held_out = [q for q in questions() if q.held_out]
    texts = [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": q.text}], tokenize=False, add_generation_prompt=True
            )
        )
        for q in held_out
    ]
    torch.manual_seed(1)
    loaded = AutoModelForCausalLM.from_pretrained(model).eval()
    answers = generate(loaded, tokenizer, texts, max_new_tokens=32, temperature=1.0)
    right = [float(is_right(a, q.answer)) for a, q in zip(answers, held_out, strict=True)]
    return mean([warmth(a) for a in answers]), mean(right)


@pytest.fixture(scope="session")
def bradley_terry(lab: Any) -> Any:
    """The reward model of the shipped config, trained on the lab's model."""
    return lab.run("rm/nemo_rl", "-c", "tiny_bradley_terry")


def test_the_bradley_terry_model_ranks_pairs_it_has_not_seen(bradley_terry: Any) -> None:
    accuracies = [row["validation/accuracy"] for row in bradley_terry.rows() if "validation/accuracy" in row]
    assert accuracies[-1] >= 0.7
    assert bradley_terry.outputs["reward_model"]["type"] == "reward_model_hf"
    assert bradley_terry.summary["last"] < bradley_terry.summary["first"] / 2


def test_the_policy_is_aligned_by_scores_of_single_answers_too(lab: Any, bradley_terry: Any) -> None:
    run = lab.run("rl/nemo_rl/rlhf", "-c", "tiny", "-i", f"reward_model={BRADLEY_TERRY}")
    place = run.directory / "place.json"
    assert bradley_terry.outputs["reward_model"]["digest"] in place.read_text(encoding="utf-8"), "reused"
    rewards = [row["train/reward"] for row in run.rows() if "train/reward" in row]
    before, after = mean(rewards[:5]), mean(rewards[-5:])
    # Logits have no scale of their own: the rise is counted in standard deviations within a group.
    spread = mean([row["train/reward_std"] for row in run.rows() if "train/reward_std" in row][:5])
    assert after > before + spread / 2
    comparison = run.summary["comparison"]
    assert comparison["judge_win_rate"] >= 0.7
    assert comparison["monitor_win_rate"] >= 0.7
    assert comparison["right_after"] >= 0.9


def test_dpo_makes_the_assistant_warmer_without_a_judge(lab: Any, built: Any) -> None:
    run = lab.run("rl/nemo_rl/dpo", "-c", "tiny")
    rows = run.rows()
    assert run.summary["last"] < run.summary["first"] / 2
    assert [row["validation/accuracy"] for row in rows if "validation/accuracy" in row][-1] >= 0.9
    (warm_before, right_before), (warm_after, right_after) = (
        told(built.paths["sft"]),
        told(run.output("policy")),
    )
    assert warm_after > warm_before + 0.3
    assert right_after > right_before - 0.06
