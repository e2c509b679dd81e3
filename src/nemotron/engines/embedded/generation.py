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
    stop_token_ids: Sequence[int] | None = None,
) -> list[str]:
    """Continuations of `texts`, special tokens removed; greedy at temperature 0.

    `max_new_tokens` is cut to what the model's positions leave; a text that leaves none is continued by
    nothing. `top_k` below 1 is no limit. `stop_token_ids` take the place of the model's own. The tokenizer
    must pad on the left.
    """
    positions = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
    fits = [len(tokenizer(t, add_special_tokens=False)["input_ids"]) < positions for t in texts]
    kept = [t for t, fit in zip(texts, fits, strict=True) if fit]
    if not kept:
        return ["" for _ in texts]
    batch = tokenizer(kept, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    room = positions - batch["input_ids"].shape[1]
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        top_k = max(0, top_k or 0)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    if stop_token_ids:
        sampling["eos_token_id"] = list(stop_token_ids)
    with torch.inference_mode():
        out = model.generate(
            **batch,
            max_new_tokens=min(max_new_tokens, room),
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
            disable_compile=True,
            **sampling,
        )
    made = iter(tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))
    return [str(next(made)) if fit else "" for fit in fits]
