"""The weight files of a Hugging Face directory: which there are, whether they are whole and agree."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import read_json_object
from .report import Problem, Report, kind, shown
from .safetensors import Header, read_header

_INDEX_LIMIT = 32 << 20
_MAX_TENSORS = 500_000
_DTYPES = 32
_MISSING = ("artifact.missing_file", "no such file")
_NUMBERED = re.compile(r".+-\d+-of-(\d+)\.safetensors")
_UNLOADED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")


@dataclass(frozen=True)
class WeightNames:
    """What the weights of one kind of directory are called."""

    single: str
    index: str
    old: tuple[str, ...]


MODEL = WeightNames(
    "model.safetensors",
    "model.safetensors.index.json",
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"),
)
ADAPTER = WeightNames(
    "adapter_model.safetensors", "adapter_model.safetensors.index.json", ("adapter_model.bin",)
)


def check_weights(
    directory: Path, names: frozenset[str], kind_of: WeightNames, report: Report
) -> dict[str, Any]:
    """Check the weight files among `names`.

    Facts: parameters, dtypes (parameters by dtype), shards, tensors, weight_bytes; none without weights.
    """
    if kind_of.index in names:
        expected = _indexed(directory, kind_of.index, report)
    else:
        expected = dict.fromkeys(_unindexed(names, kind_of, report))
    totals = _Totals()
    for shard in sorted(expected):
        header = read_header(directory / shard) if shard in names else Problem(*_MISSING)
        if isinstance(header, Problem):
            report.add(header, file=shard)
            continue
        _compare(shard, header, expected.pop(shard), kind_of.index, report)
        if totals.tensors + len(header.tensors) > _MAX_TENSORS:
            what = f"more than {_MAX_TENSORS:,} tensors, the rest not read"
            report.add(Problem("checkpoint.too_many_tensors", what), file=shard)
            break
        totals.add(header)
    totals.report(report)
    return totals.facts() if totals.shards else {}


class _Totals:
    """What is known of all weight files together; headers are not kept, a large model has many."""

    def __init__(self) -> None:
        self._names: set[int] = set()
        self._dtypes: Counter[str] = Counter()
        self._twice: list[str] = []
        self.shards = self.tensors = self._bytes = 0

    def add(self, header: Header) -> None:
        self.shards += 1
        self.tensors += len(header.tensors)
        self._bytes += header.bytes
        for name, tensor in header.tensors.items():
            self._dtypes[tensor.dtype] += tensor.elements
            if hash(name) in self._names:
                self._twice.append(shown(name))
            self._names.add(hash(name))

    def report(self, report: Report) -> None:
        if self._twice:
            what = f"{len(self._twice)} tensors are in several files, {min(self._twice)} among them"
            report.add(Problem("checkpoint.tensor_twice", what))
        if self.shards and not self.tensors:
            report.add(Problem("checkpoint.no_weights", "weight files without a tensor"))

    def facts(self) -> dict[str, Any]:
        return {
            "parameters": self._dtypes.total(),
            "dtypes": dict(sorted(self._dtypes.most_common(_DTYPES))),
            "shards": self.shards,
            "tensors": self.tensors,
            "weight_bytes": self._bytes,
        }


def _indexed(directory: Path, index: str, report: Report) -> dict[str, set[str] | None]:
    """Shard name to the tensors that the index places there."""
    found = read_json_object(directory / index, limit=_INDEX_LIMIT)
    if isinstance(found, Problem):
        report.add(found, file=index)
        return {}
    weight_map = found.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        report.add(Problem("checkpoint.broken_index", "weight_map is missing or empty"), file=index)
        return {}
    shards: dict[str, set[str] | None] = {}
    for tensor, shard in weight_map.items():
        if not is_plain_name(shard):
            what = f"{shown(tensor)} is placed in {shown(shard)}, which is no file name of this directory"
            report.add(Problem("checkpoint.foreign_shard", what), file=index)
            continue
        placed = shards.setdefault(shard, set())
        assert placed is not None
        placed.add(tensor)
    return shards


def is_plain_name(shard: object) -> bool:
    """Whether it is the name of a file in a directory, and not a path to anywhere else."""
    if not isinstance(shard, str) or not shard or shard in (".", ".."):
        return False
    return shard.isprintable() and "/" not in shard and "\\" not in shard


def _unindexed(names: frozenset[str], kind_of: WeightNames, report: Report) -> tuple[str, ...]:
    if kind_of.single in names:
        return (kind_of.single,)
    found = tuple(
        sorted(name for name in names if name.endswith(".safetensors") and not name.startswith("."))
    )
    if kind_of is ADAPTER:
        found = ()
    numbered = [name for name in found if _NUMBERED.fullmatch(name)]
    if numbered:
        what = f"{len(numbered)} numbered weight files without {kind_of.index}"
        report.add(
            Problem("checkpoint.no_index", what, fix="copy the index file too, or save the model again")
        )
    if not found:
        report.add(_no_weights(names, kind_of))
    return found


def _no_weights(names: frozenset[str], kind_of: WeightNames) -> Problem:
    old = [name for name in kind_of.old if name in names]
    old += sorted(name for name in names if name.endswith(_UNLOADED) and name not in old)
    if old:
        what = f"{old[0]} is not safetensors and is not loaded: opening it could run code"
        fix = "save the model with safe_serialization=True"
        return Problem("checkpoint.not_safetensors", what, valid=kind_of.single, fix=fix)
    what = "a model directory without weights"
    return Problem("checkpoint.no_weights", what, valid=f"{kind_of.single}, or shards with {kind_of.index}")


def _compare(shard: str, header: Header, expected: set[str] | None, index: str, report: Report) -> None:
    if expected is None:
        return
    absent, surplus = expected - header.tensors.keys(), header.tensors.keys() - expected
    if absent:
        what = f"{len(absent)} tensors that {index} places here are not here, {shown(min(absent))} among them"
        report.add(Problem("checkpoint.index_disagrees", what), file=shard)
    if surplus:
        what = f"{len(surplus)} tensors here are not in {index}, {shown(min(surplus))} among them"
        report.add(Problem("checkpoint.index_disagrees", what), file=shard)


def expect(value: Any, wanted: type, where: str, report: Report, file: str) -> Any:
    """`value` if it is of the type `wanted`, a whole number of 64 bits; else None, reported unless null."""
    if isinstance(value, wanted) and (wanted is not int or (type(value) is int and abs(value) < 1 << 63)):
        return value
    if value is not None:
        words = {str: "a string", list: "a list", int: "a whole number", dict: "an object"}[wanted]
        report.add(Problem("data.wrong_type", f"{where} is {kind(value)}, not {words}"), file=file)
    return None
