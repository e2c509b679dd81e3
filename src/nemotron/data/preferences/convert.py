"""Files of preference data of any type to `preference_jsonl`, and from there to any type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from nemotron.data.hub import CHUNK, Hub, Place, hub_chunks, hub_rows, json_object
from nemotron.data.rowwise import Done, RowMaker, RowWork, Split, convert_files, rows_of, write_rows
from nemotron.data.stream.blocks import Block, blocks_of
from nemotron.data.stream.parallel import map_blocks, written_here
from nemotron.data.stream.rows import Rejected
from nemotron.data.stream.sources import find_sources

from .formats import Format, find_format
from .pair import Judged, Pair, Row, pair_row
from .unpaired import Pairing

TYPE = "preference_jsonl"


@dataclass(frozen=True)
class PairRows:
    """The rows of `preference_jsonl` that a row of `format` becomes."""

    format: Format

    @property
    def sound(self) -> bool:
        """Whether they need no check."""
        return self.format.sound

    def __call__(self, row: Row) -> tuple[Row, ...] | Rejected:
        found = self.format.read(row)
        if isinstance(found, Rejected):
            return found
        return tuple([pair_row(item) for item in found if type(item) is Pair])


@dataclass(frozen=True)
class FormatRows:
    """The rows of `format` that a row of `preference_jsonl` becomes."""

    format: Format

    def __call__(self, row: Row) -> tuple[Row, ...] | Rejected:
        name = "PreferenceDataset" if "completions" in row else "BinaryPreferenceDataset"
        found = find_format(name).read(row)
        if isinstance(found, Rejected):
            return found
        assert isinstance(found[0], Pair)
        return self.format.write(found[0])


@dataclass
class _JudgedDone(Done):
    judged: list[tuple[int, Judged]] = field(default_factory=list)


@dataclass(frozen=True)
class _JudgedWork:
    format: Format

    def __call__(self, block: Block) -> _JudgedDone:
        done = _JudgedDone(block.source.name)
        for line, row in rows_of(block, done):
            self.take(row, line, done)
        return done

    def objects(self, place: Place, hub: Hub | None) -> Iterator[_JudgedDone]:
        """The same of a data set on the hub."""
        line = 0
        for chunk in hub_chunks(place, hub):
            done = _JudgedDone(place.path, len(chunk))
            for given in chunk:
                line += 1
                row = json_object(given, done.tally, done.file, line)
                if row is not None:
                    self.take(row, line, done)
            yield done

    def take(self, row: Row, line: int, done: _JudgedDone) -> None:
        """Add what a row becomes."""
        found = self.format.read(row)
        if isinstance(found, Rejected):
            done.tally.leave_out(found, done.file, line)
        else:
            done.judged += [(line, item) for item in found if isinstance(item, Judged)]


def convert_preferences(
    inputs: str | Sequence[str] | Place,
    format: Format,
    places: Mapping[str, Path],
    *,
    split: Split,
    assume_label: bool | None = None,
    workers: int | None = None,
    hub: Hub | None = None,
) -> dict[str, Any]:
    """Write rows as `preference_jsonl`, and return the report: see `rowwise.convert_files`.

    inputs: files, or a place on the hub, which `hub` loads. Of a type whose rows have one answer each, two
    answers to one prompt become a pair, one wanted and one not. assume_label: what an answer without a label
    counts as; None leaves it out.
    """
    keyed = split.share > 0
    work = RowWork(PairRows(format), TYPE, asked, keyed=keyed, dedupe=split.dedupe)
    judged = _JudgedWork(format)
    if isinstance(inputs, Place):
        names = [inputs.path]
        if format.paired:
            return write_rows(written_here(hub_rows(inputs, work, hub)), (), places, split, names)
        blocks = judged.objects(inputs, hub)
    elif format.paired:
        return convert_files(inputs, work, places, split=split, workers=workers)
    else:
        sources = find_sources(inputs)
        names = [source.name for source in sources]
        blocks = map_blocks(judged, blocks_of(sources), workers=workers)
    with Pairing(assume_label) as pairing:
        pairs = _paired(blocks, pairing, RowWork(_as_is, TYPE, asked, keyed=keyed, dedupe=split.dedupe))
        return write_rows(written_here(pairs), (), places, split, names)


def export_preferences(
    source: Path, format: Format, place: Path, *, workers: int | None = None
) -> dict[str, Any]:
    """Write a file of `preference_jsonl` as rows of `format`, and return the report."""
    work = RowWork(FormatRows(format), None, asked, keyed=False)
    return convert_files(str(source), work, {"export": place}, split=Split(output="export"), workers=workers)


def asked(row: Row) -> Any:
    """What a preference is about: the context."""
    return row.get("context")


def _as_is(row: Row) -> tuple[Row, ...]:
    return (row,)


def _paired(blocks: Iterator[_JudgedDone], pairing: Pairing, work: RowWork) -> Iterator[Done]:
    for block in blocks:
        for line, judged in block.judged:
            refused = pairing.add(judged, block.file, line)
            if refused:
                block.tally.leave_out(refused, block.file, line)
        yield Done(block.file, block.rows_in, tally=block.tally)
    for file, found in groupby(pairing.pairs(), key=itemgetter(0)):
        while some := list(islice(found, CHUNK)):
            maker = RowMaker(work, file)
            for _, line, item in some:
                if isinstance(item, Rejected):
                    maker.done.tally.leave_out(item, file, line)
                else:
                    maker.take(pair_row(item), line)
            yield maker.end()
