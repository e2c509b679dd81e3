"""What checkpoints of other tools tell of themselves: step, parents, numbers; and what they cannot do."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemotron.artifacts.history import History, read_history
from nemotron.config.compose import compose

STEPS = Path(__file__).parents[2] / "src/nemotron/steps"
MODEL = "nvidia/NVIDIA-Nemotron-Nano-9B-v2"
SECRET = "hf_thisIsNoTokenButLooksLikeOne0000"


def resolved(step: str, *changes: str) -> dict[str, Any]:
    """The production config of a shipped step, as NeMo-RL saves it: everything resolved."""
    directory = STEPS / step / "config"
    configs = {path.stem: path for path in directory.glob("*.yaml")}
    config = compose(configs["default"], changes, configs=configs)
    return config.resolve({"RL_REWARD_MODEL": "nvidia/Qwen3-Nemotron-235B-A22B-GenRM"}, keep=()).data


def nemo_rl_step(root: Path, number: int, config: dict[str, Any], info: dict[str, Any]) -> Path:
    """One saved step, without its weights."""
    step = root / f"step_{number}"
    weights = step / "policy/weights/iter_0000000"
    weights.mkdir(parents=True)
    (step / "config.yaml").write_text(yaml.safe_dump(config))
    (step / "training_info.json").write_text(json.dumps(info))
    (weights / "run_config.yaml").write_text(RUN_CONFIG)
    (weights.parent / "latest_checkpointed_iteration.txt").write_text("0")
    return step


def told(path: Path, kind: str = "checkpoint_hf") -> History:
    found = read_history(path, kind)
    assert found is not None
    return found


def parents(history: History) -> set[tuple[str, str]]:
    return {(p.role, p.reference) for p in history.parents}


RUN_CONFIG = """\
_target_: megatron.bridge.training.config.ConfigContainer
checkpoint:
  _target_: megatron.bridge.training.config.CheckpointConfig
  finetune: true
  load: /ckpt/mine
  pretrained_checkpoint: /cluster/base/megatron
  save: /ckpt/mine
dataset:
  _target_: megatron.bridge.training.config.FinetuningDatasetConfig
  dataset_root: /cluster/data/chat
  seq_length: 4096
mixed_precision:
  params_dtype:
    _call_: false
    _target_: torch.bfloat16
model:
  _target_: megatron.bridge.models.llama.llama_provider.Llama31ModelProvider
  attention_backend:
    _args_:
    - 5
    _call_: true
    _target_: megatron.core.transformer.enums.AttnBackend
  num_layers: 16
  vocab_size: 128256
optimizer:
  lr: 0.0003
tokenizer:
  tokenizer_model: meta-llama/Llama-3.2-1B
train:
  global_batch_size: 32
  train_iters: 100
"""
GRPO_INFO = {
    "consumed_samples": 1600,
    "current_step": 100,
    "current_epoch": 0,
    "total_steps": 100,
    "total_valid_tokens": 812345,
    "val_reward": -99999999.0,
    "val:total_reward/mean": 3.25,
}


@pytest.fixture
def rlhf(tmp_path: Path) -> Path:
    """A checkpoint directory of an RLHF run with two finished steps and one that was cut off."""
    data = tmp_path / "prompts.jsonl"
    data.write_text("{}\n")
    config = resolved(
        "rl/nemo_rl/rlhf",
        f"policy.model_name={MODEL}",
        f"data.train.data_path={data}",
        "data.validation.data_path=/cluster/gone/validation.jsonl",
    )
    config["logger"]["wandb"]["api_key"] = SECRET
    root = tmp_path / "checkpoints"
    nemo_rl_step(root, 25, config, {**GRPO_INFO, "total_steps": 25, "current_step": 25})
    nemo_rl_step(root, 100, config, GRPO_INFO)
    (root / "tmp_step_125").mkdir()
    status = {"last_checkpoint_step": 100, "last_successful_ckpt_save_completion": 1767225600.5}
    (root / "latest_checkpoint_status.json").write_text(json.dumps(status))
    return root


@pytest.mark.parametrize(
    "inside",
    ["", "step_100", "step_100/policy", "step_100/policy/weights", "step_100/policy/weights/iter_0000000"],
)
def test_any_place_in_a_nemo_rl_checkpoint_tells_the_same_step(rlhf: Path, inside: str) -> None:
    history = told(rlhf / inside, "checkpoint_megatron")
    assert (history.tool, history.step_of_training) == ("nemo_rl", 100)
    assert history.at == "2026-01-01T00:00:00.500Z"
    assert history.facts["algorithm"] == "grpo"
    assert history.facts["metrics"] == {"val:total_reward/mean": 3.25}, (
        "and no reward that was never measured"
    )
    assert history.facts["counters"]["consumed_samples"] == 1600


@pytest.mark.parametrize("inside", ["", "policy/weights", "policy/weights/iter_0000000"])
def test_an_rlhf_checkpoint_names_policy_reference_judge_and_data(rlhf: Path, inside: str) -> None:
    history = told(rlhf / "step_100" / inside, "checkpoint_megatron")
    data = str(rlhf.parent / "prompts.jsonl")
    assert parents(history) == {
        ("policy", f"hf://{MODEL}"),
        ("reference", f"hf://{MODEL}"),
        ("reward_model", "hf://nvidia/Qwen3-Nemotron-235B-A22B-GenRM"),
        ("data", data),
        ("validation", "/cluster/gone/validation.jsonl"),
    }
    there = {p.role: p.path for p in history.parents}
    assert (there["data"], there["validation"]) == (data, None)
    assert history.config["keys"]["grpo.num_prompts_per_step"] == 16
    assert history.config["keys"]["policy.megatron_cfg.optimizer.lr"] == 1e-6


def test_an_earlier_step_tells_its_own_number_and_no_time(rlhf: Path) -> None:
    history = told(rlhf / "step_25", "checkpoint_megatron")
    assert (history.step_of_training, history.at) == (25, None)


def test_no_secret_of_the_config_is_kept_and_none_changes_the_digest(rlhf: Path) -> None:
    before = told(rlhf / "step_100")
    assert SECRET not in json.dumps(before.as_dict())
    file = rlhf / "step_100/config.yaml"
    file.write_text(file.read_text().replace(SECRET, "another"))
    assert told(rlhf / "step_100").config["digest"] == before.config["digest"]
    file.write_text(
        file.read_text().replace("num_generations_per_prompt: 8", "num_generations_per_prompt: 4")
    )
    assert told(rlhf / "step_100").config["digest"] != before.config["digest"]


@pytest.mark.parametrize(
    ("step", "algorithm", "roles"),
    [
        ("sft/nemo_rl", "sft", {"base", "data"}),
        ("rm/nemo_rl", "rm", {"base", "data"}),
        ("rl/nemo_rl/dpo", "dpo", {"policy", "reference", "data"}),
    ],
)
def test_the_algorithm_is_told_by_the_sections(
    tmp_path: Path, step: str, algorithm: str, roles: set[str]
) -> None:
    config = resolved(step, f"policy.model_name={MODEL}", "data.train.data_path=/cluster/rows.jsonl")
    info = {"epoch": 0, "step": 40, "total_steps": 40, "val_loss": 1.5, "consumed_samples": 5120}
    history = told(nemo_rl_step(tmp_path, 40, config, info), "checkpoint_megatron")
    assert history.facts["algorithm"] == algorithm
    assert {p.role for p in history.parents if p.told_by == "config.yaml"} == roles
    assert history.facts["metrics"] == {"val_loss": 1.5}


def test_data_sets_of_lists_defaults_and_the_old_flat_keys_are_found(tmp_path: Path) -> None:
    data = {
        "train": [{"data_path": "/a.jsonl"}, {"dataset_name": "tulu3_sft_mixture"}, {"data_path": "org/set"}],
        "default": {"dataset_name": "openai_format"},
    }
    config = {"policy": {"model_name": "org/m"}, "sft": {}, "checkpointing": {}, "data": data}
    history = told(nemo_rl_step(tmp_path / "new", 1, config, {"total_steps": 1}))
    assert {r for role, r in parents(history) if role == "data"} >= {
        "/a.jsonl",
        "tulu3_sft_mixture",
        "hf://org/set",
    }
    config["data"] = {"train_data_path": "/old.jsonl", "val_data_path": "/val.jsonl"}
    history = told(nemo_rl_step(tmp_path / "old", 1, config, {"total_steps": 1}))
    assert parents(history) >= {("data", "/old.jsonl"), ("validation", "/val.jsonl")}


def test_a_step_that_contradicts_its_directory_is_a_finding(tmp_path: Path) -> None:
    step = nemo_rl_step(tmp_path, 7, {"policy": {"model_name": "a/b"}}, {"total_steps": 9})
    history = told(step)
    assert history.step_of_training == 7
    assert [f.id for f in history.findings] == ["history.step"]


def test_a_step_that_was_being_written_says_so(tmp_path: Path) -> None:
    step = nemo_rl_step(tmp_path, 7, {"policy": {"model_name": "a/b"}}, {"total_steps": 7})
    unfinished = step.rename(tmp_path / "tmp_step_7")
    assert "history.unfinished" in [f.id for f in told(unfinished).findings]
    assert read_history(tmp_path, "checkpoint_megatron") is None, "and no finished one is there"


def test_data_beside_a_checkpoint_does_not_take_its_history(rlhf: Path) -> None:
    """Rollouts that lie in a step directory were not trained from its parents."""
    rollouts = rlhf / "step_100/policy/rollouts"
    rollouts.mkdir()
    assert read_history(rollouts, "packed_parquet") is None
    assert read_history(rollouts, "checkpoint_hf") is not None


def test_a_megatron_bridge_checkpoint_tells_its_iteration_and_what_it_began_as(tmp_path: Path) -> None:
    for number in (50, 100):
        (tmp_path / f"iter_{number:07}").mkdir()
        (tmp_path / f"iter_{number:07}/run_config.yaml").write_text(RUN_CONFIG)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("50\n")
    history = told(tmp_path, "checkpoint_megatron")
    assert (history.tool, history.step_of_training) == ("megatron_bridge", 50), "the tracked one"
    assert parents(history) == {
        ("base", "/cluster/base/megatron"),
        ("tokenizer", "hf://meta-llama/Llama-3.2-1B"),
        ("data", "/cluster/data/chat"),
    }
    assert history.facts["counters"] == {"consumed_samples": 50 * 32}
    assert history.config["keys"]["model._target_"].endswith("Llama31ModelProvider"), "a word, not a call"
    assert told(tmp_path / "iter_0000100", "checkpoint_megatron").step_of_training == 100


def test_a_blend_names_every_prefix_and_no_weight(tmp_path: Path) -> None:
    text = "dataset: {blend: [[/a_text_document, /b_text_document], [0.3, 0.7]]}\n"
    (tmp_path / "run_config.yaml").write_text(text)
    assert parents(told(tmp_path)) == {("data", "/a_text_document"), ("data", "/b_text_document")}
    (tmp_path / "run_config.yaml").write_text("dataset: {blend: ['0.3', /a, '0.7', /b]}\n")
    assert parents(told(tmp_path)) == {("data", "/a"), ("data", "/b")}


CARD = """\
---
base_model:
- meta-llama/Llama-3.1-8B
- mistralai/Mistral-7B-v0.3
base_model_relation: merge
datasets: [HuggingFaceH4/ultrachat_200k, /home/me/rows.jsonl]
license: llama3.1
library_name: transformers
tags: [generated_from_trainer, trl, dpo]
model-index:
- name: mine
  results:
  - task: {type: text-generation}
    dataset: {name: ARC, type: ai2_arc}
    metrics:
    - {type: accuracy, value: 64.59}
    - {type: broken, value: many}
---

# Mine

### Training hyperparameters

- learning_rate: 5e-07
- seed: 42
"""


def test_a_model_card_tells_bases_data_licence_and_scores(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    history = told(tmp_path)
    assert history.tool == "trl"
    assert history.source == ("README.md",)
    assert parents(history) == {
        ("base", "hf://meta-llama/Llama-3.1-8B"),
        ("base", "hf://mistralai/Mistral-7B-v0.3"),
        ("data", "hf://HuggingFaceH4/ultrachat_200k"),
        ("data", "/home/me/rows.jsonl"),
    }
    assert history.facts["base_model_relation"] == "merge"
    assert history.facts["algorithm"] == "dpo"
    score = {"task": "text-generation", "dataset": "ARC", "metric": "accuracy", "value": 64.59}
    assert history.facts["results"] == [score]
    assert history.config["keys"] == {"learning_rate": "5e-07", "seed": "42"}


def test_a_card_may_name_one_base_as_text_and_windows_lines(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\r\nbase_model: org/name\r\n---\r\ntext\r\n")
    assert parents(told(tmp_path)) == {("base", "hf://org/name")}


@pytest.mark.parametrize("text", ["# no front matter\n", "", "---\nnever: closed\n"])
def test_a_readme_without_front_matter_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    history = read_history(tmp_path, "checkpoint_hf")
    assert history is None or history.parents == ()


def test_an_axolotl_card_tells_its_whole_config(tmp_path: Path) -> None:
    config = {
        "base_model": "google/gemma-2b-it",
        "datasets": [{"path": "train.jsonl", "type": "alpaca"}],
        "test_datasets": [{"path": "org/held-out"}],
        "adapter": "qlora",
        "learning_rate": 0.0002,
        "hub_token": SECRET,
    }
    card = "---\nlibrary_name: peft\nbase_model: google/gemma-2b-it\n---\n"
    card += "<details><summary>See axolotl config</summary>\n\naxolotl version: `0.8.0`\n"
    card += f"```yaml\n{yaml.safe_dump(config)}\n```\n\n</details><br>\n"
    (tmp_path / "README.md").write_text(card)
    adapter = {
        "base_model_name_or_path": "google/gemma-2b-it",
        "revision": "abc123",
        "r": 16,
        "peft_type": "LORA",
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    history = told(tmp_path, "checkpoint_lora")
    assert (history.tool, history.facts["tool_version"]) == ("axolotl", "0.8.0")
    assert parents(history) == {
        ("base", "hf://google/gemma-2b-it@abc123"),
        ("data", "train.jsonl"),
        ("validation", "hf://org/held-out"),
    }
    assert SECRET not in json.dumps(history.as_dict())


def test_a_trainer_state_tells_step_and_last_values(tmp_path: Path) -> None:
    rows = [{"loss": 2.5, "step": 10}, {"eval_loss": 1.9, "step": 20}, {"loss": 2.0, "step": 20}]
    state = {"global_step": 20, "epoch": 1.0, "best_metric": 1.9, "log_history": rows}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "Qwen/Qwen3-0.6B"}))
    (tmp_path / "training_args.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    history = told(tmp_path)
    assert (history.tool, history.step_of_training) == ("transformers", 20)
    assert history.facts["metrics"] == {"loss": 2.0, "eval_loss": 1.9, "best_metric": 1.9}
    assert parents(history) == {("base", "hf://Qwen/Qwen3-0.6B")}
    assert "training_args.bin" not in history.source


def test_a_config_json_alone_is_no_history(tmp_path: Path) -> None:
    """Every model has one, and what it names is often the model itself."""
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "Qwen/Qwen3-0.6B"}))
    assert read_history(tmp_path, "checkpoint_hf") is None
    assert read_history(tmp_path / "missing", "checkpoint_hf") is None


def test_a_hub_snapshot_is_read_through_the_links_of_its_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--m/snapshots/abc"
    blobs = tmp_path / "models--org--m/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "0123").write_text(CARD)
    (snapshot / "README.md").symlink_to("../../blobs/0123")
    assert ("base", "hf://meta-llama/Llama-3.1-8B") in parents(told(snapshot))


def test_a_link_that_leaves_the_artifact_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.md").write_text(CARD)
    model = tmp_path / "model"
    model.mkdir()
    (model / "README.md").symlink_to(tmp_path / "elsewhere.md")
    history = told(model)
    assert (history.parents, [f.id for f in history.findings]) == ((), ["history.link"])


def test_an_artifact_is_not_its_own_parent(tmp_path: Path) -> None:
    adapter = {"base_model_name_or_path": str(tmp_path)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    assert told(tmp_path, "checkpoint_lora").parents == ()


def test_credentials_in_references_are_left_out(tmp_path: Path) -> None:
    card = f"---\ndatasets: ['https://me:{SECRET}@host/x.jsonl?sig={SECRET}']\n---\n"
    (tmp_path / "README.md").write_text(card)
    assert parents(told(tmp_path)) == {("data", "https://...@host/x.jsonl?...")}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
HOSTILE = {
    "code": "policy: {model_name: !!python/object/apply:os.system ['touch pwned']}\n",
    "new object": "policy: !!python/object/new:os.system ['touch pwned']\n",
    "bomb": BOMB,
    "deep": "a: " + "[" * 100_000,
    "endless": "a: &a [*a]\n",
    "many": "[" + "1," * 200_000 + "]",
    "not text": "\x00\x01\x02",
    "list": "- 1\n",
    "number": "7\n",
    "merge": "<<: {policy: {model_name: a/b}}\n",
    "key": "? [a, b]\n: 1\n",
    "nan": "policy: {model_name: .nan}\n",
    "digits": "policy: " + "9" * 6000 + "\n",
    "repeated": "policy: 1\npolicy: 2\n",
    "long": "policy: {model_name: " + "x" * 100_000 + "}\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("file", ["config.yaml", "policy/weights/iter_0000000/run_config.yaml", "README.md"])
def test_hostile_yaml_runs_nothing_and_is_told_as_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    step = nemo_rl_step(tmp_path, 3, {"policy": {"model_name": "a/b"}}, {"total_steps": 3})
    (step / file).write_text(f"---\n{text}\n---\n" if file == "README.md" else text)
    begun = time.process_time()
    history = told(step / "policy/weights/iter_0000000", "checkpoint_megatron")
    card = read_history(step, "checkpoint_hf")
    assert time.process_time() - begun < 2.0, "nothing in it grows faster than the file"
    assert history.step_of_training == 3
    assert card is not None and len(json.dumps(card.as_dict())) < 20_000
    assert not (tmp_path / "pwned").exists()


def test_a_file_with_tags_is_not_believed(tmp_path: Path) -> None:
    text = "policy: {model_name: a/b, odd: !!python/name:os.system ''}\nsft: {}\ncheckpointing: {}\n"
    step = tmp_path / "step_3"
    step.mkdir()
    (step / "config.yaml").write_text(text)
    history = told(step)
    assert parents(history) == set()
    assert [f.id for f in history.findings] == ["history.tags"]


def test_pipes_directories_and_unreadable_files_do_not_stop_it(tmp_path: Path) -> None:
    step = nemo_rl_step(tmp_path, 3, {"policy": {"model_name": "a/b"}}, {"total_steps": 3})
    (step / "config.yaml").unlink()
    os.mkfifo(step / "config.yaml")
    (step / "README.md").mkdir()
    (step / "adapter_config.json").write_bytes(b"\xff\xfe")
    assert told(step).step_of_training == 3


def test_a_huge_sparse_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "trainer_state.json").open("wb") as file:
        file.truncate(10 << 30)
    with (tmp_path / "README.md").open("wb") as file:
        file.truncate(10 << 30)
    history = told(tmp_path)
    assert len(history.findings) == 2
    assert all("larger" in f.message for f in history.findings)
