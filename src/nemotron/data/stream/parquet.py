"""Rows of a Parquet file as lines of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nemotron.errors import UsageError

from .jsontext import codec
from .sources import Source, damaged

_ROWS = 64


def parquet_lines(source: Source, size: int) -> Iterator[bytes]:
    """The rows as lines of JSON, some in each piece; no piece but a single row is longer than `size` bytes.

    A struct has every field in every row: what is null is taken for absent, at every depth. `CheckFailed` for
    a damaged file and for a column that JSON cannot say (binary data, decimals).
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        what = f"Parquet files need the package pyarrow: {exc}"
        raise UsageError(what, next="pip install pyarrow") from exc
    dumps, held, length = codec()[1], list[bytes](), 0
    try:
        with pq.ParquetFile(source.path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    line = dumps(without_nulls(row)) + b"\n"
                    if held and length + len(line) > size:
                        yield b"".join(held)
                        held, length = [], 0
                    held.append(line)
                    length += len(line)
    except (pa.ArrowException, OSError) as exc:
        raise damaged(source, str(exc)) from exc
    except (TypeError, ValueError) as exc:
        raise damaged(source, f"a value that JSON cannot say: {exc}") from exc
    if held:
        yield b"".join(held)


def without_nulls(value: Any) -> Any:
    """A value without the nulls that stand for keys which a column has and a row has not."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
