"""Supervised fine-tuning: chats, and the verdicts that make a generative judge."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from nemotron.engines.embedded import rows
from nemotron.engines.embedded.batches import BatchPlan, supervised_batches
from nemotron.engines.embedded.models import load_causal, load_tokenizer
from nemotron.engines.embedded.reading import data_path, lookup
from nemotron.engines.embedded.training import ConfiguredOptimizer, Run, RunCallback, arguments, train
from nemotron.engines.genrm import judge_messages, verdict_text
from nemotron.errors import CheckFailed

Conversation = tuple[list[rows.Message], list[Any] | None]

# What a judge is taught to say when a preference carries ranks but no scores.
CHOSEN_SCORE, REJECTED_SCORE = 5, 1
TIE_SHARE = 0.2
# The label that torch's cross entropy leaves out.
IGNORED = -100


class _Trainer(ConfiguredOptimizer, SFTTrainer):
    """SFTTrainer with the config's optimizer."""


def run_sft(run: Run) -> None:
    """Train on the conversations of `data.train`; the loss falls on the assistant's tokens."""
    _fit(run, "sft", rows.chat_rows(run.config, "train"), _validation(run, "sft"))


def run_judge(run: Run) -> None:
    """Train a generative judge: it reads two answers and writes the verdict the preference implies.

    Each pair is shown once, in an order drawn from the seed, so that the judge learns no position.
    """
    held_out = data_path(run.config, "validation")
    validation = _verdicts(rows.preference_rows(run.config, "validation"), run.seed + 1) if held_out else []
    _fit(run, "rm", _verdicts(rows.preference_rows(run.config, "train"), run.seed), validation)


def _validation(run: Run, section: str) -> list[Conversation]:
    return rows.chat_rows(run.config, "validation") if data_path(run.config, "validation") else []


def _verdicts(pairs: Sequence[dict[str, Any]], seed: int) -> list[Conversation]:
    """One chat a pair: both answers in an order drawn from `seed`, then the verdict.

    Preferences hold no ties, but a judge meets two equally good answers all the time: one row in five
    shows two answers to one prompt that were given the same score (an answer beside itself, if need be).
    """
    rng = random.Random(seed)
    equals: dict[tuple[str, int], list[str]] = {}
    scored = []
    for pair in pairs:
        scores = pair.get("scores", (CHOSEN_SCORE, REJECTED_SCORE))
        texts = (pair["chosen"][-1]["content"], pair["rejected"][-1]["content"])
        scored.append((pair["prompt"], tuple(zip(texts, scores, strict=True))))
        for text, score in scored[-1][1]:
            equals.setdefault((pair["prompt"][-1]["content"], score), []).append(text)
    found: list[Conversation] = []
    for prompt, answers in scored:
        if rng.random() < TIE_SHARE:
            text, score = rng.choice(answers)
            answers = ((text, score), (rng.choice(equals[prompt[-1]["content"], score]), score))
        (first, score_1), (second, score_2) = rng.sample(answers, 2)
        chat = judge_messages(prompt, first, second)
        found.append(([*chat, {"role": "assistant", "content": verdict_text(score_1, score_2)}], None))
    return found


def _fit(run: Run, section: str, train_rows: list[Conversation], val_rows: list[Conversation]) -> None:
    config = run.config
    tokenizer = load_tokenizer(config)
    limit = int(lookup(config, "policy.max_total_sequence_length"))
    encoded = encode(tokenizer, train_rows, limit)
    batches = supervised_batches(config, section, len(encoded))
    model = load_causal(config, str(lookup(config, "policy.model_name")), "policy.model_name")
    held_out = _sampled(encode(tokenizer, val_rows, limit), config, section) if val_rows else None
    settings = arguments(run, batches, section)
    if held_out is None:
        settings["eval_strategy"] = "no"
    trainer = _Trainer(
        model=model,
        args=SFTConfig(
            **settings,
            max_length=limit,
            packing=False,
            per_device_eval_batch_size=int(lookup(config, f"{section}.val_micro_batch_size", 32)),
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=encoded,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[RunCallback(run, batches)],
    )
    _start(run, trainer, batches)


def _start(run: Run, trainer: Any, batches: BatchPlan) -> None:
    trainer.run, trainer.batches = run, batches
    trainer.model.config.use_cache = True
    train(run, trainer, batches)


def encode(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], limit: int) -> Dataset:
    """Token ids, and labels that count the assistant's tokens alone.

    Left out and counted: conversations longer than `limit`, and those in which the assistant says nothing.
    Raises CheckFailed when nothing is left, or when the chat template cannot render a conversation.
    """
    kept: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    template = str(tokenizer.chat_template)
    masked = _by_markers if re.search(r"{%-? *generation", template) else _by_prefixes
    too_long = silent = 0
    for number, (messages, tools) in enumerate(conversations, 1):
        try:
            ids, mask = masked(tokenizer, messages, tools)
        except (TemplateError, TypeError) as problem:
            raise CheckFailed(
                f"the chat template cannot render conversation {number}: {problem}",
                where="policy.tokenizer.chat_template",
            ) from problem
        if len(ids) > limit:
            too_long += 1
        elif not any(mask):
            silent += 1
        else:
            kept["input_ids"].append(ids)
            kept["labels"].append([i if counts else IGNORED for i, counts in zip(ids, mask, strict=True)])
    total = len(conversations)
    if too_long:
        print(f"left out: {too_long} of {total} rows are longer than {limit} tokens", flush=True)
    if silent:
        print(f"left out: {silent} of {total} rows hold no word of the assistant", flush=True)
    if not kept["input_ids"]:
        raise CheckFailed(
            f"no row is left: of {total}, {too_long} are longer than {limit} tokens, "
            f"{silent} hold no word of the assistant",
            where="policy.max_total_sequence_length" if too_long else None,
        )
    return Dataset.from_dict(kept)


def _by_markers(
    tokenizer: PreTrainedTokenizerBase, messages: list[rows.Message], tools: list[Any] | None
) -> tuple[list[int], list[int]]:
    made = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return list(made["input_ids"]), list(made["assistant_masks"])


def _by_prefixes(
    tokenizer: PreTrainedTokenizerBase, messages: list[rows.Message], tools: list[Any] | None
) -> tuple[list[int], list[int]]:
    """For templates without generation markers: what each assistant turn adds to the text before it, up to
    the end of the turn.

    Raises CheckFailed where the template renders a turn in another way once others follow.
    """

    def ids_of(upto: int, prompt: bool) -> list[int]:
        made = tokenizer.apply_chat_template(
            messages[:upto], tools=tools, tokenize=True, return_dict=True, add_generation_prompt=prompt
        )
        return list(made["input_ids"])

    whole = ids_of(len(messages), False)
    mask = [0] * len(whole)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        through = ids_of(index + 1, False)
        # The last token may have grown together with what follows.
        if through[:-1] != whole[: len(through) - 1]:
            raise CheckFailed(
                "the chat template renders answers in another way once other turns follow, so they cannot be "
                "told from the rest",
                where="policy.tokenizer.chat_template",
                next="give a template that marks them with {% generation %}",
            )
        prompt = ids_of(index, True) if index else []
        start = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
        end = min(len(through), len(whole))
        if tokenizer.eos_token_id in whole[start:end]:
            while whole[end - 1] != tokenizer.eos_token_id:
                end -= 1
        mask[start:end] = [1] * (end - start)
    return whole, mask


def _sampled(held_out: Dataset, config: dict[str, Any], section: str) -> Dataset:
    """The first `val_batches` batches of the validation rows; all where the config sets no limit."""
    batches = int(lookup(config, f"{section}.val_batches", -1))
    size = int(lookup(config, f"{section}.val_global_batch_size", 32))
    return held_out.select(range(min(len(held_out), batches * size))) if batches > 0 else held_out
