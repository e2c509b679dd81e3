"""Conversations to packed rows of tokens: `step.py --config CONFIG`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from nemotron.data.packing.identity import tokenizer_identity
from nemotron.data.packing.tokens import ChatTokens
from nemotron.data.packing.write import PackOptions, pack_chats
from nemotron.data.step_config import Config, finish, one_input, run_step
from nemotron.errors import NotFound, UsageError


def main(config: Config) -> None:
    """Write the shards."""
    # Each process has one thread: the processes are what runs side by side.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    place = Path(one_input(config["tokenizer"], ("name",)))
    tokens = ChatTokens(partial(load_tokenizer, str(place)), config["tokenizer"]["chat_template"])
    options = PackOptions.of(config["packing"])
    identity = tokenizer_identity(place, tokens.ready.template)
    output = config["output"]
    report = pack_chats(
        one_input(config, ("data_path",)),
        Path(output["packed"]),
        tokens,
        options,
        identity,
        workers=config["workers"],
    )
    report["tokenizer"] = identity
    finish(report, output["report"])
    made = report["packing"]
    tokens_told = f"{made['tokens']:,} tokens, {made['trained_tokens']:,} trained on"
    filled = f"{100 * made['efficiency']:.1f}% of the rows is filled"
    print(f"{made['sequences']:,} conversations, {tokens_told}, in {made['files']} files: {filled}")


def load_tokenizer(place: str) -> Any:
    """The tokenizer in a model directory. Code that the directory brings along is not run."""
    try:
        from transformers import AutoTokenizer, logging
    except ImportError as exc:
        what = f"packing needs the package transformers: {exc}"
        raise UsageError(what, next="pip install 'nemotron[embedded]'") from exc
    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as exc:
        raise NotFound(f"no tokenizer that can be loaded: {exc}", where=place) from exc


if __name__ == "__main__":
    run_step(main, __doc__)
