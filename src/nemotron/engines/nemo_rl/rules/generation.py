"""Rollout generation: vLLM's own arithmetic, numeric formats, and where generation runs."""

from __future__ import annotations

from collections.abc import Iterator

from nemotron.engines.nemo_rl.rules.rule import GRPO, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View

_VLLM = "policy.generation.vllm_cfg"
_RESOURCES = "policy.generation.colocated.resources"
_ASYNC = "grpo.async_grpo.enabled"
_CORRECTION = "loss_fn.use_importance_sampling_correction"
_ASYNC_BACKENDS = ("vllm", "megatron", "trtllm", "dynamo")


def vllm_world(view: View) -> Iterator[Problem]:
    """Generation GPUs hold a whole number of vLLM engines."""
    tp, pp = view.positive(f"{_VLLM}.tensor_parallel_size"), view.positive(f"{_VLLM}.pipeline_parallel_size")
    world = view.generation_gpus
    if _uses_vllm(view) and tp and pp and world and world % (tp * pp):
        yield Problem(
            f"{_VLLM}.tensor_parallel_size",
            f"an engine takes tp {tp} x pp {pp} = {tp * pp} GPUs, which do not divide {world} for generation",
            f"a product that divides {world}",
            f"{_VLLM}.tensor_parallel_size=1" if world % pp == 0 else f"{_VLLM}.pipeline_parallel_size=1",
        )


def vllm_engine(view: View) -> Iterator[Problem]:
    """Which parallel sizes need vLLM's async engine, and which refuse it."""
    if not _uses_vllm(view):
        return
    key = f"{_VLLM}.async_engine"
    tp, pp = view.positive(f"{_VLLM}.tensor_parallel_size"), view.positive(f"{_VLLM}.pipeline_parallel_size")
    ep = view.positive(f"{_VLLM}.expert_parallel_size")
    if pp and pp > 1 and not view.on(key):
        yield Problem(key, f"vLLM pipeline parallel {pp} needs the async engine", "true", f"{key}=true")
    if not tp or not ep or ep == 1:
        return
    if ep % tp:
        yield Problem(
            f"{_VLLM}.expert_parallel_size",
            f"expert parallel {ep} is no multiple of tensor parallel {tp}",
            f"1, or a multiple of {tp}",
            f"{_VLLM}.expert_parallel_size={tp}",
        )
    elif ep != tp and view.on(key):
        yield Problem(
            f"{_VLLM}.expert_parallel_size",
            f"expert parallel {ep} with tensor parallel {tp} does not work with the async engine",
            f"{tp}, or async_engine false",
            f"{_VLLM}.expert_parallel_size={tp}",
        )


def sampling(view: View) -> Iterator[Problem]:
    """vLLM refuses these when the first request comes."""
    top_p, top_k = view.number("policy.generation.top_p"), view.whole("policy.generation.top_k")
    if top_p is not None and not 0 < top_p <= 1:
        yield Problem(
            "policy.generation.top_p",
            f"top_p is {top_p:g}",
            "above 0, up to 1",
            "policy.generation.top_p=1.0",
        )
    if top_k is not None and top_k != -1 and top_k < 1:
        yield Problem(
            "policy.generation.top_k",
            f"top_k is {top_k}",
            "null, -1 or at least 1",
            "policy.generation.top_k=null",
        )


def fp8(view: View) -> Iterator[Problem]:
    """Rollouts in fp8 differ from the policy that is trained, and the fp8 cache has its own conditions."""
    if not _uses_vllm(view):
        return
    precision, cache = view.text(f"{_VLLM}.precision"), view.text(f"{_VLLM}.kv_cache_dtype") or ""
    if precision == "fp8" and not view.on(_CORRECTION):
        yield Problem(
            _CORRECTION, "fp8 rollouts need the importance sampling correction", "true", f"{_CORRECTION}=true"
        )
    if not cache.startswith("fp8"):
        return
    key = f"{_VLLM}.kv_cache_dtype"
    layout = view.layout
    refused = {
        f"precision {precision}": precision != "fp8",
        "DTensor": view.backend == "dtensor",
        "the async engine": view.on(f"{_VLLM}.async_engine"),
        f"pipeline parallel {layout.pp if layout else 1}": layout is not None and layout.pp > 1,
    }
    for what, applies in refused.items():
        if applies:
            yield Problem(key, f"the {cache} cache of vLLM does not work with {what}", "auto", f"{key}=auto")


def generation_gpus(view: View) -> Iterator[Problem]:
    """Generation on GPUs of its own leaves some for training, and says how many it takes."""
    gpus, nodes = view.positive("cluster.gpus_per_node"), view.positive("cluster.num_nodes")
    if not view.generation_is_apart or not gpus or not nodes:
        return
    each, count = view.whole(f"{_RESOURCES}.gpus_per_node"), view.whole(f"{_RESOURCES}.num_nodes")
    if nodes == 1:
        if not each or each < 0:
            yield Problem(
                f"{_RESOURCES}.gpus_per_node",
                "generation is not colocated and has no GPUs on the only node",
                f"1 to {gpus - 1}",
                f"{_RESOURCES}.gpus_per_node={max(1, gpus // 2)}",
            )
        elif gpus - each - view.reward_model_gpus <= 0:
            yield Problem(
                f"{_RESOURCES}.gpus_per_node",
                f"generation takes {each} of {gpus} GPUs{_reward_model(view)}: none is left for training",
                f"1 to {gpus - 1 - view.reward_model_gpus}",
                f"{_RESOURCES}.gpus_per_node={max(1, gpus // 2)}",
            )
        if count not in (None, 1):
            yield Problem(
                f"{_RESOURCES}.num_nodes",
                f"generation asks for {count} nodes of a cluster of one",
                "null or 1",
                f"{_RESOURCES}.num_nodes=null",
            )
        return
    if not count or count < 0:
        yield Problem(
            f"{_RESOURCES}.num_nodes",
            f"generation is not colocated and has no node of {nodes}",
            f"1 to {nodes - 1}",
            f"{_RESOURCES}.num_nodes=1",
        )
    elif nodes * gpus - count * gpus - view.reward_model_gpus <= 0:
        yield Problem(
            f"{_RESOURCES}.num_nodes",
            f"generation takes {count} of {nodes} nodes{_reward_model(view)}: none is left for training",
            f"1 to {nodes - 1}",
            f"{_RESOURCES}.num_nodes={max(1, nodes // 2)}",
        )
    if each != gpus:
        yield Problem(
            f"{_RESOURCES}.gpus_per_node",
            f"generation has {each} GPUs a node, the cluster {gpus}; over several nodes they are the same",
            str(gpus),
            f"{_RESOURCES}.gpus_per_node={gpus}",
        )


def async_needs(view: View) -> Iterator[Problem]:
    """What asynchronous GRPO cannot do without."""
    if not view.on(_ASYNC):
        return
    backend = view.text("policy.generation.backend")
    if backend is not None and backend not in _ASYNC_BACKENDS:
        yield Problem(
            "policy.generation.backend",
            f"asynchronous GRPO does not work with {backend}",
            ", ".join(_ASYNC_BACKENDS),
            "policy.generation.backend=vllm",
        )
    if backend == "vllm" and not view.on(f"{_VLLM}.async_engine"):
        yield Problem(
            f"{_VLLM}.async_engine",
            "asynchronous GRPO needs vLLM's async engine",
            "true",
            f"{_VLLM}.async_engine=true",
        )
    if not view.on(_CORRECTION):
        yield Problem(
            _CORRECTION,
            "asynchronous GRPO trains on old rollouts and needs the importance sampling correction",
            "true",
            f"{_CORRECTION}=true",
        )


def async_refuses(view: View) -> Iterator[Problem]:
    """What asynchronous GRPO does not work with."""
    if not view.on(_ASYNC):
        return
    for key, what in (
        ("grpo.use_dynamic_sampling", "dynamic sampling"),
        ("grpo.reward_scaling.enabled", "reward scaling"),
        ("grpo.reward_shaping.enabled", "reward shaping"),
        ("data.use_multiple_dataloader", "several data loaders"),
    ):
        if view.on(key):
            yield Problem(key, f"asynchronous GRPO does not work with {what}", "false", f"{key}=false")
    key = "policy.generation.colocated.enabled"
    if view.on(key) and view.text("policy.generation.backend") != "megatron":
        yield Problem(
            key,
            "asynchronous GRPO trains and generates at once: colocated works for Megatron generation only",
            "false",
            f"{key}=false",
        )


def context_length(view: View) -> Iterator[Problem]:
    """Prompt and answer fit into what vLLM was told, and that into what is trained."""
    limit, answer = view.positive(f"{_VLLM}.max_model_len"), view.positive("policy.generation.max_new_tokens")
    if not _uses_vllm(view) or not limit or not answer:
        return
    prompt, longest = (
        view.positive("data.max_input_seq_length"),
        view.positive("policy.max_total_sequence_length"),
    )
    # A prompt limit equal to vLLM's own is upstream's way to say "no limit of mine".
    if prompt and prompt != limit and prompt + answer > limit:
        yield Problem(
            f"{_VLLM}.max_model_len",
            f"a prompt of {prompt} tokens and {answer} new ones exceed vLLM's {limit}: long answers are cut",
            f"at least {prompt + answer}",
            f"policy.generation.max_new_tokens={limit - prompt}" if limit > prompt else None,
            severity="warning",
        )
    elif answer > limit:
        yield Problem(
            "policy.generation.max_new_tokens",
            f"{answer} new tokens exceed vLLM's {limit}",
            f"up to {limit}",
            f"policy.generation.max_new_tokens={limit}",
            severity="warning",
        )
    if longest and limit > longest:
        yield Problem(
            f"{_VLLM}.max_model_len",
            f"vLLM may generate {limit} tokens, training takes {longest}",
            f"up to {longest}",
            f"{_VLLM}.max_model_len={longest}",
            severity="warning",
        )


def _uses_vllm(view: View) -> bool:
    return view.text("policy.generation.backend") == "vllm"


def _reward_model(view: View) -> str:
    taken = view.reward_model_gpus
    return f" and the reward model {taken} GPUs" if taken else ""


RULES = (
    Rule("nemo_rl.vllm_world", GRPO, vllm_world),
    Rule("nemo_rl.vllm_engine", GRPO, vllm_engine),
    Rule("nemo_rl.sampling", GRPO, sampling),
    Rule("nemo_rl.fp8", GRPO, fp8),
    Rule("nemo_rl.generation_gpus", GRPO, generation_gpus),
    Rule("nemo_rl.async_needs", GRPO, async_needs),
    Rule("nemo_rl.async_refuses", GRPO, async_refuses),
    Rule("nemo_rl.context_length", GRPO, context_length),
)
