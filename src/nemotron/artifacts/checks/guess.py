"""Which artifact type a location seems to hold."""

from __future__ import annotations

from pathlib import Path

from .bounds import too_costly
from .files import JsonReader, not_text, open_regular, read_json_object, read_lines
from .megatron import layout_of
from .model import ADAPTER_CONFIG, CONFIG, looks_like_reward_model
from .parquet import SUFFIX, looks_packed, shard_names
from .parquet_footer import MAGIC
from .report import Problem
from .rows import Row

_HEAD = 4096
_LINES = 20
_LINE_LIMIT = 8 << 20
_JSON_LIMIT = 32 << 20


def guess_type(path: Path) -> str | None:
    """The type that the names in a directory, or the first row of a file, speak for; None when nothing does.

    It never raises and reads little: a guess is no check.
    """
    try:
        names = frozenset(entry.name for entry in path.iterdir())
    except NotADirectoryError:
        return _file(path)
    except OSError:
        return None
    if ADAPTER_CONFIG in names:
        return "checkpoint_lora"
    if CONFIG in names:
        return "reward_model_hf" if looks_like_reward_model(path) else "checkpoint_hf"
    if layout_of(names):
        return "checkpoint_megatron"
    shards = shard_names(names)
    return "packed_parquet" if shards and looks_packed(path / shards[0]) else None


def _file(path: Path) -> str | None:
    if path.suffix == ".json":
        return None if isinstance(read_json_object(path, limit=_JSON_LIMIT), Problem) else "eval_results"
    if path.suffix == SUFFIX or _begins_with(path, MAGIC):
        return "packed_parquet" if looks_packed(path) else None
    row = _first_row(path)
    if row is None:
        return None
    if "chosen" in row or "completions" in row:
        return "preference_jsonl"
    if "reward" in row and ("response" in row or "responses_create_params" in row):
        return "rollout_jsonl"
    if "responses_create_params" in row:
        return "prompt_jsonl"
    if "messages" in row:
        messages = row["messages"]
        final = messages[-1] if isinstance(messages, list) and messages else None
        asks = isinstance(final, dict) and final.get("role") == "user"
        return "prompt_jsonl" if asks else "training_jsonl"
    if "input" in row and "output" in row:
        return "training_jsonl"
    return "prompt_jsonl" if "prompt" in row or "input" in row else None


def _begins_with(path: Path, magic: bytes) -> bool:
    file = open_regular(path)
    if isinstance(file, Problem):
        return False
    with file:
        try:
            return file.peek(len(magic)).startswith(magic)
        except OSError:
            return False


def _first_row(path: Path) -> Row | None:
    """The first of the first lines of a file that is a JSON object."""
    file = open_regular(path)
    if isinstance(file, Problem):
        return None
    reader = JsonReader()
    with file:
        try:
            if not_text(file.peek(_HEAD)):
                return None
            for number, (line, _) in enumerate(read_lines(file, _LINE_LIMIT)):
                if number == _LINES:
                    return None
                if line is None or too_costly(line):
                    continue
                row = reader.parse(line.decode("utf-8-sig", "replace"))
                if isinstance(row, dict):
                    return row
        except OSError:
            return None
    return None
