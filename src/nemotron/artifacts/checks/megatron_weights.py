"""The tensors of one distributed checkpoint: whether all of them are whole, and what they are."""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .distributed import METADATA, Metadata, StoredTensor, read_metadata, tiles
from .files import unreadable
from .report import Problem, Report, clipped, shown
from .weights import is_plain_name

_OPTIMIZER = re.compile(r"(?:chained_\d+\.)?optimizer\b")
_NUMBERED = re.compile(r"(?:^|\.)layers\.(\d{1,6})\.")
_STACKED = re.compile(r"(?:^|\.)layers\.[a-z]")
_EMBEDDING = "embedding.word_embeddings.weight"


def check_distributed(
    directory: Path, names: frozenset[str], report: Report, *, below: str = ""
) -> dict[str, Any]:
    """Check the `*.distcp` files of `directory` against its `.metadata`.

    Facts: shards, weight_bytes; and where the metadata can be read: parameters, tensors, dtypes, layers,
    padded_vocab_size, tensors_digest (SHA-256 over key, dtype and shape of each, optimizer state left out),
    optimizer_tensors, has_optimizer, objects. below: where `directory` lies below the place of the report.
    """
    shards = sorted(name for name in names if name.endswith(".distcp"))
    if not shards:
        what = "no *.distcp files beside the metadata"
        report.add(Problem("checkpoint.no_weights", what), file=below.rstrip("/") or None)
    sizes = {name: _size(directory / name, below + name, report) for name in shards}
    facts: dict[str, Any] = {
        "shards": len(shards),
        "weight_bytes": sum(size for size in sizes.values() if size is not None),
    }
    if METADATA not in names:
        return facts
    metadata = read_metadata(directory / METADATA)
    if isinstance(metadata, Problem):
        report.add(metadata, file=below + METADATA)
        return facts
    _check_files(metadata, sizes, below, report)
    _check_chunks(metadata, below + METADATA, report)
    return facts | _facts(metadata)


def _size(path: Path, place: str, report: Report) -> int | None:
    try:
        status = path.stat()
    except OSError as exc:
        report.add(unreadable(exc), file=place)
        return None
    if not stat.S_ISREG(status.st_mode):
        report.add(Problem("artifact.not_a_file", "not a regular file"), file=place)
        return None
    return status.st_size


def _check_files(metadata: Metadata, sizes: Mapping[str, int | None], below: str, report: Report) -> None:
    """Every file that the metadata name is here, and as long as they need it."""
    ends: dict[str, int] = {}
    for piece in metadata.pieces:
        ends[piece.file] = max(ends.get(piece.file, 0), piece.offset + piece.length)
    for name, end in sorted(ends.items()):
        if not is_plain_name(name):
            what = f"weights are placed in {shown(name)}, which is no file name of this directory"
            report.add(Problem("checkpoint.foreign_shard", what), file=below + METADATA)
            continue
        size = sizes.get(name)
        if name not in sizes:
            what = "a file that holds weights is missing"
            report.add(Problem("artifact.missing_file", what, fix="copy it too"), file=below + clipped(name))
        elif size is not None and size < end:
            what = f"cut short: {size} bytes, the metadata need {end}"
            fix = "copy or save the file again"
            report.add(Problem("checkpoint.broken_weights", what, fix=fix), file=below + name)


def _check_chunks(metadata: Metadata, place: str, report: Report) -> None:
    """Every tensor is covered by its chunks, and every chunk and object has its bytes somewhere."""
    stored = {(piece.key, piece.place): piece for piece in metadata.pieces}
    for key, tensor in metadata.tensors.items():
        if not tiles(tensor.shape, tensor.chunks):
            what = f"the {len(tensor.chunks)} chunks of {shown(key)} do not make up its shape"
            report.add(Problem("checkpoint.chunks", f"{what} {list(tensor.shape[:8])}"), file=place)
        absent = short = 0
        for offsets, lengths in tensor.chunks:
            piece = stored.get((key, offsets))
            absent += piece is None
            if piece is not None and not piece.transformed:
                short += piece.length < math.prod(lengths) * tensor.item_bytes
        if absent or short:
            what = f"{absent or short} chunks of {shown(key)} have " + ("no" if absent else "too short a")
            report.add(Problem("checkpoint.chunks", f"{what} place in any file"), file=place)
    held = {piece.key for piece in metadata.pieces}
    for key in sorted(metadata.objects - held):
        report.add(Problem("checkpoint.chunks", f"{shown(key)} has no place in any file"), file=place)


def _facts(metadata: Metadata) -> dict[str, Any]:
    model = {key: t for key, t in metadata.tensors.items() if not _OPTIMIZER.match(key)}
    optimizer = [key for key in (*metadata.tensors, *metadata.objects) if _OPTIMIZER.match(key)]
    dtypes: Counter[str] = Counter()
    hasher = hashlib.sha256()
    for key in sorted(model):
        tensor = model[key]
        dtypes[tensor.dtype] += tensor.elements
        line = json.dumps([key, tensor.dtype, tensor.shape], separators=(",", ":"))
        hasher.update(f"{line}\n".encode("ascii"))
    facts: dict[str, Any] = {
        "parameters": dtypes.total(),
        "tensors": len(model),
        "dtypes": dict(sorted(dtypes.items())),
        "layers": _layers(model.items()),
        "tensors_digest": f"sha256:{hasher.hexdigest()}",
        "has_optimizer": bool(optimizer),
        "optimizer_tensors": len(metadata.tensors) - len(model),
        "objects": len(metadata.objects),
    }
    embedding = next((t for key, t in model.items() if key.endswith(_EMBEDDING)), None)
    if embedding is not None and embedding.shape:
        facts["padded_vocab_size"] = embedding.shape[0]
    return facts


def _layers(tensors: Iterable[tuple[str, StoredTensor]]) -> int | None:
    """How many layers there are: the first dimension of stacked tensors, or the highest number in a key."""
    found = 0
    for key, tensor in tensors:
        numbered = _NUMBERED.search(key)
        if numbered:
            found = max(found, int(numbered[1]) + 1)
        elif _STACKED.search(key) and tensor.shape:
            found = max(found, tensor.shape[0])
    return found or None
