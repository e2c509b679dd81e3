"""A chain of configs as a training step ships them: a base, a production shape and a tiny one."""

from __future__ import annotations

from pathlib import Path

import pytest

BASE = """\
# What every run shares.
policy:
  model_name: ???
  tokenizer:
    name: ${policy.model_name}
    chat_template: null
  precision: bfloat16
  train_global_batch_size: 128
  train_micro_batch_size: 2
  max_total_sequence_length: 4096
  dtensor_cfg: {enabled: true, tensor_parallel_size: 2, cpu_offload: False}
  dynamic_batching:
    enabled: false
    train_mb_tokens: ${mul:${policy.max_total_sequence_length}, ${policy.train_micro_batch_size}}
  make_sequence_length_divisible_by: ${policy.dtensor_cfg.tensor_parallel_size}
  optimizer:
    name: torch.optim.AdamW
    kwargs:
      lr: 5.0e-6
      betas: [0.9, 0.999]
      eps: 1e-8
  scheduler:
    - name: LinearLR
      kwargs: {start_factor: 0.1, total_iters: 50}
    - milestones: [50]
  generation:
    backend: vllm
    max_new_tokens: ${policy.max_total_sequence_length}
    stop_strings: null
    vllm_kwargs: {}
grpo:
  num_prompts_per_step: 16
  num_generations_per_prompt: 8
  rollouts: ${mul:${.num_prompts_per_step},${.num_generations_per_prompt}}
  seed: 42
data:
  train: {data_path: "${oc.env:DATA_DIR,/data}/train.jsonl", split: train}
  validation: ${data.train}
logger:
  wandb_enabled: false
  wandb: {project: grpo, api_key: "${oc.env:WANDB_API_KEY}"}
cluster: {gpus_per_node: 8, num_nodes: 1}
"""

DEFAULT = """\
defaults: ../base.yaml
policy:
  model_name: org/model-8b
cluster:
  num_nodes: 4
run:
  env: {nodes: "${cluster.num_nodes}", partition: batch}
"""

TINY = """\
defaults:
  - default
  - _self_
policy:
  model_name: org/model-tiny
  optimizer:
    kwargs:
      betas: [0.8]
grpo: {num_prompts_per_step: 2}
cluster: {gpus_per_node: 1, num_nodes: 1}
"""


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, Path]:
    """The names and files of the three configs; `default` builds on `base`, `tiny` on `default`."""
    (tmp_path / "config").mkdir()
    files = {
        "base": tmp_path / "base.yaml",
        "default": tmp_path / "config/default.yaml",
        "tiny": tmp_path / "config/tiny.yaml",
    }
    for name, text in (("base", BASE), ("default", DEFAULT), ("tiny", TINY)):
        files[name].write_text(text)
    return files
