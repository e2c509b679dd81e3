"""Megatron-Core itself loads what we write, at several splits, and computes what transformers computes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import ARCHITECTURES, VOCABULARY, read_tensors

from nemotron.checkpoints import convert_hf_to_megatron, weaving
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.checkpoints.weaving import Weave

pytestmark = pytest.mark.slow
pytest.importorskip("megatron.core", reason="megatron-core is not installed")

ORACLE = Path(__file__).parent / "megatron_oracle.py"
TOKENS = [[3, 141, 59, 26, 5, 35, 89, 79, 32, 38, 46], [2, 71, 82, 81, 8, 28, 45, 90, 45, 235, 36]]
ROPE = {
    **{"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": ROPE},
    "mistral": {"sliding_window": None},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": True, "head_dim": 16},
}
# Tensor and pipeline size, padding of the vocabulary.
SPLITS = {"whole": (1, 1, None), "padded": (1, 1, 128), "tensor": (2, 1, 128), "pipeline": (1, 2, None)}
CLOSE, FAR = 1e-5, 1e-2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A model of each family as transformers saves it, in fp32, and the logits that it computes."""
    import torch
    import transformers

    torch.manual_seed(0)
    shape = {
        **{"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    }
    made = {}
    for family, more in FAMILIES.items():
        name = ARCHITECTURES[family]
        config = getattr(transformers, name.removesuffix("ForCausalLM") + "Config")(**shape, **more)
        model = getattr(transformers, name)(config).eval()
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.1 + (parameter.dim() == 1)
        path = tmp_path_factory.mktemp(family) / "model"
        model.save_pretrained(path)
        with torch.no_grad():
            made[family] = (path, model(torch.tensor(TOKENS)).logits)
    return made


@pytest.fixture(scope="module")
def judged(models: dict[str, tuple[Path, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every family at every split, through one start of Megatron-Core alone and one of two processes."""
    cases = {}
    for family, (path, _) in models.items():
        for split, (tensor, pipeline, pad) in SPLITS.items():
            case = _case(path, f"{family}.{split}", tensor, pipeline, pad)
            if split in ("tensor", "pipeline"):
                case["saved"] = str(path.with_name(f"{split}.saved"))
                Path(case["saved"]).mkdir()
            hf_to_megatron(path, Path(case["checkpoint"]).parent, vocab_pad=pad)
            cases[family, split] = case
    first = next(iter(models.values()))[0].parent
    ask([case for case in cases.values() if case["tensor"] * case["pipeline"] == 1], first / "one", 1)
    ask([case for case in cases.values() if case["tensor"] * case["pipeline"] == 2], first / "two", 2)
    return cases


def _case(
    path: Path, name: str, tensor: int = 1, pipeline: int = 1, pad: int | None = None
) -> dict[str, Any]:
    place = path.with_name(name)
    return {
        "checkpoint": str(place / "iter_0000000"),
        "config": str(path / "config.json"),
        "rows": 384 if pad else VOCABULARY,
        "tensor": tensor,
        "pipeline": pipeline,
        "tokens": TOKENS,
        "logits": f"{place}.logits",
        "error": f"{place}.error",
    }


def ask(cases: list[dict[str, Any]], place: Path, world: int) -> None:
    """Let Megatron-Core judge, as so many processes."""
    file = place.with_suffix(".json")
    file.write_text(json.dumps(cases))
    command = [sys.executable, "-W", "ignore", str(ORACLE)]
    ranks = [[*command, str(rank), str(world), f"{place}.store", str(file)] for rank in range(world)]
    processes = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for words in ranks]
    for process in processes:
        process.wait(900)


def far_off(case: dict[str, Any], wanted: Any) -> float:
    """The largest difference of the logits; fails with what Megatron-Core said where it has none."""
    import torch

    error = Path(case["error"])
    assert not error.exists(), error.read_text()
    found = torch.load(case["logits"], weights_only=True)[..., :VOCABULARY]
    return float((found - wanted).abs().max())


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_megatron_computes_the_same_logits(
    models: dict[str, Any], judged: dict[Any, dict[str, Any]], family: str, split: str
) -> None:
    wanted = models[family][1]
    assert wanted.abs().max() > 0.1
    assert far_off(judged[family, split], wanted) < CLOSE


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_megatron_saves_in_pieces_comes_back_bit_exact(
    models: dict[str, Any], judged: dict[Any, dict[str, Any]], tmp_path: Path, family: str, split: str
) -> None:
    case = judged[family, split]
    megatron_to_hf(Path(case["saved"]), tmp_path / "back", config=models[family][0])
    assert read_tensors(tmp_path / "back") == read_tensors(models[family][0])


def swapped(weave: Weave) -> Weave:
    if weave.pieces == 2:
        return Weave(weave.key, weave.parts[::-1], weave.columns, weave.layers, pieces=2)
    return weave


def laid_side_by_side(weave: Weave) -> Weave:
    parts = tuple((name, rows * weave.groups) for name, rows in weave.parts)
    return Weave(weave.key, parts, weave.columns, weave.layers, pieces=weave.pieces)


def test_mutations_are_noticed(
    models: dict[str, tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gate and up swapped or no interleave: loads and computes something else. Without states: fails."""
    path, wanted = models["qwen3"]
    cases = {name: _case(tmp_path / "model", name) for name in ("swapped", "side by side", "no state")}
    for case in cases.values():
        case["config"] = str(path / "config.json")
    breaks: dict[str, Callable[[Weave], Weave]] = {"swapped": swapped, "side by side": laid_side_by_side}
    for name, broken in breaks.items():
        weave_all = lambda model, broken=broken: tuple(map(broken, weaving.weaves_of(model)))  # noqa: E731
        monkeypatch.setattr(convert_hf_to_megatron, "weaves_of", weave_all)
        hf_to_megatron(path, Path(cases[name]["checkpoint"]).parent)
        monkeypatch.undo()
    monkeypatch.setattr(convert_hf_to_megatron, "extra_states", lambda model: ())
    hf_to_megatron(path, Path(cases["no state"]["checkpoint"]).parent)
    ask(list(cases.values()), tmp_path / "mutations", 1)
    assert far_off(cases["swapped"], wanted) > FAR
    assert far_off(cases["side by side"], wanted) > FAR
    assert "_extra_state" in Path(cases["no state"]["error"]).read_text()
