"""Rows of packed sequences, as `data_prep/sft_packing` writes them and Megatron-Bridge reads them.

`loss_mask` is 1 at a position whose *next* token is to be predicted: it is shifted when data are packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nemotron.artifacts.checks.parquet import shard_names
from nemotron.artifacts.paths import printable
from nemotron.errors import CheckFailed, NotFound, UsageError

COLUMNS = ("input_ids", "loss_mask", "seq_start_id")


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


def read_packs(path: Path) -> Iterator[Pack]:
    """All rows of packed data. Raises CheckFailed for a row that makes no sense, NotFound without files."""
    for shard in shards_of(path):
        with _opened(shard) as file:
            row = 0
            for group in range(file.num_row_groups):
                columns = file.read_row_group(group, columns=list(COLUMNS)).to_pydict()
                for ids, mask, starts in zip(*(columns[name] for name in COLUMNS), strict=True):
                    row += 1
                    _require_row(ids, mask, starts, f"{printable(shard)}:{row}")
                    yield Pack(ids, _of_tokens(Pack(ids, mask, starts)), starts)


def _of_tokens(pack: Pack) -> list[int]:
    """The mask of the tokens themselves, where that of the places before them is given."""
    mask = [0] * len(pack.ids)
    for first, last in pack.sequences():
        mask[first + 1 : last] = pack.mask[first : last - 1]
    return mask


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
