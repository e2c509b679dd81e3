"""Models in a temporary directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import Made, Tensors, config_of, random_tensors, shapes_of


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Made]:
    """`make_model("qwen3", tied=True)`: a model with tokenizer and generation config."""

    def make(
        family: str = "llama",
        name: str = "model",
        *,
        tied: bool = False,
        dtype: str = "BF16",
        seed: int = 0,
        config: dict[str, Any] | None = None,
        change: Callable[[Tensors], None] | None = None,
    ) -> Made:
        made = Made(tmp_path / name)
        tensors = random_tensors(shapes_of(family, tied=tied), dtype, seed)
        if change is not None:
            change(tensors)
        made.save(tensors, config_of(family, tied=tied, **(config or {})))
        tokenizer = {
            "version": "1.0",
            "added_tokens": [],
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        }
        (made.path / "tokenizer.json").write_text(json.dumps(tokenizer))
        (made.path / "tokenizer_config.json").write_text('{"eos_token": "a"}')
        (made.path / "chat_template.jinja").write_text("{{ messages[0].content }}")
        (made.path / "generation_config.json").write_text('{"temperature": 0.6}')
        return made

    return make
