"""Makes a small model from nothing: `step.py --config CONFIG`, written to the config's `output`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nemotron.artifacts.failure_word import failed
from nemotron.engines.embedded.rows import chat_rows
from nemotron.engines.genrm import verdict_text
from nemotron.errors import NemotronError

ROLES = ("system", "user", "assistant", "tool", "principle", "response_1", "response_2")
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Any role is let through, a judge's response_1 and response_2 too; the markers say what is trained on.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def main() -> None:
    """Train the tokenizer, initialize the model, write both whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    config: dict[str, Any] = yaml.safe_load(parser.parse_args().config.read_text(encoding="utf-8"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import transformers

    transformers.logging.disable_progress_bar()
    tokenizer = train_tokenizer(corpus_texts(Path(config["corpus"])), config)
    model = initialize_model(tokenizer, config)
    target = Path(config["output"])
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in {target}")


def corpus_texts(path: Path) -> Iterator[str]:
    """What the tokenizer learns from: every message, the role names, and a judge's verdicts."""
    for messages, _ in chat_rows({"data": {"train": {"data_path": str(path)}}}, "train"):
        for message in messages:
            if isinstance(message.get("content"), str):
                yield message["content"]
    for role in ROLES:
        yield f"{role}\n" * 50
    for first in range(1, 6):
        for second in range(1, 6):
            yield from [verdict_text(first, second)] * 40


def train_tokenizer(texts: Iterator[str], config: dict[str, Any]) -> Any:
    """Byte-level BPE with a ChatML-like template; pad and end of turn are different tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=int(config["tokenizer"]["vocab_size"]),
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        model_max_length=int(config["model"]["max_position_embeddings"]),
        chat_template=CHAT_TEMPLATE,
    )


def initialize_model(tokenizer: Any, config: dict[str, Any]) -> Any:
    """A Qwen3 model of the config's shape with random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(int(config["seed"]))
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **config["model"],
    )
    return Qwen3ForCausalLM(shape)


if __name__ == "__main__":
    try:
        main()
    except NemotronError as problem:
        sys.exit(failed(problem))
