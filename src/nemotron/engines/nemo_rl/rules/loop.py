"""Settings of a training loop that demand one another."""

from __future__ import annotations

from collections.abc import Iterator

from nemotron.engines.nemo_rl.rules.rule import GRPO, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View


def reward_model_section(view: View) -> Iterator[Problem]:
    """Reward model training asserts its section before anything else."""
    key = "policy.reward_model_cfg"
    kind = view.text(f"{key}.reward_model_type")
    if not view.on(f"{key}.enabled"):
        yield Problem(f"{key}.enabled", "reward model training needs it", "true", f"{key}.enabled=true")
    elif kind not in (None, "bradley_terry"):
        yield Problem(
            f"{key}.reward_model_type",
            f"NeMo-RL trains no reward model of type {kind}",
            "bradley_terry",
            f"{key}.reward_model_type=bradley_terry",
        )


def batch_multiplier(view: View) -> Iterator[Problem]:
    """More prompts than a step trains are drawn for dynamic sampling only."""
    factor = view.number("grpo.batch_multiplier")
    if factor is not None and factor != 1 and not view.on("grpo.use_dynamic_sampling"):
        yield Problem(
            "grpo.batch_multiplier",
            f"batch_multiplier is {factor:g} without dynamic sampling",
            "1",
            "grpo.batch_multiplier=1",
        )


def early_stop(view: View) -> Iterator[Problem]:
    """An early stop has a threshold, and pass@k more than one answer."""
    metric = view.text("grpo.stop_at_validation_metric")
    if metric and view.number("grpo.stop_at_validation_threshold") is None:
        yield Problem(
            "grpo.stop_at_validation_threshold",
            f"training stops at {metric}, and no threshold says when",
            "a number",
            "+grpo.stop_at_validation_threshold=...",
        )
    answers = view.whole("grpo.val_num_generations_per_prompt") or 1
    ranked = (view.text("checkpointing.metric_name") or "").endswith(":pass_k")
    if (metric == "pass_k" or ranked) and answers < 2:
        yield Problem(
            "grpo.val_num_generations_per_prompt",
            f"pass_k needs several validation answers a prompt, not {answers}",
            "at least 2",
            "+grpo.val_num_generations_per_prompt=4",
        )


def reference_policy(view: View) -> Iterator[Problem]:
    """Without reference log probabilities there is nothing to hold the policy to."""
    key, penalty = (
        "grpo.skip_reference_policy_logprobs_calculation",
        view.number("loss_fn.reference_policy_kl_penalty"),
    )
    if view.on(key) and penalty:
        yield Problem(
            key,
            f"reference log probabilities are skipped, and the KL penalty is {penalty:g}",
            "false, or a penalty of 0",
            f"{key}=false",
        )


RULES = (
    Rule("nemo_rl.reward_model_section", ("rm",), reward_model_section),
    Rule("nemo_rl.batch_multiplier", GRPO, batch_multiplier),
    Rule("nemo_rl.early_stop", GRPO, early_stop),
    Rule("nemo_rl.reference_policy", GRPO, reference_policy),
)
