"""Hugging Face to Megatron: bytes are moved as they are, a few MiB at a time."""

from __future__ import annotations

import json
from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from nemotron.artifacts.checks.model import CONFIG
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.converted import Converted, Counter, Progress
from nemotron.checkpoints.dcp_read import BUFFER
from nemotron.checkpoints.dcp_write import DcpWriter, chunk_bytes
from nemotron.checkpoints.families import Model, model_of
from nemotron.checkpoints.hf_files import (
    GENERATION_CONFIG,
    HfTensor,
    HfWeights,
    copy_small,
    read_weights,
    tokenizer_files,
)
from nemotron.checkpoints.places import (
    HF_CONFIG,
    LATEST_TRAIN_STATE,
    RUN_CONFIG,
    TOKENIZER,
    TRACKER,
    TRAIN_STATE,
    iteration_name,
)
from nemotron.checkpoints.run_configs import run_config_text
from nemotron.checkpoints.torch_files import DTYPES, Scalar, object_file
from nemotron.checkpoints.weaving import (
    EMBEDDING,
    HEAD,
    HF_EMBEDDING,
    HF_HEAD,
    Run,
    Weave,
    extra_states,
    require_layers,
    weaves_of,
)
from nemotron.checkpoints.whole import ReadFiles, whole_directory, write_synced
from nemotron.errors import CheckFailed, UsageError

SHARD_BYTES = 5_000_000_000
# Saved by old versions of transformers; they follow from the config.
_DERIVED = ("rotary_emb.inv_freq", "self_attn.masked_bias", "self_attn.bias")
_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
_SHOWN = 5


def hf_to_megatron(
    source: Path,
    target: Path,
    *,
    progress: Progress | None = None,
    vocab_pad: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Converted:
    """Write the model in `source` as a Megatron distributed checkpoint with one iteration, 0, to `target`.

    vocab_pad: pad the vocabulary to a multiple of this, with zeros: what Megatron's
    `make_vocab_size_divisible_by` times its tensor-parallel size wants. shard_bytes: a new `.distcp` begins
    when the last holds so many. Raises CheckFailed for a model that cannot be converted or is not whole,
    Conflict when `target` exists, WorkFailed when the disk is full; then nothing is left.
    """
    if vocab_pad is not None and vocab_pad < 1:
        raise UsageError(f"vocab_pad is {vocab_pad}, not a whole number above 0", where="vocab_pad")
    if shard_bytes < 1:
        raise UsageError(f"shard_bytes is {shard_bytes}, not a whole number above 0", where="shard_bytes")
    weights = read_weights(source)
    model = model_of(weights.config, printable(source / CONFIG))
    require_layers(model, len(weights.tensors), printable(source / CONFIG))
    notes: list[str] = []
    weaves = weaves_of(model)
    tensors = _expected(weights, model, weaves, notes)
    dtypes = {weave.key: _dtype_of(weave, tensors) for weave in weaves}
    rows = -(-model.vocab // vocab_pad) * vocab_pad if vocab_pad else model.vocab
    if rows != model.vocab:
        notes.append(f"vocabulary padded from {model.vocab} to {rows} rows with zeros")
    padded = {weave.key: _padded(weave, rows) for weave in weaves}
    needed = sum(_stored_bytes(each, dtypes[key]) for key, each in padded.items())
    total = sum(tensors[name].bytes for name in tensors)
    with whole_directory(target, needed) as root:
        iteration = root / iteration_name(0)
        iteration.mkdir()
        most = Tally(tensor.dtype for tensor in tensors.values()).most_common(1)[0][0]
        _write_small(root, iteration, weights, run_config_text(model, most, vocab_pad))
        counter = Counter(total, progress)
        with DcpWriter(iteration, shard_bytes) as writer, ReadFiles() as files:
            copier = _Copier(files, tensors, counter)
            for weave in weaves:
                copier.write(writer, weave, padded[weave.key], dtypes[weave.key])
            state = object_file([None])
            for key in extra_states(model):
                writer.add_object(key, state)
            writer.finish()
    parameters = sum(tensor.bytes // DTYPES[tensor.dtype][2] for tensor in tensors.values())
    return Converted(target, len(weaves), parameters, total, tuple(notes))


def _expected(
    weights: HfWeights, model: Model, weaves: tuple[Weave, ...], notes: list[str]
) -> dict[str, HfTensor]:
    """The tensors of the model, every one of them and no other. Raises CheckFailed naming those at fault."""
    shapes = {
        name: shape
        for weave in weaves
        for layer in weave.layer_numbers()
        for name, shape in weave.sources(layer)
    }
    held = dict(weights.tensors)
    derived = [name for name in held if name not in shapes and name.endswith(_DERIVED)]
    if derived:
        notes.append(f"{len(derived)} tensors left out that follow from the config, {derived[0]} among them")
    if model.tied and HF_HEAD in held:
        _require_tied(held)
        derived.append(HF_HEAD)
        notes.append(f"{HF_HEAD} left out: it is {HF_EMBEDDING}")
    for name in derived:
        del held[name]
    where = printable(weights.path)
    surplus, absent = sorted(held.keys() - shapes.keys()), sorted(shapes.keys() - held.keys())
    if surplus:
        what = f"{len(surplus)} tensors that a {model.family} model has not: {_some(surplus)}"
        raise CheckFailed(what, where=where, next="convert it with the framework that made it")
    if absent:
        what = f"{len(absent)} tensors of a {model.family} model are missing: {_some(absent)}"
        raise CheckFailed(what, where=where, next="copy or save the checkpoint again")
    for name, shape in shapes.items():
        if held[name].shape != shape:
            what = f"{name} is {list(held[name].shape)}, by the config {list(shape)}"
            raise CheckFailed(what, where=printable(held[name].file))
        if held[name].dtype not in DTYPES:
            what = f"{name} is of type {held[name].dtype}, which cannot be converted"
            raise CheckFailed(what, where=printable(held[name].file), valid=tuple(DTYPES))
    return {name: held[name] for name in shapes}


def _require_tied(tensors: Mapping[str, HfTensor]) -> None:
    """The output layer of a model that shares it has to be the embedding, where both are stored."""
    head, embedding = tensors[HF_HEAD], tensors.get(HF_EMBEDDING)
    same = embedding is not None and (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
    if same and embedding is not None:
        one, other = memoryview(bytearray(BUFFER)), memoryview(bytearray(BUFFER))
        with ReadFiles() as files:
            for at in range(0, head.bytes, BUFFER):
                count = min(BUFFER, head.bytes - at)
                files.read(head.file, head.start + at, one[:count])
                files.read(embedding.file, embedding.start + at, other[:count])
                same = same and one[:count] == other[:count]
    if not same:
        what = f"{HF_HEAD} is not {HF_EMBEDDING}, but the config says tie_word_embeddings"
        fix = "set tie_word_embeddings to false in config.json if both are meant"
        raise CheckFailed(what, where=printable(head.file), next=fix)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _dtype_of(weave: Weave, tensors: Mapping[str, HfTensor]) -> str:
    names = [name for layer in weave.layer_numbers() for name, _ in weave.sources(layer)]
    found = {tensors[name].dtype: name for name in names}
    if len(found) > 1:
        listed = ", ".join(f"{name} is {dtype}" for dtype, name in sorted(found.items()))
        raise CheckFailed(f"Megatron keeps in one type what comes in several: {listed}")
    return next(iter(found))


def _padded(weave: Weave, rows: int) -> Weave:
    """The weave as it is stored: with more rows where it has one for each token."""
    if weave.key not in (EMBEDDING, HEAD):
        return weave
    return replace(weave, parts=((weave.parts[0][0], rows),))


def _stored_bytes(weave: Weave, dtype: str) -> int:
    shape = (1, *weave.layer_shape) if weave.layers is not None else weave.layer_shape
    return (weave.layers or 1) * (chunk_bytes(dtype, shape) + 4096)


class _Copier:
    """Moves the rows of Hugging Face tensors into the chunks of Megatron's."""

    def __init__(self, files: ReadFiles, tensors: Mapping[str, HfTensor], counter: Counter) -> None:
        self._files, self._tensors, self._counter = files, tensors, counter
        self._buffer = memoryview(bytearray(BUFFER))

    def write(self, writer: DcpWriter, weave: Weave, stored: Weave, dtype: str) -> None:
        """Write one Megatron tensor. stored: the weave with the rows that it gets."""
        shape = stored.layer_shape
        rest = shape[1:]
        whole = shape if stored.layers is None else (stored.layers, *shape)
        writer.declare(stored.key, dtype, whole)
        for layer in stored.layer_numbers():
            for (_, _, runs), (first, count, _) in zip(
                weave.chunks(layer), stored.chunks(layer), strict=True
            ):
                offsets, sizes = (first, *(0 for _ in rest)), (count, *rest)
                if stored.layers is not None:
                    offsets, sizes = (layer, *offsets), (1, *sizes)
                missing = (stored.rows - weave.rows) * (stored.columns or 1) * DTYPES[dtype][2]
                writer.chunk(offsets, sizes, self._rows(runs, missing))

    def _rows(self, runs: tuple[Run, ...], missing: int) -> Iterator[bytes | memoryview]:
        for run in runs:
            tensor = self._tensors[run.tensor]
            row = tensor.bytes // tensor.shape[0]
            at, end = tensor.start + run.first * row, tensor.start + (run.first + run.rows) * row
            while at < end:
                view = self._buffer[: min(len(self._buffer), end - at)]
                self._files.read(tensor.file, at, view)
                yield view
                at += len(view)
                self._counter.add(len(view))
        while missing:
            zeros = bytes(min(len(self._buffer), missing))
            yield zeros
            missing -= len(zeros)


def _write_small(root: Path, iteration: Path, weights: HfWeights, run_config: str) -> None:
    """All files but the weights and `.metadata`."""
    copy_small(tokenizer_files(weights.path), weights.path, iteration / TOKENIZER)
    configs = (weights.path / name for name in (CONFIG, GENERATION_CONFIG) if name in weights.names)
    copy_small(configs, weights.path, iteration / HF_CONFIG)
    content = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
    common = {"checkpoint_version": 3.0, "iteration": 0, "content_metadata": content}
    train_state = object_file(
        {
            **{
                name: Scalar("I32", 0) for name in ("step", "consumed_train_samples", "skipped_train_samples")
            },
            "consumed_valid_samples": Scalar("I32", 0),
            "floating_point_operations_so_far": Scalar("F64", 0),
            **{name: Scalar("BOOL", 0) for name in ("do_train", "do_valid", "do_test")},
        }
    )
    write_synced(iteration / "common.pt", object_file(common))
    write_synced(iteration / TRAIN_STATE, train_state)
    write_synced(iteration / RUN_CONFIG, run_config.encode())
    write_synced(iteration / "metadata.json", json.dumps(_FORMAT).encode())
    write_synced(root / LATEST_TRAIN_STATE, train_state)
    write_synced(root / TRACKER, b"0")
