"""Learning from preferences: Bradley-Terry reward models and DPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from nemotron.engines.embedded import rows
from nemotron.engines.embedded.batches import supervised_batches
from nemotron.engines.embedded.models import load_causal, load_classifier, load_tokenizer
from nemotron.engines.embedded.reading import data_path, lookup
from nemotron.engines.embedded.training import ConfiguredOptimizer, Run, RunCallback, arguments, train
from nemotron.errors import CheckFailed


class _RewardTrainer(ConfiguredOptimizer, RewardTrainer):
    """RewardTrainer with the config's optimizer."""


class _DPOTrainer(ConfiguredOptimizer, DPOTrainer):
    """DPOTrainer with the config's optimizer."""


def run_bradley_terry(run: Run) -> None:
    """Train a classifier whose score difference is the log-odds of a preference (Bradley and Terry, 1952)."""
    config = run.config
    tokenizer = load_tokenizer(config)
    train_rows = _pairs(run, tokenizer, "train")
    val_rows = _pairs(run, tokenizer, "validation") if data_path(config, "validation") else None
    batches = supervised_batches(config, "rm", len(train_rows))
    name = str(lookup(config, "policy.model_name"))
    # The head is drawn while the model is loaded; two runs of a recipe must draw the same.
    torch.manual_seed(run.seed)
    model = load_classifier(config, name, "policy.model_name", tokenizer.pad_token_id)
    settings = _settings(run, batches, "rm", val_rows)
    trainer = _RewardTrainer(
        model=model,
        args=RewardConfig(**settings, max_length=int(lookup(config, "policy.max_total_sequence_length"))),
        train_dataset=train_rows,
        eval_dataset=val_rows,
        processing_class=tokenizer,
        callbacks=[RunCallback(run, batches)],
    )
    trainer.run, trainer.batches = run, batches
    train(run, trainer, batches)


def run_dpo(run: Run) -> None:
    """Direct preference optimization (Rafailov et al., 2023).

    The reference is `embedded.reference_model`, or the model the run starts from.
    """
    config = run.config
    tokenizer = load_tokenizer(config)
    train_rows = _pairs(run, tokenizer, "train")
    val_rows = _pairs(run, tokenizer, "validation") if data_path(config, "validation") else None
    batches = supervised_batches(config, "dpo", len(train_rows))
    model = load_causal(config, str(lookup(config, "policy.model_name")), "policy.model_name")
    reference = lookup(config, "embedded.reference_model")
    sft_weight = float(lookup(config, "dpo.sft_loss_weight", 0.0))
    weights = {"sigmoid": float(lookup(config, "dpo.preference_loss_weight", 1.0)), "sft": sft_weight}
    losses = {name: weight for name, weight in weights.items() if weight}
    trainer = _DPOTrainer(
        model=model,
        ref_model=load_causal(config, str(reference), "embedded.reference_model") if reference else None,
        args=DPOConfig(
            **_settings(run, batches, "dpo", val_rows),
            beta=float(lookup(config, "dpo.reference_policy_kl_penalty", 0.1)),
            loss_type=list(losses),
            loss_weights=list(losses.values()),
            max_length=int(lookup(config, "policy.max_total_sequence_length")),
        ),
        train_dataset=train_rows,
        eval_dataset=val_rows,
        processing_class=tokenizer,
        callbacks=[RunCallback(run, batches)],
    )
    trainer.run, trainer.batches = run, batches
    trainer.model.config.use_cache = True
    train(run, trainer, batches)


def _pairs(run: Run, tokenizer: PreTrainedTokenizerBase, split: str) -> Dataset:
    found = rows.preference_rows(run.config, split)
    if split == "validation":
        section = "dpo" if "dpo" in run.config else "rm"
        batches = int(lookup(run.config, f"{section}.val_batches", -1))
        size = int(lookup(run.config, f"{section}.val_global_batch_size", 32))
        found = found[: batches * size] if batches > 0 else found
    limit = int(lookup(run.config, "policy.max_total_sequence_length"))
    return Dataset.from_list(
        [{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in fitting_pairs(tokenizer, found, limit)]
    )


def fitting_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[dict[str, Any]], limit: int
) -> list[dict[str, Any]]:
    """The pairs both of whose answers fit into `limit` tokens with the prompt; the rest is counted.

    trl would cut such answers, or leave the pairs out without a word. Raises CheckFailed when none is left.
    """

    def fits(messages: list[rows.Message]) -> bool:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        # No token is shorter than a byte: most texts need not be tokenized to know.
        if len(text.encode()) <= limit:
            return True
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= limit

    kept = [p for p in pairs if all(fits([*p["prompt"], *p[name]]) for name in ("chosen", "rejected"))]
    if len(kept) < len(pairs):
        out = len(pairs) - len(kept)
        print(f"left out: {out} of {len(pairs)} pairs are longer than {limit} tokens", flush=True)
    if not kept:
        raise CheckFailed(
            f"no pair fits into {limit} tokens",
            where="policy.max_total_sequence_length",
            next="raise policy.max_total_sequence_length",
        )
    return kept


def _settings(run: Run, batches: Any, section: str, val_rows: Dataset | None) -> dict[str, Any]:
    settings = arguments(run, batches, section)
    if val_rows is None:
        settings["eval_strategy"] = "no"
    settings["per_device_eval_batch_size"] = int(lookup(run.config, f"{section}.val_micro_batch_size", 32))
    return settings
