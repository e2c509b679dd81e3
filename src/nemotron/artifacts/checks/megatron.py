"""Megatron checkpoints, known by their layout alone: their metadata is a pickle and is never opened."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .report import Problem, Report
from .weights import directory_names

_ITERATION = re.compile(r"iter_(\d{7,})")
_STEP = re.compile(r"step_(\d+)")
_UNFINISHED = re.compile(r"tmp_step_\d+")
_MARKS = frozenset({"metadata.json", ".metadata", "common.pt"})
_WEIGHTS = ("policy", "weights")
_LAYOUTS = ("steps", "step", "iterations", "iteration")  # from the outside in
_VALID = "metadata.json, .metadata and *.distcp; or iter_*; or NeMo-RL's step_*"


def layout_of(names: Iterable[str]) -> str | None:
    """Which Megatron layout a directory with these names has.

    `iteration`: the distributed checkpoint itself. `iterations`: a directory of `iter_*`. `step`: one
    NeMo-RL checkpoint. `steps`: a NeMo-RL checkpoint directory, finished ones or not.
    """
    held = set(names)
    if any(_ITERATION.fullmatch(name) for name in held):
        return "iterations"
    if "training_info.json" in held and _WEIGHTS[0] in held:
        return "step"
    if any(_STEP.fullmatch(name) or _UNFINISHED.fullmatch(name) for name in held):
        return "steps"
    return "iteration" if held & _MARKS else None


def check_megatron(path: Path, report: Report) -> dict[str, Any]:
    """A directory that has the layout of a Megatron checkpoint, and what its highest iteration holds.

    Facts: layout, steps or iterations (numbers), shards, has_run_config.
    """
    facts: dict[str, Any] = {}
    here = path
    inward = list(_LAYOUTS)
    while (names := directory_names(here, report)) is not None:
        layout = layout_of(names)
        facts.setdefault("layout", layout)
        if layout == "iteration":
            return facts | _iteration(names, report)
        # Only ever inward: a link that leads back out must not go round for ever.
        inner = _inner(here, layout, names, facts) if layout in inward else None
        if inner is None or layout is None:
            report.add(_refusal(layout, path, here))
            return facts
        del inward[: inward.index(layout) + 1]
        here = inner
    return facts


def _inner(here: Path, layout: str | None, names: frozenset[str], facts: dict[str, Any]) -> Path | None:
    """The directory, one layer further in, that holds the newest checkpoint."""
    if layout == "step":
        return here.joinpath(*_WEIGHTS)
    found = _numbers(names, _STEP if layout == "steps" else _ITERATION)
    if layout is not None and found:
        facts[layout] = sorted(found)
    return here / found[max(found)] if found else None


def _refusal(layout: str | None, path: Path, here: Path) -> Problem:
    if layout == "steps":
        what = "only tmp_step_* directories: the first checkpoint was never finished"
        return Problem("checkpoint.unfinished", what)
    what = "not the layout of a Megatron checkpoint" + ("" if here == path else f", nothing in {here.name}")
    return Problem("checkpoint.not_megatron", what, valid=_VALID)


def _iteration(names: frozenset[str], report: Report) -> dict[str, Any]:
    shards = sum(name.endswith(".distcp") for name in names)
    if not shards:
        report.add(Problem("checkpoint.no_weights", "no *.distcp files beside the metadata"))
    for name in ("metadata.json", ".metadata"):
        if name not in names:
            what = f"{name} is missing, as after a save that was cut off"
            report.add(Problem("checkpoint.unfinished", what, "warning"))
    return {"shards": shards, "has_run_config": "run_config.yaml" in names}


def _numbers(names: Iterable[str], pattern: re.Pattern[str]) -> dict[int, str]:
    return {int(found[1]): name for name in names if (found := pattern.fullmatch(name))}
