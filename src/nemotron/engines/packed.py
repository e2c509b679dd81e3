"""Rows of packed sequences, whichever way their loss mask counts.

Megatron-Bridge's `loss_mask` is 1 at a position whose *next* token is to be predicted: it is shifted when
data are packed. `data_prep/sft_packing` marks the token itself, and says so by the metadata it leaves in a
file. Read the one as the other, and training begins one token late in every answer and ends one token late.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nemotron.artifacts.checks.parquet import shard_names
from nemotron.artifacts.paths import printable
from nemotron.errors import CheckFailed, NotFound, UsageError

COLUMNS = ("input_ids", "loss_mask", "seq_start_id")
# Metadata of our own packing. The first says which way the mask counts, in files that have it.
_MASK_KEY, _OURS, _NEXT = b"nemotron.loss_mask", b"nemotron.pack_size", b"next"


@dataclass(frozen=True, slots=True)
class Pack:
    """One row. mask: 1 for each token that is to be predicted itself. starts: where each sequence begins."""

    ids: Sequence[int]
    mask: Sequence[int]
    starts: Sequence[int]

    def sequences(self) -> Iterator[tuple[int, int]]:
        """First and last place (not included) of each sequence."""
        yield from pairwise((*self.starts, len(self.ids)))


def shards_of(path: Path) -> tuple[Path, ...]:
    """The Parquet files of packed data: `path`, or those in it. Raises NotFound where there are none."""
    if path.is_dir():
        found = tuple(path / name for name in shard_names(frozenset(p.name for p in path.iterdir())))
    else:
        found = (path,) if path.is_file() else ()
    if not found:
        raise NotFound("no packed data: no *.parquet there", where=printable(path))
    return found


def marks_tokens(metadata: Mapping[bytes, bytes]) -> bool:
    """Whether the mask of a file marks the tokens that are predicted, rather than the places before them."""
    if _MASK_KEY in metadata:
        return metadata[_MASK_KEY] != _NEXT
    return _OURS in metadata


def read_packs(path: Path) -> Iterator[Pack]:
    """All rows of packed data. Raises CheckFailed for a row that makes no sense, NotFound without files."""
    for shard in shards_of(path):
        with _opened(shard) as file:
            tokens = marks_tokens(file.schema_arrow.metadata or {})
            row = 0
            for group in range(file.num_row_groups):
                columns = file.read_row_group(group, columns=list(COLUMNS)).to_pydict()
                for ids, mask, starts in zip(*(columns[name] for name in COLUMNS), strict=True):
                    row += 1
                    _require_row(ids, mask, starts, f"{printable(shard)}:{row}")
                    made = Pack(ids, mask, starts)
                    yield made if tokens else Pack(ids, _of_tokens(made), starts)


def _of_tokens(pack: Pack) -> list[int]:
    """The mask of the tokens themselves, where that of the places before them is given."""
    mask = [0] * len(pack.ids)
    for first, last in pack.sequences():
        mask[first + 1 : last] = pack.mask[first : last - 1]
    return mask


def _of_places(pack: Pack) -> list[int]:
    """The other way round."""
    mask = [0] * len(pack.ids)
    for first, last in pack.sequences():
        mask[first : last - 1] = pack.mask[first + 1 : last]
    return mask


def for_megatron(source: Path, target: Path) -> Path:
    """Packed data as Megatron-Bridge reads them: `source` itself, or a copy of it at `target`.

    A copy is made shard by shard, a row group in memory at a time; `target` appears when it is whole.
    """
    shards = shards_of(source)
    if not any(_marks(shard) for shard in shards):
        return source
    if target.is_dir():
        return target
    new = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for shard in shards:
        _rewrite(shard, new / shard.name)
    new.rename(target)
    return target


def _marks(shard: Path) -> bool:
    with _opened(shard) as file:
        return marks_tokens(file.schema_arrow.metadata or {})


def _rewrite(shard: Path, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _opened(shard) as file:
        schema = file.schema_arrow
        tokens = marks_tokens(schema.metadata or {})
        schema = schema.with_metadata({**(schema.metadata or {}), _MASK_KEY: _NEXT})
        place = schema.get_field_index("loss_mask")
        with pq.ParquetWriter(str(target), schema, compression="zstd") as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                columns = table.select(list(COLUMNS)).to_pydict()
                rows = zip(*(columns[name] for name in COLUMNS), strict=True)
                masks = [_of_places(Pack(*row)) if tokens else row[1] for row in rows]
                made = pa.array(masks, type=schema.field(place).type)
                writer.write_table(table.set_column(place, schema.field(place), made).cast(schema))


def _opened(shard: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as problem:
        raise UsageError(f"packed data need pyarrow: {problem}", next="pip install pyarrow") from problem
    try:
        file = pq.ParquetFile(str(shard))
    except (OSError, pa.ArrowException) as problem:
        raise CheckFailed(f"no Parquet file: {problem}", where=printable(shard)) from problem
    missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise CheckFailed(f"no column {', '.join(missing)}", where=printable(shard), valid=COLUMNS)
    return file


def _require_row(ids: Any, mask: Any, starts: Any, where: str) -> None:
    lists = all(isinstance(each, list) for each in (ids, mask, starts))
    fits = lists and len(ids) == len(mask) and bool(ids) and bool(starts) and starts[0] == 0
    if not fits or any(a >= b for a, b in pairwise((*starts, len(ids)))):
        what = "input_ids, loss_mask and seq_start_id of this row do not fit together"
        raise CheckFailed(what, where=where, next="pack the data again")
