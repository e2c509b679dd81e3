"""Supervised fine-tuning on packed rows: several conversations in one, none of which sees another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer, Trainer, TrainingArguments

from nemotron.data.packing.bins import best_fit
from nemotron.engines.embedded import rows
from nemotron.engines.embedded.batches import BatchPlan
from nemotron.engines.embedded.models import from_pretrained, load_causal, load_tokenizer
from nemotron.engines.embedded.reading import lookup
from nemotron.engines.embedded.supervised import IGNORED, encode
from nemotron.engines.embedded.training import ConfiguredOptimizer, Run, RunCallback, arguments, train
from nemotron.engines.packed import Pack, read_packs
from nemotron.errors import CheckFailed

_SECTION = "sft"


class _Trainer(ConfiguredOptimizer, Trainer):
    """transformers' Trainer with the config's optimizer."""


class _Rows(Dataset[Pack]):
    """The rows of a whole training in their order: epoch after epoch, each shuffled, up to a count."""

    def __init__(self, packs: Sequence[Pack], count: int, seed: int | None) -> None:
        self._packs = packs
        drawn, order = random.Random(seed), list[int]()
        while len(order) < count:
            epoch = list(range(len(packs)))
            if seed is not None:
                drawn.shuffle(epoch)
            order += epoch
        self._order = order[:count]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Pack:
        return self._packs[self._order[index]]


def run_packed(run: Run) -> None:
    """Train on the packed rows, or the conversations, of a translated Megatron-Bridge config."""
    config = run.config
    size, micro = (int(lookup(config, f"policy.train_{name}_batch_size")) for name in ("global", "micro"))
    steps = int(lookup(config, "sft.max_num_steps"))
    batches = BatchPlan(micro, size // micro, 1, steps)
    name = str(lookup(config, "policy.tokenizer.name"))
    tokenizer = from_pretrained(AutoTokenizer, name, "tokenizer.tokenizer_model")
    seed = int(lookup(config, "data.packing.seed"))
    packs = rows_of(config, "train")
    model = load_causal(config, str(lookup(config, "policy.model_name")), "checkpoint.pretrained_checkpoint")
    _require_vocabulary(packs, int(model.config.vocab_size))
    settings = arguments(run, batches, _SECTION)
    held_out = rows_of(config, "validation") if settings["eval_strategy"] != "no" else []
    trainer = _Trainer(
        model=model,
        args=TrainingArguments(**settings, per_device_eval_batch_size=micro, remove_unused_columns=False),
        train_dataset=_Rows(packs, size * steps, seed),
        eval_dataset=_Rows(held_out, _evaluated(config, len(held_out)), None) if held_out else None,
        processing_class=tokenizer,
        data_collator=lambda some: collate(some, tokenizer.eos_token_id),
        callbacks=[RunCallback(run, batches)],
    )
    trainer.run, trainer.batches = run, batches
    trainer.model.config.use_cache = True
    print(f"{len(packs)} rows, {steps * size} in {steps} steps", flush=True)
    train(run, trainer, batches)


def _evaluated(config: dict[str, Any], rows_there: int) -> int:
    iters, size = int(lookup(config, "sft.val_batches")), int(lookup(config, "sft.val_global_batch_size"))
    return min(rows_there, iters * size) if iters > 0 else rows_there


def rows_of(config: dict[str, Any], split: str) -> list[Pack]:
    """The rows of a split: packed already, or conversations that are packed here.

    Raises CheckFailed for rows that are longer than the model is asked to read.
    """
    limit, path = (
        int(lookup(config, "policy.max_total_sequence_length")),
        lookup(config, f"data.packing.{split}"),
    )
    if path is None:
        return _packed_here(config, split, limit)
    found = list(read_packs(Path(str(path))))
    longest = max(len(pack.ids) for pack in found)
    if longest > limit:
        what = f"a row has {longest} tokens, dataset.seq_length is {limit}"
        raise CheckFailed(what, where=str(path), next=f"pack the data with packing.pack_size={limit}")
    return found


def _packed_here(config: dict[str, Any], split: str, limit: int) -> list[Pack]:
    encoded = encode(load_tokenizer(config), rows.chat_rows(config, split), limit)
    masks = [[int(label != IGNORED) for label in labels] for labels in encoded["labels"]]
    alone = list(zip(encoded["input_ids"], masks, strict=True))
    size = int(lookup(config, "data.packing.size"))
    if size <= 0:
        return [Pack(ids, mask, (0,)) for ids, mask in alone]
    made = []
    for numbers in best_fit([len(ids) for ids, _ in alone], size):
        row, mask, starts = list[int](), list[int](), list[int]()
        for number in numbers:
            starts.append(len(row))
            row += alone[number][0]
            mask += alone[number][1]
        made.append(Pack(row, mask, starts))
    return made


def _require_vocabulary(packs: Sequence[Pack], size: int) -> None:
    largest = max(max(pack.ids) for pack in packs)
    if largest >= size:
        what = f"the rows hold token {largest}, the model has {size}: they are packed for another model"
        raise CheckFailed(what, where="dataset.packed_sequence_specs.packed_train_data_path")


def collate(packs: Sequence[Pack], eos: int | None) -> dict[str, torch.Tensor]:
    """Tensors of some rows: positions begin anew in each sequence, and attention ends at its borders.

    eos: not trained on is what comes after one, as in Megatron-Bridge. Padding attends to itself, so that no
    softmax is over nothing.
    """
    longest = max(len(pack.ids) for pack in packs)
    shape = (len(packs), longest)
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    seen = torch.eye(longest, dtype=torch.bool).repeat(len(packs), 1, 1)
    for number, pack in enumerate(packs):
        row = torch.tensor(pack.ids, dtype=torch.long)
        ids[number, : len(row)] = row
        trained = torch.tensor(pack.mask, dtype=torch.bool)
        for first, last in pack.sequences():
            length = last - first
            positions[number, first:last] = torch.arange(length)
            seen[number, first:last, first:last] = torch.tril(torch.ones(length, length, dtype=torch.bool))
            trained[first] = False  # nothing of this sequence is before it
        if eos is not None:
            trained[1:] &= row[:-1] != eos
        labels[number, : len(row)] = torch.where(trained, row, IGNORED)
    # Numbers to be added, which every implementation of attention takes as they are.
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return {
        "input_ids": ids,
        "position_ids": positions,
        "labels": labels,
        "attention_mask": mask.unsqueeze(1),
    }
