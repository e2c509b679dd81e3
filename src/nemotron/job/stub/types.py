"""The smallest valid artifact of each type, as file contents."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, NamedTuple

from nemotron.job.stub.mark import MARK, NOTE, NOTE_FILE
from nemotron.job.stub.megatron import megatron_files
from nemotron.job.stub.model import adapter_files, model_files, tokenizer_facts
from nemotron.job.stub.parquet import Cell, parquet

Content = bytes | Mapping[str, bytes]
"""A file, or a directory as relative path to file."""

_QUESTION, _ANSWER, _WORSE = "What is this?", "A stub.", "A model."
_USER = {"role": "user", "content": _QUESTION}
_ASSISTANT = {"role": "assistant", "content": _ANSWER}
_REQUEST = {"input": [_USER]}
_PACK = 8


class Wanted(NamedTuple):
    """An artifact to be made. path: where it is going to lie. base: what an adapter says it adapts."""

    type: str
    path: PurePath
    base: str = MARK


def stub_content(wanted: Wanted) -> Content:
    """The smallest artifact of the type; of a type that is not known here, a note in its place."""
    return _CONTENTS.get(wanted.type, _note)(wanted)


def known_stubs() -> tuple[str, ...]:
    """The types whose stubs are artifacts of the type and not only notes."""
    return tuple(_CONTENTS)


def _rows(*rows: Mapping[str, Any]) -> bytes:
    return "".join(json.dumps({**row, MARK: True}) + "\n" for row in rows).encode()


def _raw(_: Wanted) -> bytes:
    return _rows({"text": NOTE.strip()})


def _chat(_: Wanted) -> bytes:
    return _rows({"messages": [_USER, _ASSISTANT]})


def _prompts(_: Wanted) -> bytes:
    agent = {"type": "responses_api_agents", "name": "genrm_simple_agent"}
    return _rows({"responses_create_params": _REQUEST, "agent_ref": agent})


def _preferences(_: Wanted) -> bytes:
    answers = enumerate((_ANSWER, _WORSE))
    ranked = [{"rank": n, "completion": [{"role": "assistant", "content": text}]} for n, text in answers]
    return _rows({"context": [_USER], "completions": ranked})


def _rollouts(_: Wanted) -> bytes:
    answer = {"type": "message", **_ASSISTANT}
    return _rows({"responses_create_params": _REQUEST, "response": {"output": [answer]}, "reward": 0.0})


def _packed(wanted: Wanted) -> Content:
    told = tokenizer_facts()
    keys = ("tokenizer_digest", "chat_template_digest", "tokenizer_size")
    metadata = {f"nemotron.{key}": str(told[key]) for key in keys}
    columns = {"input_ids": [list(range(3, 3 + _PACK))], "loss_mask": [[*(1,) * (_PACK - 1), 0]]}
    return _parquet(wanted, columns, metadata | {"nemotron.pack_size": str(_PACK)})


def _benchmark(wanted: Wanted) -> Content:
    return _parquet(wanted, {"question": [_QUESTION], "answer": [_ANSWER]})


def _choices(wanted: Wanted) -> Content:
    columns: dict[str, list[Any]] = {
        "question": [_QUESTION],
        "choices": [[_ANSWER, _WORSE]],
        "answer": [_ANSWER],
    }
    return _parquet(wanted, columns)


def _parquet(
    wanted: Wanted, columns: Mapping[str, Sequence[Cell]], metadata: Mapping[str, str] | None = None
) -> Content:
    data = parquet(columns, {**(metadata or {}), MARK: "true"})
    if wanted.path.suffix == ".parquet":
        return data
    return {"part-00000.parquet": data, NOTE_FILE: NOTE.encode()}


def _tokens(wanted: Wanted) -> Content:
    """One document of four tokens in Megatron's indexed format, and the blend that names it."""
    tokens = struct.pack("<4i", 1, 2, 3, 4)
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, 1, 2)  # version, int32, sequences, documents + 1
    index += struct.pack("<iqqq", 4, 0, 0, 1)  # lengths, places, where documents begin
    return {
        "stub_text_document.bin": tokens,
        "stub_text_document.idx": index,
        "blend.json": _json({"data_paths": [[1.0, str(wanted.path / "stub_text_document")]]}),
        NOTE_FILE: NOTE.encode(),
    }


def _model(_: Wanted) -> Content:
    return model_files()


def _adapter(wanted: Wanted) -> Content:
    return adapter_files(wanted.base)


def _megatron(_: Wanted) -> Content:
    return megatron_files()


def _results(_: Wanted) -> bytes:
    return _json({"results": {}})


def _profiles(_: Wanted) -> bytes:
    return f'# {NOTE}[stub]\nexecutor = "local"\n'.encode()


def _note(wanted: Wanted) -> Content:
    if wanted.path.suffix == ".json":
        return _json({})
    if wanted.path.suffix == ".jsonl":
        return _rows({})
    return NOTE.encode() if wanted.path.suffix else {NOTE_FILE: NOTE.encode()}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps({**value, MARK: True}, indent=2) + "\n").encode()


_CONTENTS: Mapping[str, Callable[[Wanted], Content]] = MappingProxyType(
    {
        "raw_jsonl": _raw,
        "training_jsonl": _chat,
        "filtered_jsonl": _chat,
        "translated_jsonl": _chat,
        "synthetic_jsonl": _chat,
        "prompt_jsonl": _prompts,
        "preference_jsonl": _preferences,
        "rollout_jsonl": _rollouts,
        "packed_parquet": _packed,
        "binidx": _tokens,
        "checkpoint_hf": _model,
        "reward_model_hf": _model,
        "checkpoint_lora": _adapter,
        "checkpoint_megatron": _megatron,
        "eval_results": _results,
        "env_toml": _profiles,
        "benchmark_source_corpus": _note,
        "benchmark_parquet": _benchmark,
        "mcq_benchmark_parquet": _choices,
        "translated_mcq_benchmark_parquet": _choices,
    }
)
