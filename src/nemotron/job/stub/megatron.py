"""The smallest Megatron checkpoint: the model of `stub.model` as a torch distributed checkpoint.

Its `.metadata` and its tensors are pickles, written operation by operation: the classes they name are
torch's, which a job need not have.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from nemotron.job.stub.mark import MARK, NOTE, NOTE_FILE
from nemotron.job.stub.model import HEADS, VOCABULARY, WIDTH, numbers, tokenizer_files

_ITERATION = "iter_0000000"
_SHARD = "__0_0.distcp"
_DCP = "torch.distributed.checkpoint"
_FORMAT = {
    "common_backend": "torch",
    "common_backend_version": 1,
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
}


class _Global(NamedTuple):
    """A class, function or constant."""

    module: str
    name: str


class _Call(NamedTuple):
    """What a function returns for these arguments."""

    of: _Global
    arguments: tuple[Any, ...]


class _Object(NamedTuple):
    """An instance of a class with this state."""

    of: _Global
    state: Any


class _Pairs(NamedTuple):
    """A dictionary whose keys Python could not hash."""

    items: list[tuple[Any, Any]]


class _Storage(NamedTuple):
    """The numbers of a tensor, which lie outside the pickle."""

    length: int


def megatron_files() -> dict[str, bytes]:
    """A directory with one iteration: `.metadata`, one file of tensors, config and tokenizer."""
    shard, tensors, storage = b"", {}, []
    for key, shape in _shapes().items():
        held = _torch_file(_tensor(shape), numbers(key, shape))
        tensors[key] = _tensor_metadata(shape)
        storage.append(_stored(key, shape, len(shard), len(held)))
        shard += held
    run_config = (
        f"{MARK}: true\nmodel:\n  tensor_model_parallel_size: 1\n  pipeline_model_parallel_size: 1\n"
        f"  num_layers: 1\n  hidden_size: {WIDTH}\n  num_attention_heads: {HEADS}\n"
        f"  vocab_size: {VOCABULARY}\n"
    )
    iteration = {
        _SHARD: shard,
        ".metadata": _metadata(tensors, storage),
        "metadata.json": json.dumps(_FORMAT).encode(),
        "common.pt": _torch_file({"checkpoint_version": 3.0, "iteration": 0, MARK: True}, b""),
        "run_config.yaml": run_config.encode(),
        **{f"tokenizer/{name}": data for name, data in tokenizer_files().items()},
    }
    return {
        "latest_checkpointed_iteration.txt": b"0",
        NOTE_FILE: NOTE.encode(),
        **{f"{_ITERATION}/{name}": data for name, data in iteration.items()},
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of a layer are stacked on the first dimension, and there is one layer."""
    layers = "decoder.layers."
    return {
        "embedding.word_embeddings.weight": (VOCABULARY, WIDTH),
        f"{layers}self_attention.linear_qkv.layer_norm_weight": (1, WIDTH),
        f"{layers}self_attention.linear_qkv.weight": (1, 3 * WIDTH, WIDTH),
        f"{layers}self_attention.linear_proj.weight": (1, WIDTH, WIDTH),
        f"{layers}mlp.linear_fc1.layer_norm_weight": (1, WIDTH),
        f"{layers}mlp.linear_fc1.weight": (1, 2 * WIDTH, WIDTH),
        f"{layers}mlp.linear_fc2.weight": (1, WIDTH, WIDTH),
        "decoder.final_layernorm.weight": (WIDTH,),
    }


def _metadata(tensors: Mapping[str, _Object], storage: list[tuple[_Object, _Object]]) -> bytes:
    state = {
        "state_dict_metadata": dict(tensors),
        "planner_data": None,
        "storage_data": _Pairs(storage),
        "storage_meta": None,
        "version": None,
    }
    return _pickle(_Object(_dcp("Metadata"), state))


def _stored(key: str, shape: tuple[int, ...], offset: int, length: int) -> tuple[_Object, _Object]:
    """An entry of `storage_data`: which chunk, and where it lies."""
    index = {"fqn": key, "offset": _size((0,) * len(shape)), "index": 0}
    place = {"relative_path": _SHARD, "offset": offset, "length": length, "transform_descriptors": None}
    info = _Global(f"{_DCP}.filesystem", "_StorageInfo")
    return _Object(_dcp("MetadataIndex"), index), _Object(info, place)


def _tensor_metadata(shape: tuple[int, ...]) -> _Object:
    layout = _Call(_Global("torch.serialization", "_get_layout"), ("torch.strided",))
    contiguous = _Call(_dcp("_MEM_FORMAT_ENCODING"), (0,))
    properties = (_Global("torch", "float32"), layout, False, contiguous, False)
    whole = {"offsets": _size((0,) * len(shape)), "sizes": _size(shape)}
    state = {
        "properties": _Object(_dcp("TensorProperties"), properties),
        "size": _size(shape),
        "chunks": [_Object(_dcp("ChunkStorageMetadata"), whole)],
    }
    return _Object(_dcp("TensorStorageMetadata"), state)


def _tensor(shape: tuple[int, ...]) -> _Call:
    strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    hooks = _Call(_Global("collections", "OrderedDict"), ())
    arguments = (_Storage(prod(shape)), 0, shape, strides, False, hooks)
    return _Call(_Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def _torch_file(value: Any, data: bytes) -> bytes:
    """What `torch.save` writes: a zip of a pickle and the numbers it refers to."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, held in (("data.pkl", _pickle(value)), ("data/0", data), ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), held)  # without the time of day
    return file.getvalue()


def _dcp(name: str) -> _Global:
    return _Global(f"{_DCP}.metadata", name)


def _size(shape: tuple[int, ...]) -> _Call:
    return _Call(_Global("torch", "Size"), (shape,))


def _pickle(value: Any) -> bytes:
    return b"\x80\x02" + _operations(value) + b"."


def _operations(value: Any) -> bytes:
    """The operations of protocol 2 that put `value` on the stack."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"J" + value.to_bytes(4, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return b"X" + len(text).to_bytes(4, "little") + text
    if isinstance(value, _Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, _Call):
        return _operations(value.of) + _operations(value.arguments) + b"R"
    if isinstance(value, _Object):
        return _operations(value.of) + b")\x81" + _operations(value.state) + b"b"
    if isinstance(value, _Storage):
        return _operations(("storage", _Global("torch", "FloatStorage"), "0", "cpu", value.length)) + b"Q"
    if type(value) is tuple:
        return b"(" + b"".join(_operations(item) for item in value) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(_operations(item) for item in value) + b"e"
    pairs = value.items if isinstance(value, _Pairs) else value.items()
    return b"}(" + b"".join(_operations(k) + _operations(v) for k, v in pairs) + b"u"
