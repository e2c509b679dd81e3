"""Validation, and the metric that checkpoints are ranked by."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nemotron.engines.nemo_rl.rules.rule import EVERY, GYM, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View
from nemotron.errors import nearest

_METRIC = "checkpointing.metric_name"
_DATA = "data.validation"


def validation_set(view: View) -> Iterator[Problem]:
    """Whoever asks for validation names a set; whoever names none switches validation off."""
    period = view.whole(view.of_algorithm("val_period"))
    switches = [name for name in ("val_at_start", "val_at_end") if view.on(view.of_algorithm(name))]
    wanted = (period is not None and period > 0) or bool(switches)
    has_set = bool(view.data_sets("validation")) or _cut_off(view) or bool(view.get("data.val_data_paths"))
    if has_set:
        return
    if wanted:
        off = [f"{view.of_algorithm('val_period')}=0"]
        off += [f"{view.of_algorithm(name)}=false" for name in switches]
        yield Problem(
            _DATA,
            f"validation is on ({_asked(view, period, switches)}) and there is no validation set",
            "a validation set, or validation off",
            f"-i validation=PATH, or {' '.join(off)} {_METRIC}=null",
        )
    elif period is not None and period < 0 and view.algorithm != "sft":
        key = view.of_algorithm("val_period")
        yield Problem(key, f"{key} is {period} and there is no validation set", "0", f"{key}=0")


def validation_batches(view: View) -> Iterator[Problem]:
    """Whole validation batches are scored: none at all when a batch is larger than the sample."""
    size, limit = view.positive("grpo.val_batch_size"), view.positive("grpo.max_val_samples")
    if not size or not limit or not view.data_sets("validation"):
        return
    if size > limit:
        yield Problem(
            "grpo.val_batch_size",
            f"validation batches of {size} for {limit} samples: none is scored and accuracy reads 0.0",
            f"up to {limit}",
            f"grpo.val_batch_size={limit}",
        )
    elif limit % size:
        yield Problem(
            "grpo.val_batch_size",
            f"{limit} validation samples in batches of {size}: the last {limit % size} are not scored",
            f"a divisor of {limit}",
            f"grpo.max_val_samples={limit - limit % size}",
            severity="warning",
        )


def gym_validates_all(view: View) -> Iterator[Problem]:
    """The Gym script refuses a limit: it scores the validation set as it is."""
    limit = view.get("grpo.max_val_samples")
    if limit is not None:
        yield Problem(
            "grpo.max_val_samples",
            f"the Gym script scores the whole validation set and refuses a limit of {limit}",
            "null",
            "grpo.max_val_samples=null",
        )


def metric_name(view: View) -> Iterator[Problem]:
    """The metric checkpoints are ranked by exists; a wrong name ends the run at the first save."""
    name = view.text(_METRIC)
    if not name or not view.on("checkpointing.enabled"):
        return
    prefix, _, metric = name.partition(":")
    known = _metrics(view)
    if prefix not in ("train", "val") or not metric:
        close = nearest(name, known) or known[:1]
        yield Problem(
            _METRIC,
            f"{name} has no prefix train: or val:",
            ", ".join(f"val:{m}" for m in known),
            f"{_METRIC}=val:{close[0]}",
        )
    elif prefix == "val" and metric not in known and not _is_agent_metric(view, metric):
        close = nearest(metric, known) or known[:1]
        yield Problem(
            _METRIC,
            f"{view.algorithm} reports no validation metric {metric}: the first save would fail",
            ", ".join(f"val:{m}" for m in known),
            f"{_METRIC}=val:{close[0]}",
        )


def saved_with_metric(view: View) -> Iterator[Problem]:
    """A checkpoint is ranked when its step was validated too."""
    save, period = view.positive("checkpointing.save_period"), view.whole(view.of_algorithm("val_period"))
    name = view.text(_METRIC) or ""
    if not view.on("checkpointing.enabled") or not name.startswith("val:") or not save or period is None:
        return
    key = view.of_algorithm("val_period")
    if period <= 0:
        yield Problem(
            _METRIC,
            f"checkpoints are ranked by {name}, and {key}={period} never measures it",
            "null",
            f"{_METRIC}=null",
            severity="warning",
        )
        return
    if save % period:
        yield Problem(
            "checkpointing.save_period",
            f"saved every {save} steps, validated every {period}: some checkpoints have no metric",
            f"a multiple of {period}",
            f"checkpointing.save_period={-(-save // period) * period}",
            severity="warning",
        )
    at_end = view.of_algorithm("val_at_end")
    if view.has(at_end) and not view.on(at_end):
        yield Problem(
            at_end,
            "the last checkpoint has no metric unless the last step is validated",
            "true",
            f"{at_end}=true",
            severity="warning",
        )


def _cut_off(view: View) -> bool:
    return any(table.get("split_validation_size") for _, table in view.data_sets("train"))


def _asked(view: View, period: int | None, switches: list[str]) -> str:
    asked = [f"{view.of_algorithm('val_period')}={period}"] if period and period > 0 else []
    return ", ".join([*asked, *(f"{view.of_algorithm(name)}=true" for name in switches)])


def _metrics(view: View) -> list[str]:
    """Names that may follow `val:`."""
    if view.algorithm == "sft":
        return ["val_loss"]
    if view.algorithm in ("rm", "dpo"):
        sets = view.table("data.val_data_paths") or {"default": None}
        fields = ("loss", "accuracy", "rewards_chosen_mean", "rewards_rejected_mean")
        return [f"validation-{name}_{field}" for name in sets for field in fields]
    names = ["accuracy", "avg_length"]
    if (view.whole("grpo.val_num_generations_per_prompt") or 1) > 1:
        names.append("pass_k")
    return [*names, "total_reward/mean"] if view.entry_point == "grpo_nemo_gym" else names


def _is_agent_metric(view: View, metric: str) -> bool:
    """Gym adds a metric for each agent and reward key; DPO and RM one for each field of each set."""
    if view.entry_point == "grpo_nemo_gym":
        return re.fullmatch(r"[^/]+/[^/]+/mean", metric) is not None
    sets = view.table("data.val_data_paths") or {"default": None}
    return view.algorithm in ("rm", "dpo") and any(metric.startswith(f"validation-{name}_") for name in sets)


RULES = (
    Rule("nemo_rl.validation_set", EVERY, validation_set, since="v0.6.0"),
    Rule("nemo_rl.validation_batches", ("grpo",), validation_batches),
    Rule("nemo_rl.gym_validates_all", GYM, gym_validates_all),
    Rule("nemo_rl.metric_name", EVERY, metric_name),
    Rule("nemo_rl.saved_with_metric", EVERY, saved_with_metric),
)
