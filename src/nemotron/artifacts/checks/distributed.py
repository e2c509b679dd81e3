"""The `.metadata` of a torch distributed checkpoint: which tensors there are, in which pieces, in which file.

It is a pickle and is read as data only, see `pickles`. What is read is checked to be a whole: every tensor is
covered by its chunks once, every chunk has a place in a file, and every file is long enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .files import read_bytes
from .pickles import Made, Named, Pairs, read_pickle
from .report import Problem, shown

METADATA = ".metadata"
# A chunk takes 150 to 250 bytes: this is the metadata of 150,000 chunks.
_LIMIT = 32 << 20
_MAX_CHUNKS = 1_000_000
_MAX_DIMENSIONS = 16
_MAX_SPLIT_DIMENSIONS = 6

# Name in torch to the name that safetensors has for it, and bytes of one element.
_DTYPES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "torch.float64": ("F64", 8), "torch.float32": ("F32", 4), "torch.float16": ("F16", 2),
        "torch.bfloat16": ("BF16", 2), "torch.float8_e4m3fn": ("F8_E4M3", 1),
        "torch.float8_e5m2": ("F8_E5M2", 1), "torch.float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
        "torch.float8_e5m2fnuz": ("F8_E5M2FNUZ", 1), "torch.float8_e8m0fnu": ("F8_E8M0", 1),
        "torch.int64": ("I64", 8), "torch.int32": ("I32", 4), "torch.int16": ("I16", 2),
        "torch.int8": ("I8", 1), "torch.uint64": ("U64", 8), "torch.uint32": ("U32", 4),
        "torch.uint16": ("U16", 2), "torch.uint8": ("U8", 1), "torch.bool": ("BOOL", 1),
        "torch.complex64": ("C64", 8), "torch.complex128": ("C128", 16),
    }
)  # fmt: skip
_DCP = "torch.distributed.checkpoint"
_OLD = "torch.distributed._shard.sharded_tensor.metadata"
_MCORE = "megatron.core.dist_checkpointing.strategies.torch"
_ROOTS = (f"{_DCP}.metadata.Metadata", f"{_MCORE}.MCoreMetadata")
# All that savers write, plans for saving again included. `getattr` is how some Pythons write an enumeration.
_ALLOWED = frozenset(
    (
        *_ROOTS, *_DTYPES, f"{_DCP}.metadata.MetadataIndex", f"{_DCP}.metadata.BytesStorageMetadata",
        f"{_DCP}.metadata.TensorStorageMetadata", f"{_DCP}.metadata.ChunkStorageMetadata",
        f"{_DCP}.metadata.TensorProperties", f"{_DCP}.metadata.StorageMeta",
        f"{_DCP}.metadata._MEM_FORMAT_ENCODING", f"{_DCP}.filesystem._StorageInfo",
        f"{_DCP}.planner.SavePlan", f"{_DCP}.planner.WriteItem", f"{_DCP}.planner.WriteItemType",
        f"{_DCP}.planner.TensorWriteData", f"{_DCP}.planner.BytesIOWriteData", f"{_MCORE}.MCoreSavePlan",
        f"{_OLD}.TensorProperties", f"{_OLD}.MEM_FORMAT_ENCODING", "torch.Size",
        "torch.serialization._get_layout", "collections.OrderedDict", "pathlib.PosixPath",
        "pathlib._local.PosixPath", "builtins.getattr",
    )
)  # fmt: skip

Box = tuple[tuple[int, ...], tuple[int, ...]]  # offsets, sizes


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the checkpoint: its type, its whole shape, and the pieces it is stored in."""

    dtype: str
    item_bytes: int
    shape: tuple[int, ...]
    chunks: tuple[Box, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """Where one chunk, or one object, lies: `length` bytes at `offset` of `file`."""

    key: str
    place: tuple[int, ...] | None
    file: str
    offset: int
    length: int
    transformed: bool


@dataclass(frozen=True)
class Metadata:
    """What a `.metadata` says: tensors by key, the keys of other objects, and the pieces of both."""

    tensors: Mapping[str, StoredTensor]
    objects: frozenset[str]
    pieces: tuple[StoredPiece, ...]


def read_metadata(path: Path) -> Metadata | Problem:
    """The metadata in the file at `path`, or why they cannot be had or trusted."""
    data = read_bytes(path, limit=_LIMIT)
    if isinstance(data, Problem):
        return data
    root = read_pickle(data, _ALLOWED)
    if isinstance(root, Problem):
        return root
    try:
        return _metadata(root)
    except _MalformedError as exc:
        return Problem("checkpoint.broken_metadata", str(exc), fix="copy or save the checkpoint again")


class _MalformedError(Exception):
    """A valid pickle, but not of these metadata."""


def _metadata(root: Any) -> Metadata:
    if not isinstance(root, Made) or root.of not in _ROOTS:
        raise _MalformedError("a pickle of something else than a checkpoint's metadata")
    tensors: dict[str, StoredTensor] = {}
    objects: set[str] = set()
    count = 0
    for key, value in _items(_field(root, "state_dict_metadata"), "state_dict_metadata"):
        if not isinstance(key, str):
            raise _MalformedError("a key that is no string")
        if isinstance(value, Made) and value.of.endswith(".BytesStorageMetadata"):
            objects.add(key)
        else:
            tensors[key] = _tensor(key, value)
            count += len(tensors[key].chunks)
        if count > _MAX_CHUNKS:
            raise _MalformedError(f"more than {_MAX_CHUNKS:,} chunks")
    stored = _items(_field(root, "storage_data"), "storage_data")
    return Metadata(tensors, frozenset(objects), tuple(_piece(index, info) for index, info in stored))


def _items(value: Any, name: str) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Made):
        value = value.state
    if not isinstance(value, Pairs) or len(value) > 2 * _MAX_CHUNKS:
        raise _MalformedError(f"{name} is no dictionary")
    return zip(value[::2], value[1::2], strict=True)


def _field(made: Any, name: str) -> Any:
    return made.get(name) if isinstance(made, Made) else None


def _tensor(key: str, value: Any) -> StoredTensor:
    properties, chunks = _field(value, "properties"), _field(value, "chunks")
    state = properties.state if isinstance(properties, Made) else None
    dtype = state[0] if isinstance(state, tuple) and state else _field(properties, "dtype")
    if not isinstance(dtype, Named) or dtype.path not in _DTYPES:
        raise _MalformedError(f"{shown(key)} has no type of number")
    shape = _sizes(_field(value, "size"))
    if shape is None or not isinstance(chunks, list) or len(chunks) > _MAX_CHUNKS:
        raise _MalformedError(f"{shown(key)} has no shape or no chunks")
    boxes = []
    for chunk in chunks:
        offsets, sizes = _sizes(_field(chunk, "offsets")), _sizes(_field(chunk, "sizes"))
        if offsets is None or sizes is None or not len(offsets) == len(sizes) == len(shape):
            raise _MalformedError(f"{shown(key)} has a chunk of another shape")
        boxes.append((offsets, sizes))
    name, item_bytes = _DTYPES[dtype.path]
    return StoredTensor(name, item_bytes, shape, tuple(boxes))


def _sizes(value: Any) -> tuple[int, ...] | None:
    """The numbers of a size."""
    if isinstance(value, Made) and value.of == "torch.Size" and not value.args:
        value = ()  # of a scalar
    if not isinstance(value, tuple | list) or len(value) > _MAX_DIMENSIONS:
        return None
    if not all(type(each) is int and 0 <= each < 1 << 63 for each in value):
        return None
    return tuple(value) if math.prod(value) < 1 << 63 else None


def _piece(index: Any, info: Any) -> StoredPiece:
    key, file = _field(index, "fqn"), _field(info, "relative_path")
    offset, length = _field(info, "offset"), _field(info, "length")
    place = _field(index, "offset")
    known = None if place is None else _sizes(place)
    if not isinstance(key, str) or not isinstance(file, str) or (place is not None and known is None):
        raise _MalformedError("an entry of storage_data that names no tensor or no file")
    if any(type(each) is not int or not 0 <= each < 1 << 63 for each in (offset, length)):
        raise _MalformedError(f"{shown(key)} lies at no valid place of its file")
    return StoredPiece(key, known, file, offset, length, bool(_field(info, "transform_descriptors")))


def tiles(shape: tuple[int, ...], chunks: tuple[Box, ...]) -> bool:
    """Whether the chunks cover the whole shape, every element exactly once."""
    if not math.prod(shape):
        return True
    chunks = tuple(chunk for chunk in chunks if math.prod(chunk[1]))
    for offsets, sizes in chunks:
        if any(start + size > end for start, size, end in zip(offsets, sizes, shape, strict=True)):
            return False
    split = [d for d, whole in enumerate(shape) if any(sizes[d] != whole for _, sizes in chunks)]
    if not split:
        return len(chunks) == 1
    if len(split) > _MAX_SPLIT_DIMENSIONS:
        return False
    # Corners with alternating signs are the derivative of "how often is this element covered": they cancel
    # to those of the whole exactly when that is once everywhere.
    corners: dict[tuple[int, ...], int] = {}
    _add_corners(corners, [(0, shape[d]) for d in split], -1)
    for offsets, sizes in chunks:
        _add_corners(corners, [(offsets[d], offsets[d] + sizes[d]) for d in split], 1)
    return not any(corners.values())


def _add_corners(corners: dict[tuple[int, ...], int], sides: list[tuple[int, int]], sign: int) -> None:
    points: list[tuple[tuple[int, ...], int]] = [((), sign)]
    for low, high in sides:
        points = [((*at, edge), s) for at, t in points for edge, s in ((low, t), (high, -t))]
    for at, value in points:
        corners[at] = corners.get(at, 0) + value
