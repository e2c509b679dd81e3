"""How training is spread over GPUs, and how sequences are packed into micro batches."""

from __future__ import annotations

from collections.abc import Iterator

from nemotron.engines.nemo_rl.rules.rule import EVERY, GRPO, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View

_MEGATRON = "policy.megatron_cfg.enabled"
_DTENSOR = "policy.dtensor_cfg.enabled"
_PACKING = "policy.sequence_packing.enabled"
_DYNAMIC = "policy.dynamic_batching.enabled"
_DIVISIBLE = "policy.make_sequence_length_divisible_by"


def one_backend(view: View) -> Iterator[Problem]:
    """Exactly one of Megatron and DTensor trains the policy."""
    both, none = view.on(_MEGATRON) and view.on(_DTENSOR), not view.on(_MEGATRON) and not view.on(_DTENSOR)
    if both:
        yield Problem(
            _DTENSOR, "Megatron and DTensor are both enabled", "one of the two", f"{_DTENSOR}=false"
        )
    elif none:
        yield Problem(
            _DTENSOR, "neither Megatron nor DTensor is enabled", "one of the two", f"{_DTENSOR}=true"
        )


def world_vs_model_parallel(view: View) -> Iterator[Problem]:
    """The training GPUs hold a whole number of model copies."""
    layout = view.layout
    if layout and layout.data_parallel is None:
        key = "tensor_model_parallel_size" if layout.backend == "megatron" else "tensor_parallel_size"
        key = f"policy.{layout.backend}_cfg.{key}"
        rest = layout.cp * layout.pp
        fitting = [tp for tp in range(1, layout.tp) if layout.world % (tp * rest) == 0]
        yield Problem(
            key,
            f"one model copy takes {layout.spelled()} GPUs, which do not divide {layout.world} training GPUs",
            f"a product that divides {layout.world}",
            f"{key}={fitting[-1]}" if fitting else None,
        )


def packing_or_dynamic(view: View) -> Iterator[Problem]:
    """Sequence packing and dynamic batching both form micro batches; one can."""
    if view.on(_PACKING) and view.on(_DYNAMIC):
        yield Problem(
            _DYNAMIC, "sequence packing and dynamic batching are both enabled", "one", f"{_DYNAMIC}=false"
        )


def dynamic_vs_pipeline(view: View) -> Iterator[Problem]:
    """A pipeline needs micro batches of one shape."""
    layout = view.layout
    if view.on(_DYNAMIC) and layout and layout.pp > 1:
        yield Problem(
            _DYNAMIC,
            f"dynamic batching does not work with pipeline parallel {layout.pp}",
            "false",
            f"{_DYNAMIC}=false",
        )


def context_parallel_vs_packing(view: View) -> Iterator[Problem]:
    """With context parallelism DTensor forbids packing and Megatron demands it."""
    layout = view.layout
    if not layout or layout.cp == 1:
        return
    if layout.backend == "dtensor" and view.on(_PACKING):
        yield Problem(
            _PACKING,
            f"DTensor cannot pack with context parallel {layout.cp}",
            "false, or context parallel 1",
            f"{_PACKING}=false",
        )
    if layout.backend == "megatron" and not view.on(_PACKING):
        yield Problem(
            _PACKING, f"Megatron must pack with context parallel {layout.cp}", "true", f"{_PACKING}=true"
        )
    for name in ("use_linear_ce_fusion_loss", "use_fused_linear_logprobs"):
        key = f"policy.megatron_cfg.{name}"
        if layout.backend == "megatron" and view.on(key):
            yield Problem(
                key,
                f"fused log probabilities do not work with context parallel {layout.cp}",
                "false",
                f"{key}=false",
            )


def packing_vs_images(view: View) -> Iterator[Problem]:
    """A vision model's rows cannot be packed."""
    if view.on(_PACKING) and view.on("policy.is_vlm"):
        yield Problem(
            _PACKING, "sequence packing does not work with a vision model", "false", f"{_PACKING}=false"
        )


def sequence_divisor(view: View) -> Iterator[Problem]:
    """Padded sequences are split among context and sequence parallel ranks."""
    layout, divisor = view.layout, view.positive(_DIVISIBLE)
    if not layout or not divisor:
        return
    if layout.backend == "dtensor":
        unit, why = layout.tp, f"tensor parallel {layout.tp}"
    elif view.on(_PACKING):
        split = layout.tp if layout.tp > 1 and view.on("policy.megatron_cfg.sequence_parallel") else 1
        unit = (2 * layout.cp if layout.cp > 1 else 1) * split
        why = f"packing with context parallel {layout.cp}" + (
            f" and sequence parallel {split}" if split > 1 else ""
        )
    else:
        return
    if divisor % unit:
        yield Problem(
            _DIVISIBLE,
            f"{why} needs sequence lengths that are multiples of {unit}, not {divisor}",
            f"a multiple of {unit}",
            f"{_DIVISIBLE}={unit}",
        )


def packed_tokens(view: View) -> Iterator[Problem]:
    """The longest sequence fits into a packed micro batch, or the first long sample ends the run."""
    longest, divisor = view.positive("policy.max_total_sequence_length"), view.positive(_DIVISIBLE) or 1
    if not view.on(_PACKING) or not longest:
        return
    padded = -(-longest // divisor) * divisor
    names = ("train_mb_tokens", "logprob_mb_tokens") if view.algorithm == "grpo" else ("train_mb_tokens",)
    for name in names:
        key = f"policy.sequence_packing.{name}"
        tokens = view.whole(key)
        if tokens is not None and tokens < padded:
            yield Problem(
                key,
                f"a sequence of {padded} tokens does not fit into packed micro batches of {tokens}",
                f"at least {padded}",
                f"{key}={padded}",
            )


def packed_logprobs(view: View) -> Iterator[Problem]:
    """GRPO packs log probability batches too."""
    key = "policy.sequence_packing.logprob_mb_tokens"
    if view.on(_PACKING) and not view.has(key):
        yield Problem(
            key,
            f"{key} is missing: GRPO packs log probability batches too",
            "as train_mb_tokens",
            f"+{key}={view.get('policy.sequence_packing.train_mb_tokens')}",
        )


def saved_format(view: View) -> Iterator[Problem]:
    """The safetensors writer belongs to DTensor's second worker; any other raises at the first save."""
    key, switch = "checkpointing.model_save_format", "policy.dtensor_cfg._v2"
    if view.text(key) == "safetensors" and not view.on(switch):
        yield Problem(
            key,
            f"safetensors checkpoints need {switch}",
            f"null, or {switch}=true",
            f"{'' if view.has(switch) else '+'}{switch}=true" if view.backend == "dtensor" else f"{key}=null",
        )


RULES = (
    Rule("nemo_rl.one_backend", EVERY, one_backend),
    Rule("nemo_rl.world_vs_model_parallel", EVERY, world_vs_model_parallel),
    Rule("nemo_rl.packing_or_dynamic", EVERY, packing_or_dynamic),
    Rule("nemo_rl.dynamic_vs_pipeline", EVERY, dynamic_vs_pipeline),
    Rule("nemo_rl.context_parallel_vs_packing", EVERY, context_parallel_vs_packing),
    Rule("nemo_rl.packing_vs_images", EVERY, packing_vs_images),
    Rule("nemo_rl.sequence_divisor", EVERY, sequence_divisor),
    Rule("nemo_rl.packed_tokens", EVERY, packed_tokens),
    Rule("nemo_rl.packed_logprobs", GRPO, packed_logprobs),
    Rule("nemo_rl.saved_format", EVERY, saved_format),
)
