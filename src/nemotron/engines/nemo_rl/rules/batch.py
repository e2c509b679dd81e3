"""Batch arithmetic: what must divide what.

NeMo-RL finds these out after Ray is up and the model is loaded, minutes into the allocation.
"""

from __future__ import annotations

from collections.abc import Iterator

from nemotron.engines.nemo_rl.rules.rule import EVERY, GRPO, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View

_BATCH = "policy.train_global_batch_size"
_MICRO = "policy.train_micro_batch_size"
_LOGPROB = "policy.logprob_batch_size"
_IGNORE_TP_ACCURACY = "NRL_IGNORE_TP_ACCURACY_CHECK"


def rollouts_vs_batch(view: View) -> Iterator[Problem]:
    """A GRPO step's rollouts are trained in whole global batches."""
    rollouts, batch = view.rollouts, view.positive(_BATCH)
    if rollouts and batch and rollouts % batch:
        yield Problem(
            _BATCH,
            f"{_rollouts(view)} are no multiple of the train batch of {batch}",
            f"a divisor of {rollouts}",
            f"{_BATCH}={rollouts}",
        )


def on_policy_batch(view: View) -> Iterator[Problem]:
    """force_on_policy_ratio takes the ratio as 1, which holds for one update a step only."""
    rollouts, batch = view.rollouts, view.positive(_BATCH)
    if view.on("loss_fn.force_on_policy_ratio") and rollouts and batch and rollouts != batch:
        yield Problem(
            _BATCH,
            f"{_rollouts(view)}, the train batch is {batch}: "
            "loss_fn.force_on_policy_ratio allows one batch a step only",
            str(rollouts),
            f"{_BATCH}={rollouts}",
        )


def batch_vs_copies(view: View) -> Iterator[Problem]:
    """Every data parallel copy takes the same share of a global batch; pairs count twice."""
    batch, copies = view.positive(_BATCH), view.copies
    if not batch or not copies:
        return
    samples = batch * _samples_per_row(view)
    if samples % copies:
        right = _round_up(samples, copies, step=_samples_per_row(view))
        yield Problem(
            _BATCH,
            f"{_batch(view, batch)} does not divide among {copies} data parallel copies",
            f"a multiple of {_unit(copies, _samples_per_row(view))}",
            f"{_BATCH}={right}",
        )


def batch_vs_micro(view: View) -> Iterator[Problem]:
    """A copy's share of a global batch is cut into whole micro batches."""
    batch, micro, copies = view.positive(_BATCH), view.positive(_MICRO), view.copies
    if not batch or not micro or not copies or not view.batches_are_cut:
        return
    factor = _samples_per_row(view)
    share, left = divmod(batch * factor, copies)
    if left == 0 and share % (micro * factor):
        yield Problem(
            _MICRO,
            f"{_batch(view, batch)} gives each of {copies} copies {share} samples, "
            f"which do not cut into micro batches of {micro * factor}",
            f"a divisor of {share // factor}" if share % factor == 0 else f"a {_BATCH} that divides",
            f"{_MICRO}=1",
        )


def rollouts_vs_copies(view: View) -> Iterator[Problem]:
    """Rollouts are spread over the data parallel copies for log probabilities."""
    rollouts, copies = view.rollouts, view.copies
    if rollouts and copies and rollouts % copies:
        generations = view.whole("grpo.num_generations_per_prompt") or 1
        prompts = view.whole("grpo.num_prompts_per_step") or 1
        while prompts * generations % copies:
            prompts += 1
        yield Problem(
            "grpo.num_prompts_per_step",
            f"{_rollouts(view)} do not divide among {copies} data parallel copies",
            f"a multiple of {copies} rollouts",
            f"grpo.num_prompts_per_step={prompts}",
        )


def rollouts_vs_logprob(view: View) -> Iterator[Problem]:
    """A copy's rollouts are cut into whole log probability batches."""
    rollouts, copies, size = view.rollouts, view.copies, view.positive(_LOGPROB)
    if not rollouts or not copies or not size or not view.batches_are_cut or rollouts % copies:
        return
    share = rollouts // copies
    if share % size:
        yield Problem(
            _LOGPROB,
            f"{_rollouts(view)} give each of {copies} copies {share}: no whole batches of {size}",
            f"a divisor of {share}",
            f"{_LOGPROB}=1",
        )


def logprob_vs_micro(view: View) -> Iterator[Problem]:
    """From tensor parallel 4 up, log probabilities differ with the batch size they were computed in."""
    layout, micro, size = view.layout, view.positive(_MICRO), view.positive(_LOGPROB)
    if not layout or layout.tp < 4 or not micro or not size or micro == size:
        return
    if view.on("loss_fn.force_on_policy_ratio") or (view.environ or {}).get(_IGNORE_TP_ACCURACY):
        return
    yield Problem(
        _LOGPROB,
        f"tensor parallel {layout.tp} needs one size for training ({micro}) and log probabilities ({size})",
        str(micro),
        f"{_LOGPROB}={micro}",
    )


def pairs_are_not_packed(view: View) -> Iterator[Problem]:
    """DPO compares two rows of one micro batch, which packing would tear apart."""
    for kind in ("sequence_packing", "dynamic_batching"):
        key = f"policy.{kind}.enabled"
        if view.on(key):
            yield Problem(key, f"DPO does not work with {kind.replace('_', ' ')}", "false", f"{key}=false")


def _samples_per_row(view: View) -> int:
    """A preference row is two samples, chosen and rejected."""
    return 2 if view.algorithm in ("rm", "dpo") else 1


def _batch(view: View, batch: int) -> str:
    return f"a train batch of {batch}" + (
        f" pairs ({2 * batch} samples)" if _samples_per_row(view) == 2 else ""
    )


def _rollouts(view: View) -> str:
    prompts, generations = (
        view.whole("grpo.num_prompts_per_step"),
        view.whole("grpo.num_generations_per_prompt"),
    )
    return f"{prompts} prompts x {generations} generations = {view.rollouts} rollouts"


def _unit(copies: int, factor: int) -> int:
    return copies // factor if copies % factor == 0 else copies


def _round_up(samples: int, copies: int, *, step: int) -> int:
    while samples % copies:
        samples += step
    return samples // step


RULES = (
    Rule("nemo_rl.rollouts_vs_batch", GRPO, rollouts_vs_batch),
    Rule("nemo_rl.on_policy_batch", GRPO, on_policy_batch),
    Rule("nemo_rl.batch_vs_copies", EVERY, batch_vs_copies),
    Rule("nemo_rl.batch_vs_micro", EVERY, batch_vs_micro),
    Rule("nemo_rl.rollouts_vs_copies", GRPO, rollouts_vs_copies),
    Rule("nemo_rl.rollouts_vs_logprob", GRPO, rollouts_vs_logprob),
    Rule("nemo_rl.logprob_vs_micro", EVERY, logprob_vs_micro),
    Rule("nemo_rl.pairs_not_packed", ("dpo",), pairs_are_not_packed),
)
