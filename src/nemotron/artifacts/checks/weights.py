"""The weight files of a Hugging Face directory: which there are, whether they are whole and agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import read_json_object
from .report import Problem, Report, kind, shown
from .safetensors import Header, read_header

_INDEX_LIMIT = 64 << 20
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
    headers: dict[str, Header] = {}
    for shard in sorted(expected):
        header = read_header(directory / shard)
        if isinstance(header, Header):
            headers[shard] = header
            _compare(shard, header, expected[shard], kind_of.index, report)
        else:
            report.add(header, file=shard)
    _refuse_twice(headers, report)
    return _facts(headers.values()) if headers else {}


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
        if not _is_plain_name(shard):
            what = f"{shown(tensor)} is placed in {shown(shard)}, which is no file name of this directory"
            report.add(Problem("checkpoint.foreign_shard", what), file=index)
            continue
        placed = shards.setdefault(shard, set())
        assert placed is not None
        placed.add(tensor)
    return shards


def _is_plain_name(shard: object) -> bool:
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


def _refuse_twice(headers: Mapping[str, Header], report: Report) -> None:
    counts = Counter(name for header in headers.values() for name in header.tensors)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        what = f"{len(twice)} tensors are in several files, {shown(min(twice))} among them"
        report.add(Problem("checkpoint.tensor_twice", what))
    if not counts and headers:
        report.add(Problem("checkpoint.no_weights", "weight files without a tensor"))


def _facts(headers: Iterable[Header]) -> dict[str, Any]:
    headers = list(headers)
    dtypes: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors.values():
            dtypes[tensor.dtype] += tensor.elements
    return {
        "parameters": dtypes.total(),
        "dtypes": dict(sorted(dtypes.items())),
        "shards": len(headers),
        "tensors": sum(len(header.tensors) for header in headers),
        "weight_bytes": sum(header.bytes for header in headers),
    }


def directory_names(path: Path, report: Report) -> frozenset[str] | None:
    """The names in a directory; None, with the reason reported, when it is none or cannot be listed."""
    try:
        return frozenset(entry.name for entry in path.iterdir())
    except NotADirectoryError:
        report.add(Problem("artifact.not_a_directory", "a file stands where a directory should be"))
    except OSError as exc:
        what = f"cannot be listed: {(exc.strerror or str(exc)).lower()}"
        report.add(Problem("artifact.unreadable", what))
    return None


def expect(value: Any, wanted: type, where: str, report: Report, file: str) -> Any:
    """`value` if it is of the type `wanted`; else None, reported unless it is null."""
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    if value is not None:
        words = {str: "a string", list: "a list", int: "a whole number", dict: "an object"}[wanted]
        report.add(Problem("data.wrong_type", f"{where} is {kind(value)}, not {words}"), file=file)
    return None
