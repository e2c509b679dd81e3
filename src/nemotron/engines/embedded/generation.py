"""Batched generation from texts that already went through a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    top_k: int | None = None,
) -> list[str]:
    """Continuations of `texts`, special tokens removed; greedy at temperature 0.

    `max_new_tokens` is cut to what the model's positions leave. The tokenizer must pad on the left.
    """
    if not texts:
        return []
    batch = tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=False).to(
        model.device
    )
    room = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30) - batch["input_ids"].shape[1]
    if room < 1:
        return ["" for _ in texts]
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k or 0}
    with torch.inference_mode():
        out = model.generate(
            **batch,
            max_new_tokens=min(max_new_tokens, room),
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
            disable_compile=True,
            **sampling,
        )
    made: list[str] = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return made
