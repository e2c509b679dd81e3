"""LoRA adapters merged into their base: the bits of peft, and refusals by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import (
    ARCHITECTURES,
    GROUPS,
    HEADS,
    HIDDEN,
    SIZE,
    Made,
    Tensors,
    random_tensors,
    read_tensors,
    write_safetensors,
)

from nemotron.checkpoints.convert_lora import merge_lora
from nemotron.errors import CheckFailed

torch = pytest.importorskip("torch")

Make = Callable[..., Made]
MODULE = "base_model.model.model.layers.1.self_attn."


def write_adapter(place: Path, config: dict[str, Any] | None = None, tensors: Tensors | None = None) -> Path:
    """An adapter of rank 4 for q_proj and v_proj of one layer."""
    place.mkdir()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, rows in (("q", HEADS * SIZE), ("v", GROUPS * SIZE)):
        shapes |= {
            f"{MODULE}{name}_proj.lora_A.weight": (4, HIDDEN),
            f"{MODULE}{name}_proj.lora_B.weight": (rows, 4),
        }
    held = {
        name: ("F32", shape, torch.randn(shape, generator=torch.Generator().manual_seed(3)).numpy().tobytes())
        for name, shape in shapes.items()
    }
    write_safetensors(place / "adapter_model.safetensors", held | (tensors or {}))
    told = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "base_model_name_or_path": "x"}
    (place / "adapter_config.json").write_text(json.dumps(told | (config or {})))
    return place


def test_only_the_adapted_weights_change(make_model: Make, tmp_path: Path) -> None:
    made = make_model(dtype="F32")
    done = merge_lora(made.path, write_adapter(tmp_path / "adapter"), tmp_path / "merged", shard_bytes=50_000)
    found = read_tensors(done.path)
    changed = {name for name in found if found[name] != made.tensors[name]}
    assert changed == {f"model.layers.1.self_attn.{name}_proj.weight" for name in "qv"}
    assert done.notes == ("2 weights changed",)
    assert (done.path / "tokenizer.json").read_bytes() == (made.path / "tokenizer.json").read_bytes()


def test_an_adapter_with_a_tokenizer_brings_it(make_model: Make, tmp_path: Path) -> None:
    made, adapter = make_model(), write_adapter(tmp_path / "adapter")
    (adapter / "tokenizer.json").write_text("{}")
    merge_lora(made.path, adapter, tmp_path / "merged")
    assert (tmp_path / "merged" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "merged" / "chat_template.jinja").exists()


REFUSALS: dict[str, tuple[dict[str, Any], Tensors, str]] = {
    "DoRA": ({"use_dora": True}, {}, "use_dora = True"),
    "biases": ({"bias": "all"}, {}, "bias = all"),
    "saved modules": ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save"),
    "another start": ({"init_lora_weights": "pissa"}, {}, "init_lora_weights = pissa"),
    "another method": ({"peft_type": "IA3"}, {}, "'IA3' cannot be merged"),
    "embeddings": (
        {},
        random_tensors({"base_model.model.model.embed_tokens.lora_embedding_A": (4, 300)}, "F32"),
        "embed_tokens.lora_embedding_A",
    ),
    "a module that is not there": (
        {},
        random_tensors(
            {f"{MODULE}z_proj.lora_A.weight": (4, 32), f"{MODULE}z_proj.lora_B.weight": (8, 4)}, "F32"
        ),
        "z_proj",
    ),
    "half a pair": ({}, random_tensors({f"{MODULE}k_proj.lora_A.weight": (4, HIDDEN)}, "F32"), "not both"),
    "another shape": (
        {},
        random_tensors(
            {f"{MODULE}k_proj.lora_A.weight": (4, 9), f"{MODULE}k_proj.lora_B.weight": (9, 4)}, "F32"
        ),
        "do not fit",
    ),
    "a broken pattern": ({"alpha_pattern": {"(": 2}}, {}, "is no pattern"),
    "no number": ({"lora_alpha": "many"}, {}, "not a number"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_cannot_be_merged_is_refused_by_name(make_model: Make, tmp_path: Path, why: str) -> None:
    config, tensors, word = REFUSALS[why]
    made = make_model()
    with pytest.raises(CheckFailed, match=word):
        merge_lora(made.path, write_adapter(tmp_path / "adapter", config, tensors), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


LORAS: dict[str, dict[str, Any]] = {
    "plain": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]},
    "patterns": {
        **{"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        **{
            "rank_pattern": {r"layers\.0\..*q_proj": 3},
            "alpha_pattern": {"down_proj": 5, "1.self_attn.o_proj": 7},
        },
    },
    "rslora": {"r": 6, "lora_alpha": 12, "use_rslora": True, "target_modules": ["gate_proj", "v_proj"]},
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", LORAS)
def test_the_bits_are_those_of_peft(tmp_path: Path, kind: str, dtype: str) -> None:
    import peft
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = getattr(transformers, ARCHITECTURES["qwen3"])(config).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **LORAS[kind]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=getattr(torch, dtype))
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "peft")
    merge_lora(tmp_path / "base", tmp_path / "adapter", tmp_path / "ours")
    ours, theirs, before = (read_tensors(tmp_path / name) for name in ("ours", "peft", "base"))
    assert ours == theirs
    assert ours != before
