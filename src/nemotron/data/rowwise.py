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
from .sound import sound_test
from .stream.blocks import Block, blocks_of
from .stream.digits import holds_huge, may_hold_huge
from .stream.held import Held, Span, extend
from .stream.jsontext import TooDeepError, codec, exact_loads
from .stream.keys import KeyCounts, key_of, share_of
from .stream.outputs import Outputs
from .stream.parallel import map_blocks
from .stream.rows import TOO_DEEP, Rejected, parse_row
from .stream.sources import find_sources
from .stream.tally import Tally

Row: TypeAlias = dict[str, Any]


class Noted(NamedTuple):
    """A row that was changed on the way, and what was done, to be counted."""

    row: Row
    note: str


# What one row becomes; it raises `RefusedRowError` or returns `Rejected` where it becomes nothing. With an
# attribute `sound` that is true, what it becomes has by its making no error that the check of its type knows,
# and is not looked at again.
Convert: TypeAlias = Callable[[Row], Iterable[Row | Noted] | Rejected]

_DUPLICATE = Rejected("duplicate", "the same as an earlier row")
# Under which name a result holds its rows.
ROWS = "rows"


class Written(NamedTuple):
    """A row of an output. begin, end: where it stands, line end included, among the rows of its block. key:
    of what it asks; whole: of all of it, 0 where nobody asks.
    """

    line: int
    begin: int
    end: int
    key: int
    whole: int


@dataclass
class Done(Held):
    """What became of a block; `ROWS` holds the rows, each with its line end.

    rows_in: its lines, blank ones and what is no row included. count: of the rows that are held. written:
    each of them, where somebody looks at each.
    """

    file: str
    rows_in: int = 0
    count: int = 0
    written: list[Written] = field(default_factory=list)
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
        maker = RowMaker(self, block.source.name)
        for line, row in rows_of(block, maker.done):
            maker.take(row, line)
        return maker.end()


class RowMaker:
    """Takes the rows of one block, one after the other."""

    def __init__(self, work: RowWork, file: str) -> None:
        self.done = Done(file)
        self._work = work
        self._rows: list[bytes] = []
        self._end = 0
        self._each = work.keyed or work.dedupe
        # Many rows often have the same tools. What rows say of each other is a warning, and not asked here.
        self._watch = ToolWatch(compare=False)
        self._checked = work.type is not None and not getattr(work.convert, "sound", False)
        self._is_sound = sound_test(work.type)
        self._convert = work.convert
        self._dumps = codec()[1]

    def take(self, row: Row, line: int) -> None:
        """Add what a row becomes."""
        try:
            results = self._convert(row)
            if type(results) is Rejected:
                return self._leave_out(results, line)
            for result in results:
                self._add(result, line)  # type: ignore[arg-type]
        except RefusedRowError as refused:
            self._leave_out(refused.rejected, line)
        except (TooDeepError, RecursionError):
            self._leave_out(TOO_DEEP, line)

    def _add(self, result: Row | Noted, line: int) -> None:
        work = self._work
        row = result.row if type(result) is Noted else result
        if self._checked and not self._is_sound(row):  # type: ignore[arg-type]
            assert work.type is not None
            refused = refused_by(row, work.type, self._watch, work.fatal)  # type: ignore[arg-type]
            if refused is not None:
                return self._leave_out(refused, line)
        data = self._dumps(row)
        key = key_of(self._dumps(work.asked(row))) if work.keyed else 0  # type: ignore[arg-type]
        if type(result) is Noted:
            self.done.tally.notes[result.note] += 1
        self._rows.append(data)
        if self._each:
            begin, self._end = self._end, self._end + len(data) + 1
            whole = key_of(data) if work.dedupe else 0
            self.done.written.append(Written(line, begin, self._end, key, whole))

    def _leave_out(self, why: Rejected, line: int) -> None:
        self.done.tally.leave_out(why, self.done.file, line)

    def end(self) -> Done:
        """What became of all of them."""
        self._rows.append(b"")  # for the last line end
        self.done.count = len(self._rows) - 1
        self.done.held[ROWS] = b"\n".join(self._rows)
        return self.done


def rows_of(block: Block, done: Done) -> Iterator[tuple[int, Row]]:
    """The rows of a block with the numbers of their lines; lines without a row are counted in `done`."""
    loads = codec()[0]
    tally, name = done.tally, done.file
    if block.too_long:
        what = f"a line of {block.too_long:,} bytes, not read"
        tally.leave_out(Rejected("line_too_long", what), name, block.first_line)
        done.rows_in += 1
    data = block.read()
    huge = may_hold_huge(data)
    number = block.first_line - 1
    for number, line in enumerate(block.lines(data), start=block.first_line):
        row = parse_row(line, exact_loads if huge and holds_huge(line) else loads)
        if type(row) is dict:
            yield number, row
        elif not line.strip():
            tally.leave_out(Rejected("blank_line", "a blank line"), name, number)
        else:
            assert isinstance(row, Rejected)
            tally.leave_out(row, name, number)
    done.rows_in += number - block.first_line + 1


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

    inputs, validation: see `find_sources`. workers: see `map_blocks`. places: of `rows`, and of `validation`
    where `split` has a share or there are inputs for it. They appear together when all is done, and not at
    all when no row is left (`CheckFailed`).
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
    """Write what was converted, as `convert_files`, which see. names: of the inputs.

    rows, validation: of `map_blocks` or `written_here`.
    """
    tally, counts, rows_in = Tally(), dict.fromkeys(places, 0), 0
    with Outputs(places) as outputs:
        for done, apart in chain(zip(rows, repeat(False)), zip(validation, repeat(True))):
            if done.count and not done.written:
                name = "validation" if apart else split.output
                outputs.take(name, done, ROWS)
                counts[name] += done.count
            for name, kept in _chosen(done, split, apart, counts).items():
                outputs.take(name, done, ROWS, kept)
            tally.add(done.tally)
            rows_in += done.rows_in
        tally.kept = sum(counts.values())
        refuse_nothing(tally, names)
        outputs.publish()
    return report_of(tally, rows_in, counts, names)


def _chosen(done: Done, split: Split, apart: bool, counts: dict[str, int]) -> dict[str, list[Span]]:
    """Which of the rows that somebody looks at go where; they are counted."""
    spans: dict[str, list[Span]] = {}
    for row in done.written:
        found = split.output_of(row, apart)
        if isinstance(found, Rejected):
            done.tally.leave_out(found, done.file, row.line)
        else:
            extend(spans.setdefault(found, []), row.begin, row.end)
            counts[found] += 1
    return spans


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
