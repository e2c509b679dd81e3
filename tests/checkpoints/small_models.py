"""Small models of each family, written without the code that is tested."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HIDDEN, FFN, HEADS, GROUPS, SIZE, LAYERS, VOCABULARY = 32, 48, 4, 2, 8, 3, 300
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ITEM = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I64": 8}
Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def config_of(family: str, *, tied: bool = False, **more: Any) -> dict[str, Any]:
    """A config.json as transformers 5 writes it."""
    return {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "head_dim": SIZE,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
        **more,
    }


def shapes_of(family: str, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
    """What transformers saves for such a model."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        here = f"model.layers.{layer}."
        for name, rows in (("q", HEADS * SIZE), ("k", GROUPS * SIZE), ("v", GROUPS * SIZE)):
            found[f"{here}self_attn.{name}_proj.weight"] = (rows, HIDDEN)
            if family == "qwen2":
                found[f"{here}self_attn.{name}_proj.bias"] = (rows,)
        if family == "qwen3":
            found |= {f"{here}self_attn.{name}_norm.weight": (SIZE,) for name in "qk"}
        found[f"{here}self_attn.o_proj.weight"] = (HIDDEN, HEADS * SIZE)
        found |= {f"{here}mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")}
        found[f"{here}mlp.down_proj.weight"] = (HIDDEN, FFN)
        found |= {f"{here}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    found["model.norm.weight"] = (HIDDEN,)
    if not tied:
        found["lm_head.weight"] = (VOCABULARY, HIDDEN)
    return found


@dataclass
class Made:
    """A model directory and what was written to it."""

    path: Path
    tensors: Tensors = field(default_factory=dict)

    def save(self, tensors: Tensors, config: dict[str, Any]) -> None:
        """Write all of it."""
        self.tensors = tensors
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "config.json").write_text(json.dumps(config))
        write_safetensors(self.path / "model.safetensors", tensors)


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """A file of tensors, by the format's definition."""
    header, data = {}, bytearray()
    for name, (dtype, shape, held) in tensors.items():
        offsets = [len(data), len(data) + len(held)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += held
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_tensors(directory: Path) -> Tensors:
    """All tensors of a model directory, by the format's definition."""
    found: Tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        data = file.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        header.pop("__metadata__", None)
        for name, held in header.items():
            start, end = held["data_offsets"]
            found[name] = (held["dtype"], tuple(held["shape"]), data[begin + start : begin + end])
    return found


def random_tensors(shapes: dict[str, tuple[int, ...]], dtype: str = "BF16", seed: int = 0) -> Tensors:
    """Random bytes; whatever they mean as numbers has to survive."""
    draw = random.Random(seed)
    found: Tensors = {}
    for name, shape in shapes.items():
        size = ITEM[dtype]
        for length in shape:
            size *= length
        found[name] = (dtype, shape, draw.randbytes(size))
    return found
