"""A world small enough for real training in seconds: a random model of one layer, a few dozen rows."""

from __future__ import annotations

import copy
import importlib.util
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import nemotron
from nemotron.data import tiny_chat

STEPS = Path(nemotron.__file__).parent / "steps"
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
ADAM = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1.0e-3}}
RowsWriter = Callable[[str, list[Any]], Path]
Trained = Callable[..., Path]


def script_of(step: str) -> ModuleType:
    """A step's script as a module."""
    spec = importlib.util.spec_from_file_location(step.replace("/", "_"), STEPS / step / "step.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put_rows(path: Path, rows: Iterator[dict[str, object]] | list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a few rows of each kind."""
    where = tmp_path_factory.mktemp("tiny_data")
    put_rows(where / "chat.jsonl", tiny_chat.chat_rows(120, 0))
    put_rows(where / "chat_held_out.jsonl", islice(tiny_chat.held_out_chat_rows(1), 8))
    put_rows(where / "preferences.jsonl", tiny_chat.preference_rows(40, 2))
    put_rows(where / "preferences_held_out.jsonl", tiny_chat.preference_rows(8, 3, held_out=True))
    put_rows(where / "prompts.jsonl", islice(tiny_chat.prompt_rows(held_out=False), 12))
    put_rows(where / "prompts_held_out.jsonl", islice(tiny_chat.prompt_rows(held_out=True), 4))
    return where


@pytest.fixture(scope="session")
def tiny_model(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of one layer with its tokenizer, made by the step that makes such models."""
    scratch = script_of("model/scratch")
    config = {"seed": 0, "tokenizer": {"vocab_size": 400}, "model": SHAPE}
    tokenizer = scratch.train_tokenizer(scratch.corpus_texts(tiny_data / "chat.jsonl"), config)
    where = tmp_path_factory.mktemp("tiny_model") / "model"
    scratch.initialize_model(tokenizer, config).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


@pytest.fixture
def training_config(tiny_data: Path, tiny_model: Path) -> Callable[..., dict[str, Any]]:
    """`training_config("sft", {"sft.val_period": 1})`: a config of three steps, with keys set."""

    def make(algorithm: str, keys: Mapping[str, Any] | None = None) -> dict[str, Any]:
        rows, held_out = {
            "sft": ("chat", "chat_held_out"),
            "rm": ("preferences", "preferences_held_out"),
            "dpo": ("preferences", "preferences_held_out"),
            "grpo": ("prompts", "prompts_held_out"),
        }[algorithm]
        config: dict[str, Any] = {
            algorithm: {"max_num_steps": 3, "max_num_epochs": 10, "seed": 7},
            "policy": {
                "model_name": str(tiny_model),
                "train_global_batch_size": 4,
                "train_micro_batch_size": 4,
                "max_total_sequence_length": 160,
                "max_grad_norm": 1.0,
                "optimizer": copy.deepcopy(ADAM),
                "generation": {"max_new_tokens": 6},
            },
            "data": {
                "train": {"data_path": str(tiny_data / f"{rows}.jsonl")},
                "validation": {"data_path": str(tiny_data / f"{held_out}.jsonl")},
            },
            "checkpointing": {"checkpoint_dir": "checkpoints", "save_period": 2},
            "embedded": {"device": "cpu", "threads": 1},
        }
        if algorithm == "grpo":
            config["grpo"] |= {"num_prompts_per_step": 2, "num_generations_per_prompt": 2}
        for key, value in (keys or {}).items():
            put_key(config, key, value)
        return config

    return make


def put_key(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the maps on the way."""
    *parents, last = key.split(".")
    node = config
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """`train(config, directory)`: what the trainer's process would do and return, in this process."""
    before = signal.getsignal(signal.SIGTERM)

    def run(config: Mapping[str, Any], directory: Path | None = None) -> int:
        from nemotron.engines.embedded.__main__ import main

        where = directory or tmp_path / "run"
        where.mkdir(parents=True, exist_ok=True)
        (where / "config.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        return main([str(where)])

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def metrics_of() -> Callable[[Path], list[dict[str, Any]]]:
    """The metric rows of a run directory."""

    def read(directory: Path) -> list[dict[str, Any]]:
        text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    return read


@pytest.fixture
def rows_at(tmp_path: Path) -> RowsWriter:
    """`rows_at("name.jsonl", [row, ...])` writes rows; a text among them is written as it is."""

    def write(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write
