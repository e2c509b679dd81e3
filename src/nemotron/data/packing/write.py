"""Chats to `packed_parquet`: shards of rows of tokens, each row several conversations."""

from __future__ import annotations

import mmap
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from nemotron.artifacts.atomic import TEMPORARY_SUFFIX, os_error
from nemotron.artifacts.checks.tools import ToolWatch
from nemotron.data.fields import RefusedRowError, refuse
from nemotron.data.rowwise import Done, refuse_nothing, refused_by, rows_of
from nemotron.data.stream.blocks import Block, blocks_of
from nemotron.data.stream.parallel import map_blocks
from nemotron.data.stream.sources import find_sources
from nemotron.data.stream.tally import Tally
from nemotron.errors import UsageError, nearest

from .bins import best_fit, mixed
from .tokens import ChatTokens

# Blocks are small: a row of text takes a hundred times the work of a row that is copied.
_BLOCK_BYTES = 1 << 18
_ROW_GROUP_TOKENS = 1 << 21


@dataclass(frozen=True)
class PackOptions:
    """pack_size: tokens of a packed row. too_long: what becomes of a conversation that has more of them,
    `leave_out` or `truncate`. shard_rows: packed rows of a file. seed: draws their order.
    """

    pack_size: int = 4096
    too_long: str = "leave_out"
    shard_rows: int = 10_000
    seed: int = 0

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> PackOptions:
        """The options a config gives. Raises `UsageError` for one that there is not."""
        known = [option.name for option in fields(cls)]
        for key in keys:
            if key not in known:
                near = nearest(key, known)
                raise UsageError(f"no option {key}", where=f"packing.{key}", nearest=near, valid=known)
        return cls(**keys)

    def __post_init__(self) -> None:
        if self.too_long not in ("leave_out", "truncate"):
            valid = ("leave_out", "truncate")
            raise UsageError(f"no way {self.too_long!r:.40}", where="packing.too_long", valid=valid)
        for name in ("pack_size", "shard_rows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} is {value!r:.40}, not a number above 0", where=f"packing.{name}")


class _Packed(NamedTuple):
    line: int
    ids: bytes
    mask: bytes


@dataclass
class _TokensDone(Done):
    sequences: list[_Packed] = field(default_factory=list)


@dataclass
class _TokensWork:
    tokens: ChatTokens
    options: PackOptions

    def __call__(self, block: Block) -> _TokensDone:
        done, watch = _TokensDone(block.source.name), ToolWatch()
        for line, row in rows_of(block, done):
            try:
                self._take(row, line, done, watch)
            except RefusedRowError as refused:
                done.tally.leave_out(refused.rejected, done.file, line)
        return done

    def _take(self, row: dict[str, Any], line: int, done: _TokensDone, watch: ToolWatch) -> None:
        refused = refused_by(row, "training_jsonl", watch)
        if refused:
            raise RefusedRowError(refused)
        made, size = self.tokens.sequence(row), self.options.pack_size
        # Of the token after each place; nothing predicts the first.
        ids, mask = made.ids, made.mask[1:] + b"\0"
        if len(ids) > size:
            if self.options.too_long == "leave_out":
                refuse("too_long", f"{len(ids):,} tokens, more than pack_size {size:,}")
            ids, mask = ids[:size], mask[: size - 1] + b"\0"
            if 1 not in mask:
                refuse("too_long", f"no answer within the first {size:,} tokens")
            done.tally.notes["cut to pack_size"] += 1
        for note in made.notes:
            done.tally.notes[note] += 1
        done.sequences.append(_Packed(line, ids.tobytes(), mask))


class _Spilled:
    """Sequences on disk, four bytes a token and one for its mask, found by number."""

    def __init__(self, directory: Path) -> None:
        # Without a name from the start: whatever ends this process, nothing is left of it.
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by `close`
        self.lengths = array("I")
        self._begins = array("Q")
        self._size = 0
        self.trained = 0

    def add(self, sequence: _Packed) -> None:
        self._file.write(sequence.ids)
        self._file.write(sequence.mask)
        self._begins.append(self._size)
        self.lengths.append(len(sequence.mask))
        self._size += len(sequence.ids) + len(sequence.mask)
        self.trained += sequence.mask.count(1)

    def rows(self, packed: list[array[int]]) -> Iterator[tuple[array[int], bytes, list[int]]]:
        """Tokens, mask and the places where sequences begin, of each packed row."""
        self._file.flush()
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            for numbers in packed:
                ids, mask, starts = array("i"), bytearray(), []
                for number in numbers:
                    begin, length = self._begins[number], self.lengths[number]
                    starts.append(len(ids))
                    ids.frombytes(held[begin : begin + 4 * length])
                    mask += held[begin + 4 * length : begin + 5 * length]
                yield ids, bytes(mask), starts

    def close(self) -> None:
        self._file.close()


def pack_chats(
    inputs: str,
    place: Path,
    tokens: ChatTokens,
    options: PackOptions,
    identity: Mapping[str, str | int],
    *,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the conversations of files as a directory of Parquet shards, and return the report.

    Columns as Megatron-Bridge reads them: `input_ids`, `loss_mask` (1 where the next token of the
    conversation is to be predicted) and `seq_start_id` (where each conversation of the row begins). identity:
    `tokenizer_digest`, `chat_template_digest`, `tokenizer_size` of the tokenizer, written into every file.
    The directory appears when all is done, in place of the one before; memory holds 20 bytes for each
    conversation, the tokens are on disk.
    """
    sources = find_sources(inputs)
    names = [source.name for source in sources]
    _ = tokens.ready
    tally, rows_in = Tally(), 0
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        spilled = _Spilled(place.parent)
    except OSError as exc:
        raise os_error(exc, place.parent) from exc
    try:
        work = _TokensWork(tokens, options)
        for done in map_blocks(work, blocks_of(sources, block_bytes=_BLOCK_BYTES), workers=workers):
            tally.add(done.tally)
            rows_in += done.rows_in
            for sequence in done.sequences:
                spilled.add(sequence)
                tally.kept += 1
        refuse_nothing(tally, names)
        packed = mixed(best_fit(spilled.lengths, options.pack_size), options.seed)
        files = _publish(place, spilled, packed, options, identity)
    except OSError as exc:
        raise os_error(exc, place) from exc
    finally:
        spilled.close()
    count = sum(spilled.lengths)
    return {
        "inputs": names,
        "rows_in": rows_in,
        "outputs": {"packed": len(packed)},
        **tally.as_dict(),
        "packing": {
            "files": files,
            "pack_size": options.pack_size,
            "sequences": len(spilled.lengths),
            "tokens": count,
            "trained_tokens": spilled.trained,
            "longest": max(spilled.lengths),
            "efficiency": round(count / (len(packed) * options.pack_size), 4),
        },
    }


def _publish(
    place: Path,
    spilled: _Spilled,
    packed: list[array[int]],
    options: PackOptions,
    identity: Mapping[str, str | int],
) -> int:
    """Write the shards into a directory beside `place` and put it there. Returns their number."""
    if place.exists() and not place.is_dir():
        raise UsageError("a file stands where the directory of shards should be", where=str(place))
    new = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name[:40]}.", suffix=TEMPORARY_SUFFIX))
    try:
        new.chmod(0o777 & ~_umask())
        starts = range(0, len(packed), options.shard_rows)
        for index, start in enumerate(starts):
            some = packed[start : start + options.shard_rows]
            _write_shard(new / f"shard_{index:06d}.parquet", spilled.rows(some), options, identity)
        old = new.with_name(f"{new.name}.old{TEMPORARY_SUFFIX}")
        if place.is_dir():
            place.rename(old)
        new.rename(place)
        shutil.rmtree(old, ignore_errors=True)
        return len(starts)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _umask() -> int:
    import os

    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _write_shard(
    path: Path,
    rows: Iterator[tuple[array[int], bytes, list[int]]],
    options: PackOptions,
    identity: Mapping[str, str | int],
) -> None:
    pa, pq = _pyarrow()
    told = {**identity, "pack_size": options.pack_size}
    metadata = {f"nemotron.{key}": str(value) for key, value in told.items()}
    columns = {"input_ids": pa.int32(), "loss_mask": pa.uint8(), "seq_start_id": pa.int32()}
    schema = pa.schema([(name, pa.list_(item)) for name, item in columns.items()], metadata=metadata)
    with path.open("wb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            held: list[tuple[array[int], bytes, list[int]]] = []
            count = 0
            for row in rows:
                held.append(row)
                count += len(row[0])
                if count >= _ROW_GROUP_TOKENS:
                    writer.write_table(_table(pa, held, schema))
                    held, count = [], 0
            if held:
                writer.write_table(_table(pa, held, schema))
        file.flush()
        _sync(file.fileno())


def _sync(descriptor: int) -> None:
    import os

    os.fsync(descriptor)


def _table(pa: Any, rows: list[tuple[array[int], bytes, list[int]]], schema: Any) -> Any:
    """The rows as Arrow, their tokens in one buffer and not a Python object each."""

    def lists(parts: list[Any], kind: Any, code: str) -> Any:
        ends, values = array("i", (0,)), bytearray()
        for part in parts:
            data = part if isinstance(part, bytes) else array(code, part).tobytes()
            values += data
            ends.append(len(values) // array(code).itemsize)
        items = pa.Array.from_buffers(kind, ends[-1], [None, pa.py_buffer(bytes(values))])
        offsets = pa.Array.from_buffers(pa.int32(), len(ends), [None, pa.py_buffer(ends.tobytes())])
        return pa.ListArray.from_arrays(offsets, items)

    columns = [
        lists([ids for ids, _, _ in rows], pa.int32(), "i"),
        lists([mask for _, mask, _ in rows], pa.uint8(), "B"),
        lists([starts for _, _, starts in rows], pa.int32(), "i"),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise UsageError(f"packing needs the package pyarrow: {exc}", next="pip install pyarrow") from exc
    return pa, pq
