"""A lineage as a tree of text: the artifact, what made it, and what it was used for."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from nemotron.artifacts.lineage import ArtifactNode, Edge, Lineage, RunNode
from nemotron.artifacts.paths import printable
from nemotron.artifacts.views.graph import Graph
from nemotron.artifacts.views.wording import (
    ELLIPSIS,
    artifact_title,
    duration_text,
    headline,
    moment_text,
    short_id,
    shorten,
    size_text,
)

FORK, LAST, PIPE, BLANK = "\u251c\u2500 ", "\u2514\u2500 ", "\u2502  ", "   "
NARROWEST = 40  # columns; what is narrower gets lines of this width
_ROOM = 24  # columns of a line that its prefix never takes
_DEEPEST = 300  # columns of a prefix where lines may have any width
_LONGEST = 1000  # characters of one name: a hostile one is no reason to print pages
_SHORT = 100  # of what is short by nature

_CODES = {"bold": "1", "dim": "2", "red": "1;31", "yellow": "33", "cyan": "36"}
_STATES = {"failed": "red", "interrupted": "yellow", "running": "cyan"}

Words = list[tuple[str, str]]  # text, and a style or ""


@dataclass(frozen=True)
class _Line:
    """A line that is yet to be told, with what hangs off it.

    hangs: it hangs off the line above (an input on the way up, a run on the way down); else it is a part of
    that (the run that made it, what the run made).
    """

    edge: Edge
    prefix: str
    hangs: bool
    last: bool = False


@dataclass(frozen=True)
class _Told:
    prefix: str
    words: Words


def tree_text(lineage: Lineage, *, up: bool, down: bool, width: int, color: bool) -> str:
    """What `nemotron artifacts lineage` prints: the focus, what made it (`up`), what used it (`down`).

    Each artifact and each run is told of once; later mentions end with `(above)`. width: columns that a line
    may take, 0 for any number. color: with ANSI codes. The text has no newline at its end.
    """
    tree = _Tree(Graph.of(lineage))
    lines = [_fitted(each, width, color) for each in tree.focus()]
    for wanted, side in ((up, True), (down, False)):
        if wanted:
            lines += ["", *(_fitted(each, width, color) for each in tree.side(up=side))]
    return "\n".join(lines)


class _Tree:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._lineage = graph.lineage
        self._tainted_by = graph.tainted_by()
        self._cut = frozenset(graph.lineage.cut)
        self._told: set[tuple[str, str]] = {("artifact", graph.lineage.focus)}

    def focus(self) -> Iterator[_Told]:
        """The artifact itself."""
        node = self._lineage.artifacts[self._lineage.focus]
        first: Words = [(shorten(artifact_title(node), _LONGEST), "bold")]
        if len(node.names) > 1:
            first.append((f"({', '.join(_plain(n, _SHORT) for n in node.names[1:])})", ""))
        yield _Told("", [*first, (_plain(node.type or "unknown type", _SHORT), "")])
        if node.tainted is not None:
            yield _Told("  ", [(f"TAINTED: {_plain(node.tainted)}", "red")])
        elif node.id in self._tainted_by:
            origin = self._lineage.artifacts[self._tainted_by[node.id]]
            why = f"{artifact_title(origin)}: {_plain(origin.tainted or '')}"
            yield _Told("  ", [(f"DESCENDS FROM TAINTED {shorten(why, _LONGEST)}", "red")])
        yield _Told("  ", [(_plain(node.id), "")])
        for path in node.paths:
            yield _Told("  ", [(_plain(path), "")])
        facts = [f for f in (moment_text(node.at), size_text(node.bytes), *_counts(node)) if f]
        if facts:
            yield _Told("  ", [(", ".join(facts), "")])

    def side(self, *, up: bool) -> Iterator[_Told]:
        """All that is on one side of the focus."""
        focus = self._lineage.focus
        if not (self._graph.makers if up else self._graph.users).get(focus) and focus not in self._cut:
            yield _Told("", [("made by no run on record" if up else "used by no run on record", "dim")])
            return
        if not up:
            yield _Told("", [("used by", "dim")])
        distance = self._graph.distance(up=up)
        # A stack of its own: a lineage may be deeper than functions may call themselves.
        todo = self._around_artifact(focus, "", up, distance)[::-1]
        while todo:
            each = todo.pop()
            if isinstance(each, _Told):
                yield each
                continue
            yield _Told(each.prefix + _branch(each), self._words(each, up))
            below = each.prefix + (BLANK if each.last else PIPE) if each.hangs else each.prefix
            is_artifact = each.hangs == up
            key = ("artifact", each.edge.artifact) if is_artifact else ("run", each.edge.run)
            if key in self._told:
                continue
            self._told.add(key)
            if is_artifact:
                todo += self._around_artifact(key[1], below, up, distance)[::-1]
            else:
                edges = (self._graph.inputs if up else self._graph.outputs).get(key[1], ())
                todo += [_Line(e, below, hangs=up, last=e is edges[-1]) for e in edges][::-1]

    def _around_artifact(
        self, artifact: str, prefix: str, up: bool, distance: dict[str, int]
    ) -> list[_Line | _Told]:
        """The runs on one side of an artifact, and whether there are more than these."""
        edges = (self._graph.makers if up else self._graph.users).get(artifact, ())
        cut = artifact in self._cut
        lines: list[_Line | _Told] = [
            _Line(e, prefix, hangs=not up, last=e is edges[-1] and not cut) for e in edges
        ]
        if cut:
            # Twice as deep as this lies shows more, whatever the limit was.
            more = f"... more {'before' if up else 'after'} this, --depth {2 * distance[artifact] or 1}"
            lines.append(_Told(prefix + LAST, [(more, "yellow")]))
        return lines

    def _words(self, each: _Line, up: bool) -> Words:
        artifact = self._lineage.artifacts[each.edge.artifact]
        run = self._lineage.runs[each.edge.run]
        port = _plain(each.edge.port, _SHORT)
        if each.hangs == up:
            words: Words = [(f"{port}:" if up else f"made {port}:", ""), *self._about_artifact(artifact)]
            return words
        name = "elsewhere" if run.state == "elsewhere" else _plain(run.id)
        if not up:
            words = [(name, "bold"), (f"as {port}", "")]
        elif run.state == "elsewhere":
            words = [("made elsewhere", "")]
        else:
            words = [("made by", ""), (name, "bold")]
        return [*words, *self._about_run(run)]

    def _about_artifact(self, node: ArtifactNode) -> Words:
        title = (shorten(artifact_title(node), _LONGEST), "bold")
        if ("artifact", node.id) in self._told:
            return [title, ("(above)", "dim")]
        words: Words = [title]
        if node.tainted is not None:
            words.append((f"TAINTED: {_plain(node.tainted, 2 * _SHORT)}", "red"))
        elif node.id in self._tainted_by:
            words.append(("of tainted descent", "red"))
        words.append((_plain(node.type or "unknown type", _SHORT), ""))
        if node.names:
            words.append((short_id(node.id), "dim"))
        size = size_text(node.bytes)
        return [*words, (size, "dim")] if size else words

    def _about_run(self, run: RunNode) -> Words:
        """State, step and the metric that counts; the state first, so that no narrow terminal hides it."""
        if ("run", run.id) in self._told:
            return [("(above)", "dim")]
        took = duration_text(run)
        state = "FAILED" if run.state == "failed" else _plain(run.state, _SHORT)
        words: Words = []
        if run.state != "elsewhere":
            how = "in" if run.state == "succeeded" else "after"
            words.append((f"{state} {how} {took}" if took else state, _STATES.get(run.state, "")))
        if run.step:
            words.append(
                (_plain(run.step, _SHORT) + (f" on {_plain(run.engine, _SHORT)}" if run.engine else ""), "")
            )
        best = headline(run.metrics)
        return [*words, (best, "dim")] if best else words


def _plain(text: str, limit: int = _LONGEST) -> str:
    return shorten(printable(text[: limit + 1]), limit)


def _branch(each: _Line) -> str:
    if not each.hangs:
        return ""
    return LAST if each.last else FORK


def _counts(node: ArtifactNode) -> Iterator[str]:
    for name in ("rows", "parameters"):
        count = node.facts.get(name)
        if isinstance(count, int):
            yield f"{count:,} {name}"


def _fitted(line: _Told, width: int, color: bool) -> str:
    """The line in at most `width` columns: of a prefix too deep the end, of words too many the beginning."""
    limit = max(width, NARROWEST) if width else None
    deepest = limit - _ROOM if limit else _DEEPEST
    prefix = line.prefix if len(line.prefix) <= deepest else ELLIPSIS + line.prefix[1 - deepest :]
    room = limit - len(prefix) if limit else None
    text = _painted(prefix, "dim") if color and prefix.strip() else prefix
    gap = ""
    for words, style in line.words:
        whole = gap + words
        if room is not None:
            whole, room = _cut_to(whole, room)
        text += _painted(whole, style) if color and style else whole
        gap = " " if words.endswith(":") or words == "made by" else "  "
        if room == 0:
            break
    return text.rstrip()


def _painted(text: str, style: str) -> str:
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def _cut_to(text: str, room: int) -> tuple[str, int]:
    """`text` or its beginning with an ellipsis, and how many of the `room` columns are left."""
    fits = taken = 0
    for number, character in enumerate(text):
        taken += _columns(character)
        if taken < room:
            fits = number + 1
        elif taken > room:
            return text[:fits] + ELLIPSIS, 0
    return text, room - taken


def _columns(character: str) -> int:
    """The columns a terminal takes for it: two for a wide one, none for one that joins another."""
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.combining(character) else 1
