"""Rollout files to typed data: chats, preferences, prompts, and a report of what became of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import json_text
from nemotron.data.stream.blocks import blocks_of
from nemotron.data.stream.held import Span, extend
from nemotron.data.stream.keys import KeyCounts
from nemotron.data.stream.outputs import Outputs
from nemotron.data.stream.parallel import map_blocks
from nemotron.data.stream.rows import Rejected
from nemotron.data.stream.sources import Source, find_sources
from nemotron.data.stream.tally import Tally
from nemotron.errors import CheckFailed, UsageError

from .export import CHAT, PREFERENCES, PROMPTS, Exported, Placed, RolloutWork
from .histogram import bins_of, render_bins, summary
from .keep import Keeper
from .options import ExportOptions
from .pairs import Pairs
from .sidecars import Sidecar, sidecars_of

VALIDATION, REPORT = "validation", "report"
MAKES = (CHAT, PREFERENCES, PROMPTS)
# The document's own script warns below this.
_FEW = 100
_SPOOL = "preferences_spool"
# Rewards with more different values than this are counted by three digits.
_MANY_REWARDS = 10_000


@dataclass
class Report:
    """What became of the rows. outputs: by name; pairs are counted as rows of preferences."""

    sources: tuple[Source, ...]
    options: ExportOptions
    read: Tally = field(default_factory=Tally)
    rewards: Counter[float] = field(default_factory=Counter)
    outputs: dict[str, Tally] = field(default_factory=dict)
    validation_rows: int = 0
    sidecars: tuple[Sidecar, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As `report.json` holds it."""
        return {
            "inputs": [{"file": s.name, "kind": s.kind, "bytes": s.size} for s in self.sources],
            "failures": [sidecar.as_dict() for sidecar in self.sidecars],
            "rows": self.read.rows,
            "read": self.read.as_dict(),
            "reward": {
                **summary(self.rewards),
                "histogram": [{"from": a, "to": b, "rows": n} for a, b, n in bins_of(self.rewards)],
            },
            "outputs": {name: tally.as_dict() for name, tally in self.outputs.items()},
            "validation_rows": self.validation_rows,
            "advice": self.advice(),
        }

    def advice(self) -> list[str]:
        """What a person should look at."""
        found = []
        threshold, rewards = self.options.reward_threshold, self.rewards
        if CHAT in self.outputs and threshold is not None and rewards:
            low, high = min(rewards), max(rewards)
            if low < 0 or high > 1:
                what = f"rewards go from {low:g} to {high:g}"
                found.append(f"{what}: is a reward_threshold of {threshold:g} what you want?")
        kept = self.outputs[CHAT].kept if CHAT in self.outputs else _FEW
        if kept < _FEW and self.outputs[CHAT].left_out["reward_below_threshold"]:
            found.append(f"fewer than {_FEW} rows: a lower reward_threshold keeps more")
        return found

    def render(self) -> str:
        """As the terminal shows it."""
        lines = self.read.render("rollouts")
        lines[0] = (
            f"rollouts: {self.read.rows:,} rows read, {self.read.left_out.total():,} of them no rollouts"
        )
        lines += [sidecar.render() for sidecar in self.sidecars]
        figures = summary(self.rewards)
        if self.rewards:
            middle = f"mean {figures['mean']:.4g}, median {figures['median']:.4g}"
            lines.append(f"reward of {figures['rows']:,} rows: {middle}")
            shown = self.options.reward_threshold if CHAT in self.outputs else None
            lines += render_bins(bins_of(self.rewards), shown)
        for name, tally in self.outputs.items():
            lines += tally.render(name)
        if self.options.validation_share:
            lines.append(f"  {self.validation_rows:>9,}  (kept) of the chat rows went to {VALIDATION}")
        return "\n".join(lines + [f"look: {text}" for text in self.advice()])


class NothingKept(CheckFailed):
    """An output would have no row. report: why, with examples."""

    def __init__(self, what: str, report: Report, where: str) -> None:
        super().__init__(what, where=where, next="see the report for examples of each reason")
        self.report = report


def convert_rollouts(
    inputs: str | Sequence[str],
    places: Mapping[str, Path],
    options: ExportOptions,
    *,
    make: Sequence[str] = (CHAT,),
    workers: int | None = None,
) -> Report:
    """Write what `make` names of the rollouts in `inputs` to `places`, and a report beside it.

    inputs: files and patterns, see `find_sources`. make: of `chat`, `preferences`, `prompts`. places: where
    each of them goes, `validation` where a share of the chats is to go apart, `report`. workers: see
    `map_blocks`.

    All files appear at the end together, or none. Errors: `NothingKept` when an output would have no row,
    those of `find_sources`, `blocks_of` and `Outputs`.
    """
    wanted = _wanted(make, places, options)
    sources = find_sources(inputs)
    report = Report(sources, options, sidecars=sidecars_of(sources))
    report.outputs = {name: Tally() for name in make}
    work = RolloutWork(options, tuple(make))
    if PREFERENCES in make:
        wanted[_SPOOL] = wanted[PREFERENCES].with_name(wanted[PREFERENCES].name + ".spool")
    with Outputs(wanted) as outputs:
        writer = _Writer(report, outputs, options)
        for done in map_blocks(work, blocks_of(sources), workers=workers):
            writer.take(done)
        writer.finish()
        _require_rows(report)
        if REPORT in wanted:
            outputs.write(REPORT, json_text(report.as_dict()).encode("utf-8"))
        outputs.publish(but=(_SPOOL,))
    return report


def _wanted(make: Sequence[str], places: Mapping[str, Path], options: ExportOptions) -> dict[str, Path]:
    wrong = [name for name in make if name not in MAKES]
    if wrong or not make:
        what = f"{wrong[0]!r} is nothing that is made of rollouts" if wrong else "nothing is to be made"
        raise UsageError(what, where="make", valid=MAKES)
    names = [*make, *([VALIDATION] if CHAT in make and options.validation_share else [])]
    missing = [name for name in names if name not in places]
    if missing:
        raise UsageError(f"{missing[0]} has no place", where=f"output.{missing[0]}")
    return {name: places[name] for name in (*names, *([REPORT] if REPORT in places else []))}


class _Writer:
    """Takes what the blocks became, in order, and has written what is kept."""

    def __init__(self, report: Report, outputs: Outputs, options: ExportOptions) -> None:
        self._report = report
        self._outputs = outputs
        self._options = options
        self._keeper = Keeper(options)
        self._prompts = KeyCounts()
        self._pairs = Pairs()

    def take(self, done: Exported) -> None:
        """Count a block and choose its rows."""
        report = self._report
        report.read.add(done.read)
        report.rewards.update(done.rewards)
        if len(report.rewards) > _MANY_REWARDS:
            report.rewards = _rounded(report.rewards)
        for name, tally in done.tallies.items():
            report.outputs[name].add(tally)
        for name, choose in ((CHAT, self._chats), (PROMPTS, self._prompt_rows)):
            if name not in done.made:
                continue
            for place, spans in choose(done.made[name], done.file).items():
                if spans:
                    self._outputs.take(place, done, name, spans)
        if PREFERENCES in done.made:
            self._answers(done)

    def _chats(self, rows: list[Placed], file: str) -> dict[str, list[Span]]:
        tally, keeper = self._report.outputs[CHAT], self._keeper
        chat, validation = list[Span](), list[Span]()
        for row in rows:
            refused = keeper.refuses(row)
            if refused is not None:
                tally.leave_out(refused, file, row.line)
                continue
            tally.kept += 1
            if keeper.is_validation(row):
                self._report.validation_rows += 1
                extend(validation, row.begin, row.end)
            else:
                extend(chat, row.begin, row.end)
        return {CHAT: chat, VALIDATION: validation}

    def _prompt_rows(self, rows: list[Placed], file: str) -> dict[str, list[Span]]:
        tally, spans = self._report.outputs[PROMPTS], list[Span]()
        for row in rows:
            if self._prompts.add(row.prompt):
                tally.leave_out(Rejected("same_prompt", "an earlier row has this prompt"), file, row.line)
                continue
            tally.kept += 1
            extend(spans, row.begin, row.end)
        return {PROMPTS: spans}

    def _answers(self, done: Exported) -> None:
        """Keep the answers that may become a side of a pair."""
        spans, size = list[Span](), 0
        place = self._outputs.end(_SPOOL)
        for row in done.made[PREFERENCES]:
            if not self._pairs.wants(row.prompt, row.reward):
                continue
            length = row.end - row.begin
            self._pairs.keep(row.prompt, row.reward, row.answers[0], place + size, length)
            extend(spans, row.begin, row.end)
            size += length
        if spans:
            self._outputs.take(_SPOOL, done, PREFERENCES, spans)

    def finish(self) -> None:
        """Write the pairs, which are known at the end."""
        if PREFERENCES not in self._report.outputs:
            return
        pairs, read = self._pairs, partial(self._outputs.read, _SPOOL)
        tally = self._report.outputs[PREFERENCES]
        for number in range(len(pairs)):
            rows = pairs.rows[number]
            if rows == 1:
                tally.left_out["only_answer_of_its_prompt"] += 1
            elif pairs.gap(number) <= self._options.min_reward_gap:
                tally.left_out["rewards_too_close"] += rows
            elif pairs.same(number):
                tally.left_out["same_answers"] += rows
            else:
                self._outputs.write(PREFERENCES, pairs.row(number, read))
                tally.kept += 1
                if rows > 2:
                    tally.left_out["neither_best_nor_worst"] += rows - 2


def _rounded(rewards: Counter[float]) -> Counter[float]:
    rounded: Counter[float] = Counter()
    for value, rows in rewards.items():
        rounded[float(f"{value:.3g}")] += rows
    return rounded


def _require_rows(report: Report) -> None:
    empty = [name for name, tally in report.outputs.items() if not tally.kept]
    if report.options.validation_share and CHAT in report.outputs and not empty:
        if not report.validation_rows:
            empty.append(VALIDATION)
        elif report.validation_rows == report.outputs[CHAT].kept:
            empty.append(CHAT)
    if not empty:
        return
    if not report.read.rows:
        names = ", ".join(source.name for source in report.sources)
        raise NothingKept("there is no row", report, names)
    reasons = Counter(report.read.left_out)
    if empty[0] in report.outputs:
        reasons += report.outputs[empty[0]].left_out
    why = ", ".join(f"{rows:,} {reason}" for reason, rows in reasons.most_common(5)) or "its share drew none"
    what = f"{empty[0]} has no row of {report.read.rows:,}: {why}"
    raise NothingKept(what, report, report.sources[0].name)
