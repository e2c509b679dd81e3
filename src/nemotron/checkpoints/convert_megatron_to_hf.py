"""Megatron to Hugging Face: bytes are moved as they are, a few MiB at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import json_text
from nemotron.artifacts.checks.distributed import Metadata, StoredTensor
from nemotron.artifacts.checks.files import read_json_object
from nemotron.artifacts.checks.model import CONFIG
from nemotron.artifacts.checks.report import Problem
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.converted import Converted, Counter, Progress
from nemotron.checkpoints.dcp_read import BUFFER, TensorFiles, model_tensors, read_iteration
from nemotron.checkpoints.families import Model, model_of
from nemotron.checkpoints.hf_files import (
    GENERATION_CONFIG,
    SafetensorsWriter,
    copy_small,
    tokenizer_files,
)
from nemotron.checkpoints.places import HF_CONFIG, iteration_directory, tokenizer_directory
from nemotron.checkpoints.run_configs import hf_config_of
from nemotron.checkpoints.torch_files import DTYPES
from nemotron.checkpoints.weaving import EMBEDDING, HEAD, Weave, require_layers, weaves_of
from nemotron.checkpoints.whole import whole_directory, write_synced
from nemotron.errors import CheckFailed, UsageError

SHARD_BYTES = 5_000_000_000
_LIMIT = 16 << 20
_STACKED = "decoder.layers."
_SHOWN = 5


@dataclass(frozen=True)
class MegatronModel:
    """An iteration whose files are whole, and what it holds in the names of Hugging Face.

    tensors: Megatron's by key, the optimizer's left out. config_from: the directory of its config.json, None
    when `config` was made from the run config.
    """

    iteration: Path
    metadata: Metadata
    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any]
    config_from: Path | None
    model: Model
    weaves: tuple[Weave, ...]

    def hf_tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name to type and shape, layer by layer."""
        stacked = [weave for weave in self.weaves if weave.layers is not None]
        first, last = self.weaves[0], [w for w in self.weaves[1:] if w.layers is None]
        layers = [(weave, layer) for layer in range(self.model.layers) for weave in stacked]
        return {
            name: (self.tensors[self.key_of(weave, layer)].dtype, shape)
            for weave, layer in ((first, 0), *layers, *((weave, 0) for weave in last))
            for name, shape in weave.sources(layer)
        }

    def key_of(self, weave: Weave, layer: int) -> str:
        """Where a layer is: in the stacked tensor, or in one of its own."""
        if weave.layers is None or weave.key in self.tensors:
            return weave.key
        return f"{_STACKED}{layer}.{weave.key.removeprefix(_STACKED)}"

    def pieces(self, files: TensorFiles) -> Iterator[tuple[str, int, memoryview]]:
        """All bytes of the model: Hugging Face name, place in that tensor, bytes; in order for each name.

        The bytes are valid until the next are asked for.
        """
        buffer = memoryview(bytearray(BUFFER))
        for weave in self.weaves:
            reader = None
            for layer in weave.layer_numbers():
                key = self.key_of(weave, layer)
                if reader is None or key != weave.key:
                    reader = files.rows(key, vectors=weave.columns is None)
                lead = (layer,) if weave.layers is not None and key == weave.key else ()
                at = 0
                for run in weave.runs(layer):
                    place = run.first * reader.row_bytes
                    for band in reader.bands(lead, at, run.rows, buffer):
                        yield run.tensor, place, band
                        place += len(band)
                    at += run.rows


def read_megatron(source: Path, config: Path | None = None) -> MegatronModel:
    """The model in the newest iteration of `source`. Raises CheckFailed when it is not whole or not known.

    config: the directory of the Hugging Face model it was made from; needed only where neither our converter
    nor Megatron-Bridge wrote the checkpoint.
    """
    iteration = iteration_directory(source)
    metadata = read_iteration(iteration)
    held = next(
        (d for d in (config, iteration / HF_CONFIG) if d and (config or (d / CONFIG).is_file())), None
    )
    found = hf_config_of(iteration) if held is None else _read(held / CONFIG)
    where = printable(iteration if held is None else held / CONFIG)
    model, tensors = model_of(found, where), model_tensors(metadata)
    # A tensor without numbers may claim any number of layers.
    stacked = [t.shape[0] for key, t in tensors.items() if key.startswith(_STACKED) and prod(t.shape) > 1]
    require_layers(model, max(len(tensors), *stacked, 0), where)
    weaves = weaves_of(model)
    made = MegatronModel(iteration, metadata, tensors, found, held, model, weaves)
    _require_all(made)
    return made


def megatron_to_hf(
    source: Path,
    target: Path,
    *,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
    config: Path | None = None,
) -> Converted:
    """Write the newest iteration of a Megatron checkpoint as a Hugging Face directory to `target`.

    source: an `iter_*`, a directory of them, a NeMo-RL `step_N` or a directory of those; an optimizer in it
    is left out, and rows that pad the vocabulary are cut off. shard_bytes: a new file begins before it would
    hold more. config: see `read_megatron`; its tokenizer is taken where the checkpoint has none. Errors: as
    `hf_to_megatron`.
    """
    if shard_bytes < 1:
        raise UsageError(f"shard_bytes is {shard_bytes}, not a whole number above 0", where="shard_bytes")
    made = read_megatron(source, config)
    tensors = made.hf_tensors()
    counts = {name: prod(shape) for name, (_, shape) in tensors.items()}
    total = sum(count * DTYPES[tensors[name][0]][2] for name, count in counts.items())
    counter = Counter(total, progress)
    with whole_directory(target, total) as root:
        with TensorFiles(made.iteration, made.metadata) as files:
            with SafetensorsWriter(root, tensors, shard_bytes) as writer:
                for name, place, data in made.pieces(files):
                    writer.write(name, place, data)
                    counter.add(len(data))
        notes = _notes(made, _write_small(made, root, config))
        write_synced(root / CONFIG, _config_bytes(made))
    return Converted(target, len(tensors), sum(counts.values()), total, notes)


def _require_all(made: MegatronModel) -> None:
    """Every tensor of the model is there in the right shape, and no other."""
    shapes: dict[str, tuple[int, ...]] = {}
    for weave in made.weaves:
        for layer in weave.layer_numbers():
            key = made.key_of(weave, layer)
            stacked = weave.layers is not None and key == weave.key
            shapes[key] = (weave.layers or 0, *weave.layer_shape) if stacked else weave.layer_shape
    where = printable(made.iteration)
    surplus = sorted(made.tensors.keys() - shapes.keys())
    absent = sorted(shapes.keys() - made.tensors.keys())
    if surplus:
        what = (
            f"{len(surplus)} tensors that a {made.model.family} model has not: {', '.join(surplus[:_SHOWN])}"
        )
        raise CheckFailed(what, where=where, next="convert it with the framework that made it")
    if absent:
        what = (
            f"{len(absent)} tensors of a {made.model.family} model are missing: {', '.join(absent[:_SHOWN])}"
        )
        raise CheckFailed(what, where=where)
    for key, shape in shapes.items():
        tensor = made.tensors[key]
        padded = key in (EMBEDDING, HEAD) and len(tensor.shape) == 2 and tensor.shape[0] > shape[0]
        if tensor.shape != shape and not (padded and tensor.shape[1] == shape[1]):
            raise CheckFailed(f"{key} is {list(tensor.shape)}, by the config {list(shape)}", where=where)
        if tensor.dtype not in DTYPES:
            what = f"{key} is of type {tensor.dtype}, which cannot be converted"
            raise CheckFailed(what, where=where, valid=tuple(DTYPES))


def _notes(made: MegatronModel, tokenizer: Path | None) -> tuple[str, ...]:
    notes = []
    optimizer = len(made.metadata.tensors) - len(made.tensors)
    if optimizer:
        notes.append(f"optimizer state left out, {optimizer} tensors")
    rows = made.tensors[EMBEDDING].shape[0]
    if rows != made.model.vocab:
        notes.append(f"vocabulary cut from {rows} padded rows to {made.model.vocab}")
    if made.config_from is None:
        notes.append("config.json made from run_config.yaml")
    if tokenizer is None:
        notes.append("no tokenizer with the checkpoint, none written")
    return tuple(notes)


def _write_small(made: MegatronModel, root: Path, config: Path | None) -> Path | None:
    """Tokenizer and generation config; where the tokenizer came from."""
    places = (tokenizer_directory(made.iteration), config)
    place = next((p for p in places if p is not None and any(tokenizer_files(p))), None)
    if place is not None:
        copy_small(tokenizer_files(place), place, root)
    if made.config_from is not None and (made.config_from / GENERATION_CONFIG).is_file():
        copy_small((made.config_from / GENERATION_CONFIG,), made.config_from, root)
    return place


def _config_bytes(made: MegatronModel) -> bytes:
    if made.config_from is not None:
        return (made.config_from / CONFIG).read_bytes()
    return json_text(dict(made.config)).encode()


def _read(file: Path) -> dict[str, Any]:
    found = read_json_object(file, limit=_LIMIT)
    if isinstance(found, Problem):
        raise CheckFailed(found.message, where=printable(file), next=found.fix)
    return found
