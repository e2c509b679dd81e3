"""The steps that make something from nothing: the tiny data, and a model with its tokenizer."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import nemotron
from nemotron.artifacts.checks import check_artifact

STEPS = Path(nemotron.__file__).parent / "steps"
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
OUTPUTS = ("chat", "chat_held_out", "preferences", "preferences_held_out", "prompts", "prompts_held_out")


def script_of(step: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(step.replace("/", "_"), STEPS / step / "step.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main_of(step: str, config: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a step's script in this process, in `place`."""
    monkeypatch.chdir(place)
    Path("config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["step.py", "--config", "config.yaml"])
    script_of(step).main()


def data_config() -> dict[str, Any]:
    return {
        "seed": 0,
        "chat_rows": 40,
        "preference_rows": 30,
        "held_out_preference_rows": 20,
        "output": {name: f"data/{name}.jsonl" for name in OUTPUTS},
    }


def model_config(corpus: Path, seed: int = 0) -> dict[str, Any]:
    return {
        "seed": seed,
        "corpus": str(corpus),
        "tokenizer": {"vocab_size": 320},
        "model": SHAPE,
        "output": "model",
    }


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]},
        {"input": "What is it?", "output": "It is Rome."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_tiny_data_comes_in_the_numbers_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main_of("data_prep/scratch", data_config(), tmp_path, monkeypatch)
    counts = {name: len((tmp_path / f"data/{name}.jsonl").read_text().splitlines()) for name in OUTPUTS}
    assert counts == {
        "chat": 40,
        "chat_held_out": 220,
        "preferences": 30,
        "preferences_held_out": 20,
        "prompts": 308,
        "prompts_held_out": 220,
    }


def test_the_tables_are_drawn_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed plus one for each table: no table repeats another's draws."""
    config = data_config() | {"preference_rows": 20}
    main_of("data_prep/scratch", config, tmp_path, monkeypatch)
    first = (tmp_path / "data/preferences.jsonl").read_bytes()
    assert first != (tmp_path / "data/preferences_held_out.jsonl").read_bytes()
    (tmp_path / "again").mkdir()
    main_of("data_prep/scratch", config, tmp_path / "again", monkeypatch)
    assert (tmp_path / "again/data/preferences.jsonl").read_bytes() == first


def test_a_place_that_cannot_be_written_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data_config()))
    script = STEPS / "data_prep" / "scratch" / "step.py"
    words = [sys.executable, str(script), "--config", "config.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in (0, 1)
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_the_scratch_model_is_what_its_type_says_and_loads(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "model.tmp").mkdir()
    (tmp_path / "model.tmp" / "left.behind").write_text("by a kill")
    main_of("model/scratch", model_config(corpus), tmp_path, monkeypatch)
    checked = check_artifact(tmp_path / "model", "checkpoint_hf")
    assert checked.findings == ()
    assert not (tmp_path / "model.tmp").exists()
    assert not (tmp_path / "model" / "left.behind").exists()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.vocab_size == len(tokenizer) <= 320
    assert model.config.hidden_size == SHAPE["hidden_size"]
    assert (model.config.eos_token_id, model.config.pad_token_id) == (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )


def test_the_tokenizer_is_made_for_chats_and_judges(corpus: Path) -> None:
    scratch = script_of("model/scratch")
    tokenizer = scratch.train_tokenizer(scratch.corpus_texts(corpus), model_config(corpus))
    assert tokenizer.pad_token != tokenizer.eos_token
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 128)
    text = "Grüße, 東京 \U0001f600 <b>\n\t{}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text, "any text survives"
    chat = [{"role": role, "content": f"as {role}"} for role in scratch.ROLES]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    for role in scratch.ROLES:
        assert f"<|im_start|>{role}\nas {role}<|im_end|>\n" in rendered
    assert rendered.endswith("<|im_start|>assistant\n")
    verdict = '{"score_1": 5, "score_2": 1, "ranking": 1}'
    assert len(tokenizer(verdict)["input_ids"]) < len(verdict) / 2, "verdicts are short in tokens"


def test_weights_follow_from_the_seed(corpus: Path) -> None:
    scratch = script_of("model/scratch")
    tokenizer = scratch.train_tokenizer(scratch.corpus_texts(corpus), model_config(corpus))

    def first_weight(seed: int) -> Any:
        model = scratch.initialize_model(tokenizer, model_config(corpus, seed))
        return model.model.layers[0].self_attn.q_proj.weight

    assert first_weight(3).equal(first_weight(3))
    assert not first_weight(3).equal(first_weight(4))


def test_a_broken_corpus_names_its_line_without_a_traceback(tmp_path: Path, corpus: Path) -> None:
    with corpus.open("a", encoding="utf-8") as file:
        file.write('{"text": "no chat"}\n')
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(model_config(corpus)))
    words = [sys.executable, str(STEPS / "model" / "scratch" / "step.py"), "--config", "config.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4
    assert f"{corpus}:4" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists()
