"""Two checkpoints compared tensor by tensor, by digests of what each holds; no tensor is held whole."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron.artifacts.checks.directory import directory_names
from nemotron.artifacts.checks.megatron import layout_of
from nemotron.artifacts.checks.model import ADAPTER_CONFIG, CONFIG
from nemotron.artifacts.checks.report import Report
from nemotron.artifacts.checks.weights import ADAPTER, MODEL
from nemotron.checkpoints.convert_megatron_to_hf import read_megatron
from nemotron.checkpoints.dcp_read import BUFFER, TensorFiles, model_tensors, read_iteration
from nemotron.checkpoints.hf_files import read_weights, require_directory
from nemotron.checkpoints.places import iteration_directory
from nemotron.checkpoints.whole import ReadFiles


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """dtype: as safetensors names it. digest: `blake3:<hex>` over the numbers, first dimension slowest."""

    dtype: str
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Comparison:
    """Tensors by name: in one only, in both with other shape, type or numbers; `same` counts the rest."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    shape: tuple[str, ...]
    dtype: tuple[str, ...]
    numbers: tuple[str, ...]
    same: int

    @property
    def equal(self) -> bool:
        """Whether both hold the same tensors."""
        return not (self.only_first or self.only_second or self.shape or self.dtype or self.numbers)


def is_megatron(path: Path) -> bool:
    """Whether a directory has the layout of a Megatron checkpoint. Raises NotFound when there is none."""
    require_directory(path)
    names = directory_names(path, Report(path, 1)) or frozenset()
    return CONFIG not in names and ADAPTER_CONFIG not in names and layout_of(names) is not None


def tensor_digests(path: Path, *, hf_names: bool = False) -> dict[str, TensorDigest]:
    """Every tensor of a Hugging Face checkpoint, an adapter or a Megatron iteration, by name.

    hf_names: what a Megatron checkpoint holds in the names and shapes of Hugging Face. Optimizer state is
    left out. Raises CheckFailed when the checkpoint is not whole.
    """
    if not is_megatron(path):
        return _hugging_face(path)
    return _megatron_as_hf(path) if hf_names else _megatron(path)


def compare(first: Path, second: Path) -> Comparison:
    """What differs between two checkpoints; of two formats they are compared in Hugging Face's names."""
    mixed = is_megatron(first) != is_megatron(second)
    return compare_digests(tensor_digests(first, hf_names=mixed), tensor_digests(second, hf_names=mixed))


def compare_digests(first: Mapping[str, TensorDigest], second: Mapping[str, TensorDigest]) -> Comparison:
    """As `compare`, of what `tensor_digests` told."""
    both = sorted(first.keys() & second.keys())
    shape = tuple(name for name in both if first[name].shape != second[name].shape)
    dtype = tuple(name for name in both if first[name].dtype != second[name].dtype)
    other = {*shape, *dtype}
    numbers = tuple(n for n in both if n not in other and first[n].digest != second[n].digest)
    return Comparison(
        only_first=tuple(sorted(first.keys() - second.keys())),
        only_second=tuple(sorted(second.keys() - first.keys())),
        shape=shape,
        dtype=dtype,
        numbers=numbers,
        same=len(both) - len(other) - len(numbers),
    )


def _hugging_face(path: Path) -> dict[str, TensorDigest]:
    from blake3 import blake3

    adapter = (path / ADAPTER_CONFIG).is_file() and not (path / CONFIG).is_file()
    weights = read_weights(path, ADAPTER if adapter else MODEL)
    buffer = memoryview(bytearray(BUFFER))
    found = {}
    with ReadFiles() as files:
        for tensor in weights.tensors.values():
            hasher = blake3()
            for at in range(0, tensor.bytes, BUFFER):
                view = buffer[: min(BUFFER, tensor.bytes - at)]
                files.read(tensor.file, tensor.start + at, view)
                hasher.update(view)
            found[tensor.name] = _digest(tensor.dtype, tensor.shape, hasher)
    return found


def _megatron(path: Path) -> dict[str, TensorDigest]:
    from blake3 import blake3

    iteration = iteration_directory(path)
    metadata = read_iteration(iteration)
    buffer = memoryview(bytearray(BUFFER))
    found = {}
    with TensorFiles(iteration, metadata) as files:
        for key, tensor in sorted(model_tensors(metadata).items()):
            hasher, rows = blake3(), files.rows(key)
            for lead in itertools.product(*map(range, rows.lead)):
                for band in rows.bands(lead, 0, rows.rows, buffer):
                    hasher.update(band)
            found[key] = _digest(tensor.dtype, tensor.shape, hasher)
    return found


def _megatron_as_hf(path: Path) -> dict[str, TensorDigest]:
    from blake3 import blake3

    made = read_megatron(path)
    shapes = made.hf_tensors()
    found: dict[str, TensorDigest] = {}
    hashers: dict[str, Any] = {}
    with TensorFiles(made.iteration, made.metadata) as files:
        for name, _, data in made.pieces(files):
            hashers.setdefault(name, blake3()).update(data)
    for name, (dtype, shape) in shapes.items():
        found[name] = _digest(dtype, shape, hashers[name])
    return found


def _digest(dtype: str, shape: tuple[int, ...], hasher: Any) -> TensorDigest:
    return TensorDigest(dtype, shape, f"blake3:{hasher.hexdigest()}")
