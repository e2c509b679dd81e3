"""Batch arithmetic: what the steps of a config mean in optimizer steps, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.engines.embedded.batches import BatchPlan, grpo_batches, supervised_batches
from nemotron.errors import CheckFailed


def supervised(size: Any = 8, micro: Any = 4, **section: Any) -> dict[str, Any]:
    return {
        "sft": section or {"max_num_steps": 10},
        "policy": {"train_global_batch_size": size, "train_micro_batch_size": micro},
    }


def grpo(prompts: Any = 4, group: Any = 4, size: Any = 16, micro: Any = 8, **section: Any) -> dict[str, Any]:
    made = supervised(size, micro)
    made["grpo"] = {
        "num_prompts_per_step": prompts,
        "num_generations_per_prompt": group,
        **(section or {"max_num_steps": 10}),
    }
    return made


def test_a_global_batch_is_cut_into_micro_batches() -> None:
    assert supervised_batches(supervised(), "sft", 100) == BatchPlan(4, 2, 1, 10)
    assert grpo_batches(grpo(), 100) == BatchPlan(8, 2, 1, 10)


def test_rollouts_beyond_the_global_batch_become_further_updates() -> None:
    plan = grpo_batches(grpo(size=8, micro=4), 100)
    assert plan == BatchPlan(4, 2, 2, 10)
    assert plan.optimizer_steps == 20


@pytest.mark.parametrize(
    ("section", "rows", "steps"),
    [
        ({"max_num_steps": 10}, 80, 10),
        ({"max_num_epochs": 1}, 80, 10),
        ({"max_num_epochs": 1}, 87, 10),
        ({"max_num_epochs": 3}, 87, 30),
        ({"max_num_steps": 7, "max_num_epochs": 1}, 80, 7),
        ({"max_num_steps": 70, "max_num_epochs": 2}, 80, 20),
        ({"max_num_steps": -1, "max_num_epochs": 2}, 80, 20),
        ({"max_num_steps": 5, "max_num_epochs": None}, 80, 5),
    ],
)
def test_the_earlier_limit_ends_the_run(section: dict[str, Any], rows: int, steps: int) -> None:
    assert supervised_batches(supervised(**section), "sft", rows).steps == steps


def test_an_epoch_of_grpo_counts_prompts_not_rollouts() -> None:
    assert grpo_batches(grpo(max_num_epochs=2), 13).steps == 6


@pytest.mark.parametrize(
    ("config", "where", "says"),
    [
        (supervised(8, 3), "policy.train_global_batch_size", "8 is no multiple"),
        (supervised(0, 1), "policy.train_global_batch_size", "0 is no number of 1 or more"),
        (supervised(8, 0), "policy.train_micro_batch_size", "0 is no number"),
        (supervised(None, 4), "policy.train_global_batch_size", "None is no number"),
        (supervised("8", 4), "policy.train_global_batch_size", "'8' is no number"),
        (supervised(True, 1), "policy.train_global_batch_size", "True is no number"),
        (supervised(200, 4), "policy.train_global_batch_size", "100 rows are fewer than one batch of 200"),
        (supervised(val_period=3), "sft", "neither sft.max_num_steps nor sft.max_num_epochs"),
        (supervised(max_num_steps=0), "sft.max_num_steps", "0 is no number"),
        (supervised(max_num_epochs="two"), "sft.max_num_epochs", "'two' is no number"),
    ],
)
def test_impossible_supervised_batches_name_the_key(config: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        supervised_batches(config, "sft", 100)
    assert caught.value.where == where
    assert says in caught.value.what


@pytest.mark.parametrize(
    ("config", "where", "says"),
    [
        (grpo(size=12, micro=4), "policy.train_global_batch_size", "4 prompts x 4 generations = 16 rollouts"),
        (grpo(prompts=0), "grpo.num_prompts_per_step", "0 is no number"),
        (grpo(group=None), "grpo.num_generations_per_prompt", "None is no number"),
        (
            grpo(prompts=200, size=800),
            "grpo.num_prompts_per_step",
            "100 prompts are fewer than one step of 200",
        ),
    ],
)
def test_impossible_rollouts_name_the_key(config: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        grpo_batches(config, 100)
    assert caught.value.where == where
    assert says in caught.value.what


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 300), st.data())
def test_every_rollout_is_trained_on_exactly_once(
    micro: int, accumulation: int, updates: int, more: int, data: st.DataObject
) -> None:
    rollouts = micro * accumulation * updates
    prompts = data.draw(st.sampled_from([n for n in range(1, rollouts + 1) if rollouts % n == 0]))
    rows = prompts + more
    config = grpo(prompts, rollouts // prompts, micro * accumulation, micro, max_num_epochs=1)
    assert grpo_batches(config, rows) == BatchPlan(micro, accumulation, updates, rows // prompts)
