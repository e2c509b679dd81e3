"""What every stub carries, so that nobody takes it for data or for a model."""

from pathlib import Path

MARK = "nemotron_stub"
"""Key of a row, of a config, of metadata: whatever the format allows."""

NOTE_FILE = "_NEMOTRON_STUB"
"""Lies in every directory that a stub run made. Readers of Parquet directories pass over names with `_`."""

NOTE = f"{MARK}: written by a run with --stub, without a trainer. It is valid in form and means nothing.\n"
# Where a mark stands in a file of one row; a file of real data is not searched.
_HEAD = 64 << 10


def is_stub(path: Path) -> bool:
    """Whether a stub run left the file or directory; false for what cannot be read."""
    try:
        if path.is_dir():
            return (path / NOTE_FILE).is_file() or any((p / NOTE_FILE).is_file() for p in path.parents[:2])
        with path.open("rb") as file:
            return MARK.encode() in file.read(_HEAD)
    except OSError:
        return False
