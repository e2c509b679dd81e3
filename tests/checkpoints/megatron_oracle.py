"""Megatron-Core as judge: `megatron_oracle.py RANK WORLD STORE CASES`, run once for each rank.

Loads each checkpoint as Megatron does, with its own strictness, on the CPU, and writes the logits of the last
pipeline stage; with `saved` it also saves the model there. CASES: a JSON list of {checkpoint, config, rows,
tensor, pipeline, tokens, logits, error, saved}; what fails is written to `error`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import distributed as dist
from torch.distributed.checkpoint import CheckpointException


def no_random_state() -> Any:
    """In place of the random states of GPUs."""
    return SimpleNamespace(fork=lambda *_: contextlib.nullcontext(), is_initialized=lambda: False)


def megatron_config(config: dict[str, Any], case: dict[str, Any]) -> TransformerConfig:
    """The model of a Hugging Face config, said to Megatron-Core independently of the converter."""
    kind = config["model_type"]
    return TransformerConfig(
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        ffn_hidden_size=config["intermediate_size"],
        num_attention_heads=config["num_attention_heads"],
        num_query_groups=config["num_key_value_heads"],
        kv_channels=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        layernorm_epsilon=config["rms_norm_eps"],
        normalization="RMSNorm",
        activation_func=torch.nn.functional.silu,
        gated_linear_unit=True,
        add_bias_linear=False,
        add_qkv_bias=kind == "qwen2",
        qk_layernorm=kind == "qwen3",
        attention_dropout=0.0,
        hidden_dropout=0.0,
        use_cpu_initialization=True,
        tensor_model_parallel_size=case["tensor"],
        pipeline_model_parallel_size=case["pipeline"],
        pipeline_dtype=torch.float32,
        params_dtype=torch.float32,
    )


def model_for(config: dict[str, Any], case: dict[str, Any]) -> GPTModel:
    """This rank's part of the model."""
    rope = config.get("rope_parameters") or {}
    scaling = {}
    if rope.get("rope_type") == "llama3":
        scaling = {"rope_scaling": True, "rope_scaling_factor": rope["factor"]}
    return GPTModel(
        megatron_config(config, case),
        get_gpt_layer_local_spec(qk_layernorm=config["model_type"] == "qwen3", normalization="RMSNorm"),
        vocab_size=case["rows"],
        max_sequence_length=config["max_position_embeddings"],
        position_embedding_type="rope",
        rotary_base=rope.get("rope_theta", 10000.0),
        share_embeddings_and_output_weights=config["tie_word_embeddings"],
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        parallel_output=False,
        **scaling,
    )


@torch.no_grad()
def logits_of(model: GPTModel, tokens: torch.Tensor, hidden: int, pipeline: int) -> torch.Tensor | None:
    """Forward through all stages; None on a stage that is not the last."""
    batch, length = tokens.shape
    mask = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)[None, None]
    positions = torch.arange(length).expand(batch, length)
    if pipeline > 1 and not parallel_state.is_pipeline_first_stage():
        received = torch.empty(length, batch, hidden)
        dist.recv(received, parallel_state.get_pipeline_model_parallel_prev_rank())
        model.set_input_tensor(received)
    out = model(tokens, positions, mask)
    if parallel_state.is_pipeline_last_stage():
        return out
    dist.send(out.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
    return None


def judge(case: dict[str, Any]) -> None:
    """One case, on this rank."""
    config = json.loads(Path(case["config"]).read_text())
    parallel_state.initialize_model_parallel(case["tensor"], case["pipeline"])
    try:
        model = model_for(config, case).eval()
        state = model.sharded_state_dict(prefix="")
        loaded = dist_checkpointing.load(state, case["checkpoint"])
        model.load_state_dict(
            {k: v for k, v in loaded.items() if not k.endswith("_extra_state")}, strict=False
        )
        tokens = torch.tensor(case["tokens"])
        logits = logits_of(model, tokens, config["hidden_size"], case["pipeline"])
        if case.get("saved"):
            dist_checkpointing.save(model.sharded_state_dict(prefix=""), case["saved"])
        if logits is not None and parallel_state.get_tensor_model_parallel_rank() == 0:
            torch.save(logits, case["logits"])
    finally:
        parallel_state.destroy_model_parallel()


def main() -> None:
    """All cases; a rank that fails alone would leave the other waiting, so that is the end of both."""
    rank, world, store, cases = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment, method-assign]
    tensor_parallel.random.get_cuda_rng_tracker = no_random_state
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("megatron.") and hasattr(
            module, "get_cuda_rng_tracker"
        ):
            module.get_cuda_rng_tracker = no_random_state  # type: ignore[attr-defined]
    for case in json.loads(Path(cases).read_text()):
        try:
            judge(case)
        except (Exception, CheckpointException):  # noqa: BLE001 - the test asks what went wrong
            Path(case["error"]).write_text(traceback.format_exc())
            if world > 1:
                sys.exit(1)


if __name__ == "__main__":
    main()
