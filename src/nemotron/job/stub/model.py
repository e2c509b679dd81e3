"""The smallest model that loads: one Llama layer of width 8, a tokenizer of bytes, a chat template."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from nemotron.artifacts.checks.report import Report
from nemotron.artifacts.checks.tokenizer import check_tokenizer
from nemotron.job.stub.mark import MARK, NOTE, NOTE_FILE

WIDTH, HEADS = 8, 2
_PAD, _START, _END = "<|pad|>", "<|im_start|>", "<|im_end|>"
_SPECIAL = (_PAD, _START, _END)
VOCABULARY = 256 + len(_SPECIAL)
_LENGTH = 2048
_ADAPTED = "q_proj"
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Shapes = Mapping[str, tuple[int, ...]]


def model_files() -> dict[str, bytes]:
    """A model directory in the Hugging Face format; with its chat template it may stand for a judge too."""
    config = {
        MARK: True,
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": None,
        "dtype": "float32",
        "eos_token_id": _token_id(_END),
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "max_position_embeddings": _LENGTH,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": 1,
        "num_key_value_heads": HEADS,
        "pad_token_id": _token_id(_PAD),
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "vocab_size": VOCABULARY,
    }
    return {
        "config.json": _json(config),
        "model.safetensors": safetensors(_shapes()),
        NOTE_FILE: NOTE.encode(),
        **tokenizer_files(),
    }


def adapter_files(base: str) -> dict[str, bytes]:
    """A LoRA adapter of rank 1 that fits the model of `model_files`; `base` is what it says it adapts."""
    config = {  # no mark: older versions of peft refuse keys that they do not know
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 1,
        "target_modules": [_ADAPTED],
        "task_type": "CAUSAL_LM",
    }
    place = f"base_model.model.model.layers.0.self_attn.{_ADAPTED}"
    shapes = {f"{place}.lora_A.weight": (1, WIDTH), f"{place}.lora_B.weight": (WIDTH, 1)}
    return {
        "adapter_config.json": _json(config),
        "adapter_model.safetensors": safetensors(shapes),
        NOTE_FILE: NOTE.encode(),
    }


def tokenizer_files() -> dict[str, bytes]:
    """A byte-level BPE without merges: every text has ids, one a byte."""
    vocabulary = {symbol: number for number, symbol in enumerate((*_SPECIAL, *_byte_symbols()))}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level: dict[str, Any] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": _token_id(token), "content": token, **flags} for token in _SPECIAL],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocabulary, "merges": []},
    }
    config = {
        MARK: True,
        "chat_template": _CHAT_TEMPLATE,
        "eos_token": _END,
        "model_max_length": _LENGTH,
        "pad_token": _PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {"tokenizer.json": _json(tokenizer), "tokenizer_config.json": _json(config)}


def tokenizer_facts() -> dict[str, Any]:
    """What the checks say of the stub's tokenizer: tokenizer_digest, chat_template_digest, tokenizer_size."""
    files = tokenizer_files()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for file, data in files.items():
            (place / file).write_bytes(data)
        return check_tokenizer(place, frozenset(files), Report(place, 1))


def numbers(name: str, shape: tuple[int, ...]) -> bytes:
    """A tensor of 32-bit numbers: ones where it scales, else zeros."""
    return struct.pack("<f", float("norm" in name)) * prod(shape)


def safetensors(shapes: Shapes) -> bytes:
    """A safetensors file with a tensor of each shape."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", MARK: "true"}}
    data = b""
    for name, shape in shapes.items():
        held = numbers(name, shape)
        span = [len(data), len(data) + len(held)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": span}
        data += held
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # loaders map the tensors, which begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data


def _shapes() -> Shapes:
    square, layer = (WIDTH, WIDTH), "model.layers.0."
    return {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        f"{layer}input_layernorm.weight": (WIDTH,),
        **{f"{layer}self_attn.{part}_proj.weight": square for part in "qkvo"},
        f"{layer}post_attention_layernorm.weight": (WIDTH,),
        **{f"{layer}mlp.{part}_proj.weight": square for part in ("gate", "up", "down")},
        "model.norm.weight": (WIDTH,),
    }


def _byte_symbols() -> Iterator[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it can be seen."""
    hidden = 256
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE:
            yield chr(byte)
        else:
            yield chr(hidden)
            hidden += 1


def _token_id(token: str) -> int:
    return _SPECIAL.index(token)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
