"""The embedded engine as planning sees it: what it reads, what it refuses, how it is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import not_
from pathlib import Path
from typing import Any

from nemotron.engines.base import Shape, StepFacts, installed_version, place_findings, ranked
from nemotron.engines.embedded.batches import BatchPlan, grpo_batches, supervised_batches
from nemotron.engines.embedded.bridge_config import bridge_findings, is_bridge, iterations
from nemotron.engines.embedded.keys import notes, unknown_keys
from nemotron.engines.embedded.reading import (
    COMPARE,
    MEGATRON,
    WEIGHTS,
    algorithm_of,
    lookup,
    reward_model_kind,
)
from nemotron.errors import CheckFailed, UsageError
from nemotron.findings import Finding

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "matplotlib", "uniplot")
OTHER_SECTIONS = ("run", "inputs", "artifacts")

# Metrics in a checkpoint's training_info.json, by algorithm; GRPO's monitor comes on top.
_PAIRS = tuple(f"val:validation-default_{name}" for name in ("loss", "accuracy", "margin"))
CHECKPOINT_METRICS: dict[str, tuple[str, ...]] = {
    "sft": ("val:val_loss", "val:token_accuracy", "train:loss"),
    "rm": (*_PAIRS, "train:loss", "train:accuracy"),
    "dpo": (*_PAIRS, "train:loss", "train:accuracy"),
    "grpo": ("val:accuracy", "train:reward", "train:kl"),
}

# Key, what makes it impossible here, why.
_REFUSED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("policy.dtensor_cfg.lora_cfg.enabled", bool, "the embedded engine trains all weights"),
    ("policy.megatron_cfg.peft.enabled", bool, "the embedded engine trains all weights"),
    ("checkpointing.enabled", not_, "without checkpoints a run leaves nothing"),
    ("env.should_use_nemo_gym", not_, "the embedded engine has no rewards but the judge's"),
    ("grpo.use_dynamic_sampling", bool, "the embedded engine does not sample dynamically"),
    ("grpo.reward_shaping.stop_properly_penalty_coef", bool, "the embedded engine punishes length only"),
    ("grpo.async_grpo.enabled", bool, "the embedded engine takes turns between rollouts and training"),
    ("policy.generation.stop_strings", bool, "the embedded engine stops at token ids only"),
    (f"{COMPARE}.reasoning_bonus", bool, "the embedded judge gives no bonus"),
    (f"{COMPARE}.answer_bonus", bool, "the embedded judge gives no bonus"),
    (f"{COMPARE}.group_reasoning_length_penalty_coeff", bool, "the embedded judge knows no length penalty"),
    (f"{COMPARE}.group_answer_length_penalty_coeff", bool, "the embedded judge knows no length penalty"),
    (f"{COMPARE}.group_style_penalty_coeff", bool, "the embedded judge knows no style penalty"),
)
# What `enabled: true` needs below a key, and what is divided by.
_REWARD_NUMBERS: tuple[tuple[str, tuple[str, ...], Callable[[Any], Any]], ...] = (
    (
        "grpo.reward_scaling",
        ("source_min", "source_max", "target_min", "target_max"),
        lambda scaling: scaling["source_max"] - scaling["source_min"],
    ),
    (
        "grpo.reward_shaping",
        ("overlong_buffer_length", "overlong_buffer_penalty", "max_response_length"),
        lambda shaping: shaping["overlong_buffer_length"],
    ),
)
_NEEDED = (
    "policy.train_global_batch_size",
    "policy.train_micro_batch_size",
    "policy.max_total_sequence_length",
)


class EmbeddedEngine:
    """torch and trl in one process on this machine."""

    name = "embedded"

    def why_not_here(self) -> str | None:
        """torch, trl and what they need have to be installed."""
        missing = [p for p in PACKAGES if installed_version(p) is None]
        if not missing:
            return None
        return f"not installed here: {', '.join(missing)}; type: pip install 'nemotron[embedded]'"

    def version(self) -> str:
        """Versions that decide what a training gives."""
        return installed_version("torch", "transformers", "trl") or "not installed"

    def training_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Without the sections that speak to the launcher."""
        return {k: v for k, v in config.items() if k not in OTHER_SECTIONS}

    def check(self, config: Mapping[str, Any], step: StepFacts) -> tuple[Finding, ...]:
        """Unknown keys, what is refused here, and the arithmetic of the batches."""
        mine = self.training_config(config)
        if is_bridge(mine):
            return (*unknown_keys(mine), *_threads(mine), *bridge_findings(mine, step))
        found = list(unknown_keys(mine))
        algorithm = algorithm_of(mine)
        if algorithm is None:
            return (
                *found,
                Finding(
                    "config.no_algorithm",
                    "error",
                    "the config has no algorithm section",
                    where=step.step,
                    valid="sft, rm, dpo or grpo",
                ),
            )
        for key, refused, why in _REFUSED:
            value = lookup(mine, key)
            if value is not None and refused(value):
                found.append(
                    Finding(
                        "embedded.refused",
                        "error",
                        f"{key} is {value!r}: {why}",
                        where=key,
                        fix=f"{key}={'true' if value is False else 'null'}",
                    )
                )
        found += [*_threads(mine), *_missing(mine), *_ranking(algorithm, mine)]
        if not found or all(f.severity != "error" for f in found):
            found += _arithmetic(algorithm, mine, step)
        return tuple(found)

    def check_arguments(
        self, config: Mapping[str, Any], step: StepFacts, arguments: Sequence[str]
    ) -> tuple[Finding, ...]:
        """None: `argv` refuses every argument."""
        return ()

    def notes(self, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """Keys without effect, from the table."""
        return notes(self.training_config(config))

    def argv(self, step: StepFacts, config: Mapping[str, Any], arguments: Sequence[str]) -> tuple[str, ...]:
        """This package's trainer in the running interpreter. Raises UsageError: it takes no arguments."""
        if arguments:
            raise UsageError(
                f"the embedded trainer takes no arguments, {arguments[0]!r} would do nothing",
                where="after --",
                next="set config keys: KEY=VALUE",
            )
        return (step.python, "-m", "nemotron.engines.embedded", "{run_dir}")

    def environment(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Threads have to be set before torch is imported."""
        wanted = lookup(config, "embedded.threads", 1)
        threads = str(wanted if _is_count(wanted) else 1)  # `check` refuses what is no count
        return {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def checkpoint_layout(
        self, config: Mapping[str, Any], select: str, type_name: str
    ) -> tuple[str, str | None] | None:
        """A checkpoint step holds the model in `policy/`, a Megatron checkpoint where NeMo-RL keeps it."""
        return ranked(config, select), f"policy/{WEIGHTS}" if type_name == MEGATRON else "policy"

    def code(self, step: StepFacts) -> tuple[Path, ...]:
        """This engine, the judge's arithmetic, what reads packed rows, and what converts models."""
        engines = Path(__file__).parent.parent
        names = ("embedded", "genrm.py", "packed.py")
        return (*(engines / name for name in names), engines.parent / "checkpoints")

    def shape(
        self, step: StepFacts, config: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> Shape:
        """One process on one machine, with one GPU where the step has any use for them."""
        one = "the embedded engine trains in one process"
        why = {"launch": one, "nodes": one, "gpus_per_node": one, "image": "the embedded engine needs none"}
        return Shape("python", 1, min(1, step.gpus_per_node), None, why)

    def placed(
        self, config: Mapping[str, Any], *, seconds: int | None, save_before: int | None
    ) -> Mapping[str, Any]:
        """Nothing: it saves when a signal tells it that time is nearly up."""
        return {}

    def check_place(
        self,
        step: StepFacts,
        config: Mapping[str, Any],
        *,
        nodes: int,
        gpus_per_node: int,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[Finding, ...]:
        """More than one node is of no use; without a GPU it trains on the CPU."""
        shape = self.shape(step, config)
        return place_findings(shape, nodes=nodes, gpus_per_node=max(gpus_per_node, shape.gpus_per_node))

    def prefetch(self, config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
        """Nothing: inputs are fetched by the launcher."""
        return ()

    def planned_steps(self, config: Mapping[str, Any], rows: Mapping[str, int]) -> int | None:
        """As the batches say; the step limit where the rows are not known."""
        mine = self.training_config(config)
        if is_bridge(mine):
            return iterations(mine)
        algorithm = algorithm_of(mine)
        if algorithm is None:
            return None
        known = rows.get("prompts" if algorithm == "grpo" else "data")
        if known is None:
            limit = lookup(mine, f"{algorithm}.max_num_steps")
            return limit if _is_count(limit) else None
        try:
            if algorithm == "grpo":
                return grpo_batches(mine, known).steps
            return supervised_batches(mine, algorithm, known).steps
        except CheckFailed:
            return None  # `check` says why


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _threads(config: Mapping[str, Any]) -> list[Finding]:
    threads, key = lookup(config, "embedded.threads", 1), "embedded.threads"
    if _is_count(threads):
        return []
    return [Finding(key, "error", f"{key} is {threads!r}", where=key, valid="a whole number above 0")]


def _missing(config: Mapping[str, Any]) -> list[Finding]:
    needed = [*_NEEDED]
    if not lookup(config, "policy.megatron_cfg.enabled", False):
        needed.append("policy.optimizer")
    return [
        Finding("config.missing_key", "error", f"{key} is not set", where=key, fix=f"+{key}=...")
        for key in needed
        if lookup(config, key) is None
    ]


def _ranking(algorithm: str, config: Mapping[str, Any]) -> list[Finding]:
    """A metric to rank checkpoints by that none of this engine's checkpoints carries."""
    name = lookup(config, "checkpointing.metric_name")
    monitor = str(lookup(config, "embedded.monitor", "")).partition(":")[2]
    carried = {*CHECKPOINT_METRICS[algorithm], *([f"val:{monitor}"] if monitor else [])}
    if name is None or (isinstance(name, str) and name in carried):
        return []
    return [
        Finding(
            "embedded.metric_name",
            "warning",
            f"no checkpoint of the embedded engine carries {name}: the latest one counts as the best",
            where="checkpointing.metric_name",
            valid=", ".join(sorted(carried)),
            fix="checkpointing.metric_name=null",
        )
    ]


def _arithmetic(algorithm: str, config: Mapping[str, Any], step: StepFacts) -> list[Finding]:
    """Batches that do not divide, too few rows, a judge's cohort that is not the group."""
    rows = step.rows.get("prompts" if algorithm == "grpo" else "data")
    known = rows if rows is not None else 1 << 30
    found = []
    try:
        if algorithm == "grpo":
            plan = grpo_batches(config, known)
        else:
            plan = supervised_batches(config, algorithm, known)
    except CheckFailed as problem:
        found.append(Finding("embedded.batches", "error", problem.what, where=problem.where))
    else:
        if algorithm == "grpo":
            found += [*_groups(config, plan), *_rewards(config)]
    if algorithm == "rm" and reward_model_kind(config) not in ("bradley_terry", "generative"):
        found.append(
            Finding(
                "rm.reward_model_type",
                "error",
                f"{reward_model_kind(config)!r} is no reward model",
                where="policy.reward_model_cfg.reward_model_type",
                valid="bradley_terry, generative",
            )
        )
    return found


def _groups(config: Mapping[str, Any], plan: BatchPlan) -> list[Finding]:
    """Groups that cannot be compared, and updates that the policy's own ratio rules out."""
    found = []
    group = int(lookup(config, "grpo.num_generations_per_prompt"))
    cohort = lookup(config, f"{COMPARE}.num_rollouts_per_prompt")
    if group < 2:
        found.append(
            Finding(
                "grpo.group_size",
                "error",
                f"grpo.num_generations_per_prompt is {group}: a group is compared within itself",
                where="grpo.num_generations_per_prompt",
                valid="2 or more",
            )
        )
    if cohort is not None and cohort != group:
        found.append(
            Finding(
                "genrm.cohort_size",
                "error",
                f"the judge waits for {cohort} answers to a prompt, {group} are generated",
                where=f"{COMPARE}.num_rollouts_per_prompt",
                fix=f"{COMPARE}.num_rollouts_per_prompt={group}",
            )
        )
    if plan.optimizer_steps_per_step > 1 and lookup(config, "loss_fn.force_on_policy_ratio", False):
        found.append(
            Finding(
                "grpo.on_policy_ratio",
                "error",
                f"a step makes {plan.optimizer_steps_per_step} updates, and only the first is on policy",
                where="loss_fn.force_on_policy_ratio",
                fix="loss_fn.force_on_policy_ratio=false, or train on all rollouts of a step at once",
            )
        )
    temperature = lookup(config, "policy.generation.temperature", 1.0)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or temperature <= 0:
        found.append(
            Finding(
                "grpo.temperature",
                "error",
                "without sampling all answers to a prompt are the same, and nothing is learned",
                where="policy.generation.temperature",
                valid="a number above 0",
            )
        )
    return found


def _rewards(config: Mapping[str, Any]) -> list[Finding]:
    """Rewards that are to be changed by numbers that are not there or span no interval."""
    found = []
    for key, numbers, span in _REWARD_NUMBERS:
        section = lookup(config, key, {})
        if not section.get("enabled"):
            continue
        missing = [n for n in numbers if not isinstance(section.get(n), int | float)]
        if missing or span(section) <= 0:
            problem = f"lacks {', '.join(missing)}" if missing else "spans no interval"
            found.append(
                Finding(
                    "grpo.reward_numbers",
                    "error",
                    f"{key} is enabled and {problem}",
                    where=key,
                    fix=f"{key}.enabled=false",
                )
            )
    return found


ENGINE = EmbeddedEngine()
