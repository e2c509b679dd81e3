"""Writes the tiny chat world: `step.py --config CONFIG`, files relative to the working directory."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from nemotron.artifacts.atomic import os_error, write_text
from nemotron.artifacts.failure_word import failed
from nemotron.data import tiny_chat
from nemotron.errors import NemotronError


def main() -> None:
    """Write every output the config names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    config: dict[str, Any] = yaml.safe_load(parser.parse_args().config.read_text(encoding="utf-8"))
    seed, places = int(config["seed"]), config["output"]
    pairs, held_out_pairs = int(config["preference_rows"]), int(config["held_out_preference_rows"])
    tables: dict[str, Iterable[dict[str, object]]] = {
        "chat": tiny_chat.chat_rows(int(config["chat_rows"]), seed),
        "chat_held_out": tiny_chat.held_out_chat_rows(seed + 1),
        "preferences": tiny_chat.preference_rows(pairs, seed + 2),
        "preferences_held_out": tiny_chat.preference_rows(held_out_pairs, seed + 3, held_out=True),
        "prompts": tiny_chat.prompt_rows(held_out=False),
        "prompts_held_out": tiny_chat.prompt_rows(held_out=True),
    }
    for name, rows in tables.items():
        path = Path(places[name])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise os_error(problem, path.parent) from problem
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(path, text)
        print(f"{name}: {text.count(chr(10))} rows in {path}")


if __name__ == "__main__":
    try:
        main()
    except NemotronError as problem:
        sys.exit(failed(problem))
