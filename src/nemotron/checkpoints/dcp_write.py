"""A torch distributed checkpoint, written tensor by tensor without torch: `__0_N.distcp` and `.metadata`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from math import prod
from pathlib import Path

from nemotron.artifacts.checks.distributed import METADATA
from nemotron.checkpoints.pickled import Built, Called, Items, Named, pickled
from nemotron.checkpoints.torch_files import DTYPES, Frame, tensor_frame
from nemotron.checkpoints.whole import SyncedFile, write_synced

_DCP = "torch.distributed.checkpoint"
_STORAGE_INFO = Named(f"{_DCP}.filesystem", "_StorageInfo")


class DcpWriter:
    """New `.distcp` files in `directory`, a new one when `shard_bytes` are in the last.

    Declare a tensor, then write its chunks; at the end `finish` writes `.metadata`, which makes it whole.
    """

    def __init__(self, directory: Path, shard_bytes: int) -> None:
        self._directory = directory
        self._limit = shard_bytes
        self._file: SyncedFile | None = None
        self._name = ""
        self._count = 0
        self._tensors: dict[str, Built] = {}
        self._chunks: list[Built] = []
        self._dtype = ""
        self._key = ""
        self._stored: list[tuple[Built, Built]] = []

    def __enter__(self) -> DcpWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._file is not None:
            self._file.close(sync=kind is None)

    def declare(self, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Say that a tensor follows, and that its chunks do."""
        self._key, self._dtype, self._chunks = key, dtype, []
        self._tensors[key] = _tensor_metadata(dtype, shape, self._chunks)

    def chunk(
        self, offsets: tuple[int, ...], sizes: tuple[int, ...], data: Iterable[bytes | memoryview]
    ) -> None:
        """Write a chunk of the tensor that was declared last; `data` are its bytes in order."""
        frame = tensor_frame(self._dtype, sizes)
        file = self._open_file()
        begin, checksum = file.at, 0
        file.write(frame.before)
        for piece in data:
            checksum = zlib.crc32(piece, checksum)
            file.write(piece)
        assert file.at - begin - len(frame.before) == frame.data_bytes, self._key
        file.write(frame.after(checksum))
        file.write_at(begin + frame.checksum_at, checksum.to_bytes(4, "little"))
        index = {"fqn": self._key, "offset": _size(offsets), "index": len(self._chunks)}
        self._chunks.append(
            Built(_dcp("ChunkStorageMetadata"), {"offsets": _size(offsets), "sizes": _size(sizes)})
        )
        self._store(index, begin, file.at - begin)

    def add_object(self, key: str, data: bytes) -> None:
        """Write an object that is no tensor."""
        file = self._open_file()
        begin = file.at
        file.write(data)
        self._tensors[key] = Built(_dcp("BytesStorageMetadata"), {})
        self._store({"fqn": key, "index": None}, begin, len(data))

    def finish(self) -> None:
        """Write `.metadata`, when all else is on the disk."""
        if self._file is not None:
            self._file.close()
            self._file = None
        state = {
            "state_dict_metadata": self._tensors,
            "planner_data": None,
            "storage_data": Items(list(self._stored)),
            "storage_meta": None,
            "version": None,
        }
        write_synced(self._directory / METADATA, pickled(Built(_dcp("Metadata"), state)))

    def _open_file(self) -> SyncedFile:
        if self._file is not None and self._file.at >= self._limit:
            self._file.close()
            self._file = None
        if self._file is None:
            self._name = f"__0_{self._count}.distcp"
            self._count += 1
            self._file = SyncedFile(self._directory / self._name)
        return self._file

    def _store(self, index: dict[str, object], offset: int, length: int) -> None:
        place = {"relative_path": self._name, "offset": offset, "length": length}
        self._stored.append((Built(_dcp("MetadataIndex"), index), Built(_STORAGE_INFO, place)))


def chunk_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that a chunk takes on the disk, frame included."""
    frame: Frame = tensor_frame(dtype, shape)
    return len(frame.before) + prod(shape) * DTYPES[dtype][2] + len(frame.after(0))


def _dcp(name: str) -> Named:
    return Named(f"{_DCP}.metadata", name)


def _size(shape: tuple[int, ...]) -> Called:
    return Called(Named("torch", "Size"), (shape,))


def _tensor_metadata(dtype: str, shape: tuple[int, ...], chunks: list[Built]) -> Built:
    layout = Called(Named("torch.serialization", "_get_layout"), ("torch.strided",))
    contiguous = Called(_dcp("_MEM_FORMAT_ENCODING"), (0,))
    properties = (Named("torch", DTYPES[dtype][0]), layout, False, contiguous, False)
    state = {
        "properties": Built(_dcp("TensorProperties"), properties),
        "size": _size(shape),
        "chunks": chunks,
    }
    return Built(_dcp("TensorStorageMetadata"), state)
