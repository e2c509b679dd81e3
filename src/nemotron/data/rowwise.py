"""Rows in, rows out, each by itself: what the steps that convert rows have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from nemotron.artifacts.checks.rows import ROW_TYPES, shape_of
from nemotron.artifacts.checks.tools import ToolWatch
from nemotron.errors import CheckFailed

from .fields import RefusedRowError
from .stream.blocks import Block, blocks_of
from .stream.jsontext import codec, exact_loads
from .stream.keys import KeyCounts, key_of, share_of
from .stream.outputs import Outputs
from .stream.parallel import map_blocks
from .stream.rows import Rejected, parse_row
from .stream.sources import find_sources
from .stream.tally import Tally

Row: TypeAlias = dict[str, Any]


class Noted(NamedTuple):
    """A row that was changed on the way, and what was done, to be counted."""

    row: Row
    note: str


# What one row becomes; it raises `RefusedRowError` or returns `Rejected` where it becomes nothing.
Convert: TypeAlias = Callable[[Row], Iterable[Row | Noted] | Rejected]

_DUPLICATE = Rejected("duplicate", "the same as an earlier row")
# An integer of so many digits may not fit 64 bits, and the fast reader would make a float of it. To look for
# them among marks is five times as fast as a regular expression.
_MARKS = bytes(48 if 48 <= byte < 58 else 120 for byte in range(256))
_HUGE = b"0" * 19


class Written(NamedTuple):
    """A row of an output. key: of what it asks; whole: of all of it, 0 where nobody asks."""

    line: int
    data: bytes
    key: int
    whole: int


@dataclass
class Done:
    """What became of a block.

    rows_in: its lines, blank ones and what is no row included. joined: number and bytes of the rows, in
    place of `written` where nobody looks at each.
    """

    file: str
    rows_in: int = 0
    written: list[Written] = field(default_factory=list)
    joined: tuple[int, bytes] = (0, b"")
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class RowWork:
    """The work on a block: `convert` for each row, and whether the result is what its type says.

    type: of the rows that come out; one with an error that the check of the type knows is left out under
    that name; None for rows of no type. asked: the part of a row that says what is asked. keyed: whether
    anybody needs to know which rows ask the same; dedupe: which are the same. fatal: warnings of the check
    that leave a row out too.
    """

    convert: Convert
    type: str | None
    asked: Callable[[Row], Any]
    keyed: bool = True
    dedupe: bool = False
    fatal: frozenset[str] = frozenset()

    def __call__(self, block: Block) -> Done:
        done, watch = Done(block.source.name), ToolWatch()
        for line, row in rows_of(block, done):
            self.take(row, line, done, watch)
        if not (self.keyed or self.dedupe):
            done.joined = len(done.written), b"".join([row.data + b"\n" for row in done.written])
            done.written = []
        return done

    def take(self, row: Row, line: int, done: Done, watch: ToolWatch) -> None:
        """Add what a row becomes. watch: one for many rows, which often have the same tools."""
        dumps = codec()[1]
        for result in self._converted(row, watch):
            if isinstance(result, Rejected):
                done.tally.leave_out(result, done.file, line)
                continue
            if isinstance(result, Noted):
                done.tally.notes[result.note] += 1
                result = result.row
            data = dumps(result)
            key = key_of(dumps(self.asked(result))) if self.keyed else 0
            done.written.append(Written(line, data, key, key_of(data) if self.dedupe else 0))

    def _converted(self, row: Row, watch: ToolWatch) -> Iterator[Row | Noted | Rejected]:
        try:
            results = self.convert(row)
            if isinstance(results, Rejected):
                yield results
                return
            for result in results:
                row = result.row if isinstance(result, Noted) else result
                yield (refused_by(row, self.type, watch, self.fatal) if self.type else None) or result
        except RefusedRowError as refused:
            yield refused.rejected


def rows_of(block: Block, done: Done) -> Iterator[tuple[int, Row]]:
    """The rows of a block with the numbers of their lines; lines without a row are counted in `done`."""
    loads = codec()[0]
    tally, name = done.tally, done.file
    if block.too_long:
        what = f"a line of {block.too_long:,} bytes, not read"
        tally.leave_out(Rejected("line_too_long", what), name, block.first_line)
        done.rows_in += 1
    for number, line in enumerate(block.lines(), start=block.first_line):
        done.rows_in += 1
        if not line.strip():
            tally.leave_out(Rejected("blank_line", "a blank line"), name, number)
            continue
        row = parse_row(line, exact_loads if _HUGE in line.translate(_MARKS) else loads)
        if isinstance(row, Rejected):
            tally.leave_out(row, name, number)
        else:
            yield number, row


def refused_by(
    row: Row, type_name: str, watch: ToolWatch, fatal: frozenset[str] = frozenset()
) -> Rejected | None:
    """The first error, or warning in `fatal`, that the check of an artifact type finds in a row.

    watch: used for many rows; what it tells of rows among each other is a warning, and none of our business.
    """
    shapes = ROW_TYPES[type_name]
    shape = shape_of(row, shapes)
    if shape is None:
        return Rejected("missing_field", f"the row has {', '.join(list(row)[:6]) or 'no keys'}"[:120])
    for problem in shape.problems(row, watch):
        if problem.severity == "error" or problem.id in fatal:
            return Rejected(problem.id.removeprefix("data."), problem.message)
    return None


@dataclass
class Split:
    """Puts rows in their outputs: duplicates away, and a share of what is asked apart.

    share: of validation, from 0 to 1. Rows that ask the same are on the same side, wherever they stand.
    """

    share: float = 0.0
    seed: int = 0
    dedupe: bool = False
    # A row that asks what an earlier one asked is left out too.
    one_per_prompt: bool = False
    output: str = "rows"
    _seen: KeyCounts = field(default_factory=KeyCounts)

    def output_of(self, row: Written, apart: bool) -> str | Rejected:
        """The name of the output, `output` or `validation`. apart: it comes from the validation inputs."""
        if self.one_per_prompt and self._seen.add(row.key):
            return Rejected("duplicate_prompt", "it asks what an earlier row asks")
        if self.dedupe and not self.one_per_prompt and self._seen.add(row.whole):
            return _DUPLICATE
        drawn = self.share and share_of(row.key, self.seed) < self.share
        return "validation" if apart or drawn else self.output


def convert_files(
    inputs: str | Sequence[str],
    work: Callable[[Block], Done],
    places: Mapping[str, Path],
    *,
    split: Split,
    validation: str | Sequence[str] = (),
    workers: int | None = None,
) -> dict[str, Any]:
    """Convert the rows of files, and return the report.

    inputs, validation: see `find_sources`. places: of `rows`, and of `validation` where `split` has a share
    or there are inputs for it. They appear together when all is done, and not at all when no row is left
    (`CheckFailed`).
    """
    sources = find_sources(inputs)
    apart = find_sources(validation) if validation else ()
    done = map_blocks(work, blocks_of(sources), workers=workers)
    done_apart = map_blocks(work, blocks_of(apart), workers=workers)
    names = [source.name for source in (*sources, *apart)]
    return write_rows(done, done_apart, places, split, names)


def write_rows(
    rows: Iterable[Done],
    validation: Iterable[Done],
    places: Mapping[str, Path],
    split: Split,
    names: Sequence[str],
) -> dict[str, Any]:
    """Write what was converted, as `convert_files`, which see. names: of the inputs."""
    tally, counts, rows_in = Tally(), dict.fromkeys(places, 0), 0
    with Outputs(places) as outputs:
        for done, apart in chain(zip(rows, repeat(False)), zip(validation, repeat(True))):
            tally.add(done.tally)
            rows_in += done.rows_in
            count, data = done.joined
            if count:
                name = "validation" if apart else split.output
                outputs.write(name, data)
                counts[name] += count
                tally.kept += count
            for row in done.written:
                found = split.output_of(row, apart)
                if isinstance(found, Rejected):
                    tally.leave_out(found, done.file, row.line)
                    continue
                outputs.write(found, row.data + b"\n")
                counts[found] += 1
                tally.kept += 1
        refuse_nothing(tally, names)
        outputs.publish()
    return report_of(tally, rows_in, counts, names)


def refuse_nothing(tally: Tally, names: Sequence[str]) -> None:
    """Raise `CheckFailed` where no row is left, with the reasons."""
    if not tally.rows:
        raise CheckFailed("no row in the input", where=", ".join(names))
    if not tally.kept:
        what = "\n".join(["no row is left", *tally.render("all")[1:]])
        raise CheckFailed(what, where=", ".join(names))


def report_of(tally: Tally, rows_in: int, counts: Mapping[str, int], names: Sequence[str]) -> dict[str, Any]:
    """The report of a conversion, to be kept beside its outputs."""
    return {"inputs": list(names), "rows_in": rows_in, "outputs": dict(counts), **tally.as_dict()}


def report_text(report: Mapping[str, Any]) -> str:
    """The report as the terminal shows it."""
    written = ", ".join(f"{rows:,} {name}" for name, rows in report["outputs"].items())
    lines = [f"{report['rows_in']:,} rows in; written: {written}"]
    for reason, left in report["left_out"].items():
        lines.append(f"  {left['rows']:>9,}  left out: {reason}")
        lines += [f"{'':>13}{e['file']}:{e['line']}: {e['what']}" for e in left["examples"]]
    lines += [f"  {rows:>9,}  {note}" for note, rows in report["notes"].items()]
    return "\n".join(lines)
