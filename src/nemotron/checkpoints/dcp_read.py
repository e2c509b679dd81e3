"""The tensors of a torch distributed checkpoint, read as bytes: row by row, whatever pieces they lie in."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from nemotron.artifacts.checks.distributed import METADATA, Metadata, StoredPiece, StoredTensor, read_metadata
from nemotron.artifacts.checks.megatron import check_megatron
from nemotron.artifacts.checks.report import Problem, Report
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.archives import find_numbers
from nemotron.checkpoints.hf_files import refuse
from nemotron.checkpoints.whole import ReadFiles
from nemotron.errors import CheckFailed

BUFFER = 8 << 20
_OPTIMIZER = re.compile(r"(?:chained_\d+\.)?optimizer\b")


def read_iteration(iteration: Path) -> Metadata:
    """What an iteration holds. Raises CheckFailed with all that is wrong: it is whole when this returns."""
    report = Report(iteration, 5)
    check_megatron(iteration, report)
    refuse(report, f"{iteration.name} is no whole checkpoint")
    metadata = read_metadata(iteration / METADATA)
    if isinstance(metadata, Problem):
        raise CheckFailed(metadata.message, where=printable(iteration / METADATA), next=metadata.fix)
    return metadata


def model_tensors(metadata: Metadata) -> dict[str, StoredTensor]:
    """The tensors of the model, those of the optimizer left out."""
    return {key: each for key, each in metadata.tensors.items() if not _OPTIMIZER.match(key)}


@dataclass
class _Chunk:
    """A piece of a tensor: a box of leading indices, rows and columns, and what was read of it so far."""

    lead: tuple[tuple[int, int], ...]
    rows: tuple[int, int]
    columns: tuple[int, int]
    piece: StoredPiece
    start: int = -1
    expected: int = 0
    checksum: int = 0
    read: int = 0

    def holds(self, lead: tuple[int, ...]) -> bool:
        return all(low <= at < high for at, (low, high) in zip(lead, self.lead, strict=True))


class RowReader:
    """Reads one tensor as rows. shape: leading dimensions, rows, columns (1 for vectors).

    Whoever reads all rows of a piece in order has its checksum compared.
    """

    def __init__(
        self,
        directory: Path,
        files: ReadFiles,
        tensor: StoredTensor,
        pieces: Mapping[tuple[int, ...] | None, StoredPiece],
        *,
        vectors: bool,
    ) -> None:
        self._directory, self._files = directory, files
        self.dtype, self.item = tensor.dtype, tensor.item_bytes
        cut = max(len(tensor.shape) - (1 if vectors else 2), 0)
        self.lead, self.rows, self.columns = _split(tensor.shape, cut, vectors)
        self._chunks = []
        for offsets, sizes in tensor.chunks:
            if not prod(sizes):
                continue
            lead, row, column = _split(offsets, cut, vectors, 0)
            many, rows, columns = _split(sizes, cut, vectors)
            box = tuple((at, at + count) for at, count in zip(lead, many, strict=True))
            ends = (row, row + rows), (column, column + columns)
            self._chunks.append(_Chunk(box, *ends, pieces[offsets]))
        self._chunks.sort(key=lambda chunk: (chunk.lead, chunk.rows, chunk.columns))
        self._scratch = bytearray()
        self._here: tuple[tuple[int, ...] | None, list[_Chunk]] = (None, [])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.columns * self.item

    def bands(
        self, lead: tuple[int, ...], first: int, count: int, buffer: memoryview
    ) -> Iterator[memoryview]:
        """Rows `first` to `first + count` at leading indices `lead`, as views of `buffer`."""
        most = len(buffer) // self.row_bytes
        if not most:  # a row of 8 MiB and more
            buffer, most = memoryview(bytearray(self.row_bytes)), 1
        for at in range(first, first + count, most):
            rows = min(most, first + count - at)
            view = buffer[: rows * self.row_bytes]
            self._fill(lead, at, rows, view)
            yield view

    def _fill(self, lead: tuple[int, ...], first: int, count: int, view: memoryview) -> None:
        if self._here[0] != lead:
            self._here = (lead, [chunk for chunk in self._chunks if chunk.holds(lead)])
        for chunk in self._here[1]:
            low, high = max(first, chunk.rows[0]), min(first + count, chunk.rows[1])
            if low >= high:
                continue
            width = (chunk.columns[1] - chunk.columns[0]) * self.item
            inside = self._row_of(chunk, lead, low) * width
            if width == self.row_bytes:
                part = view[(low - first) * width : (high - first) * width]
                self._read(chunk, inside, part)
                continue
            size = (high - low) * width
            if len(self._scratch) < size:
                self._scratch = bytearray(size)
            part = memoryview(self._scratch)[:size]
            self._read(chunk, inside, part)
            target = (low - first) * self.row_bytes + chunk.columns[0] * self.item
            for row in range(high - low):
                place = target + row * self.row_bytes
                view[place : place + width] = part[row * width : (row + 1) * width]

    @staticmethod
    def _row_of(chunk: _Chunk, lead: tuple[int, ...], row: int) -> int:
        """The number of a row among all of a chunk."""
        at = 0
        for index, (low, high) in zip(lead, chunk.lead, strict=True):
            at = at * (high - low) + index - low
        return at * (chunk.rows[1] - chunk.rows[0]) + row - chunk.rows[0]

    def _read(self, chunk: _Chunk, inside: int, into: memoryview) -> None:
        path = self._directory / chunk.piece.file
        if chunk.start < 0:
            sizes = [high - low for low, high in (*chunk.lead, chunk.rows, chunk.columns)]
            numbers = find_numbers(self._files, path, chunk.piece, self.dtype, prod(sizes) * self.item)
            chunk.start, chunk.expected = numbers
        self._files.read(path, chunk.start + inside, into)
        if inside != chunk.read or not chunk.expected:
            return
        chunk.checksum = zlib.crc32(into, chunk.checksum)
        chunk.read += len(into)
        sizes = [high - low for low, high in (*chunk.lead, chunk.rows, chunk.columns)]
        if chunk.read == prod(sizes) * self.item and chunk.checksum != chunk.expected:
            what = f"{chunk.piece.key[:100]}: the numbers do not have the checksum they were saved with"
            raise CheckFailed(what, where=printable(path), next="copy or save the checkpoint again")


def _split(
    shape: tuple[int, ...], cut: int, vectors: bool, missing: int = 1
) -> tuple[tuple[int, ...], int, int]:
    lead, rest = shape[:cut], shape[cut:]
    if vectors or len(rest) < 2:
        return lead, rest[0] if rest else missing, missing
    return lead, rest[0], rest[1]


class TensorFiles:
    """The tensors of one iteration, for reading. A context: it holds files open."""

    def __init__(self, iteration: Path, metadata: Metadata) -> None:
        self._iteration, self._metadata = iteration, metadata
        self._files = ReadFiles()
        self._pieces: dict[str, dict[tuple[int, ...] | None, StoredPiece]] = {}
        for piece in metadata.pieces:
            if piece.transformed and piece.key in metadata.tensors:
                what = f"{piece.key[:100]} is stored compressed or encrypted, which cannot be read here"
                raise CheckFailed(what, where=printable(iteration / piece.file))
            self._pieces.setdefault(piece.key, {})[piece.place] = piece

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *problem: object) -> None:
        self._files.__exit__(*problem)

    def rows(self, key: str, *, vectors: bool = False) -> RowReader:
        """A reader of one tensor. vectors: its last dimension holds rows of one number each."""
        tensor = self._metadata.tensors[key]
        return RowReader(self._iteration, self._files, tensor, self._pieces[key], vectors=vectors)
