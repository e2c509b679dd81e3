"""Megatron checkpoints: their layout, and what the newest one in it holds, without torch or trust."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .directory import directory_names
from .distributed import METADATA
from .files import read_bytes, read_json_object
from .megatron_weights import check_distributed
from .report import Problem, Report, clipped, shown
from .tokenizer import check_tokenizer

_ITERATION = re.compile(r"iter_(\d{7,18})")
_STEP = re.compile(r"step_(\d{1,18})")
_UNFINISHED = re.compile(r"tmp_step_\d+")
_MARKS = frozenset({"metadata.json", ".metadata", "common.pt"})
_WEIGHTS = ("policy", "weights")
_LAYOUTS = ("steps", "step", "iterations", "iteration")  # from the outside in
_VALID = "metadata.json, .metadata and *.distcp; or iter_*; or NeMo-RL's step_*"
_TRACKER = "latest_checkpointed_iteration.txt"
_RUN_CONFIG = "run_config.yaml"
_SMALL, _RUN_CONFIG_LIMIT = 1 << 20, 8 << 20
_LISTED = 1000
# YAML is not parsed: these keys hold a number, wherever they stand.
_PARALLEL = re.compile(
    rb"^[ \t]*(tensor|pipeline|context|expert)_(?:model_)?parallel_size:[ \t]*(\d{1,6})[ \t\r]*$",
    re.MULTILINE,
)


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

    Facts: layout, steps or iterations (numbers), iteration, format, has_run_config, parallel (sizes by kind,
    where the run's config tells them), those of `check_distributed`, and those of `check_tokenizer` where a
    tokenizer lies with it. Neither `common.pt` nor any other file that could run code is opened.
    """
    facts: dict[str, Any] = {}
    here, below = path, ""
    inward = list(_LAYOUTS)
    while (names := directory_names(here, report, below=below)) is not None:
        layout = layout_of(names)
        facts.setdefault("layout", layout)
        if layout == "iteration":
            return facts | _iteration(path, here, names, report)
        # Only ever inward: a link that leads back out must not go round for ever.
        inner = _inner(here, layout, names, facts) if layout in inward else None
        if inner is None or layout is None:
            report.add(_refusal(layout, path, here))
            return facts
        if layout == "iterations" and _TRACKER in names:
            _check_tracker(here, below, facts["iterations"], report)
        del inward[: inward.index(layout) + 1]
        here = inner
        below = f"{here.relative_to(path).as_posix()}/"
    return facts


def _inner(here: Path, layout: str | None, names: frozenset[str], facts: dict[str, Any]) -> Path | None:
    """The directory, one layer further in, that holds the newest checkpoint."""
    if layout == "step":
        return here.joinpath(*_WEIGHTS)
    found = _numbers(names, _STEP if layout == "steps" else _ITERATION)
    if layout is not None and found:
        facts[layout] = sorted(found)[-_LISTED:]
    return here / found[max(found)] if found else None


def _refusal(layout: str | None, path: Path, here: Path) -> Problem:
    if layout == "steps":
        what = "only tmp_step_* directories: the first checkpoint was never finished"
        return Problem("checkpoint.unfinished", what)
    what = "not the layout of a Megatron checkpoint" + ("" if here == path else f", nothing in {here.name}")
    return Problem("checkpoint.not_megatron", what, valid=_VALID)


def _check_tracker(here: Path, below: str, iterations: list[int], report: Report) -> None:
    """The file that tells Megatron which iteration to load has to name the newest one."""
    data = read_bytes(here / _TRACKER, limit=_SMALL)
    if isinstance(data, Problem):
        report.add(data, file=below + _TRACKER)
        return
    told = data[:100].decode("utf-8", "replace").strip()
    number = int(told) if told.isascii() and told.isdigit() else None
    if told == "release" or number == iterations[-1]:
        return
    what = f"it says {shown(told)}, the newest iteration here is {iterations[-1]}"
    severity = "warning" if number in iterations else "error"
    fix = "wait until the save or the copy has ended, or mend the file"
    report.add(Problem("checkpoint.tracker", what, severity, fix=fix), file=below + _TRACKER)


def _iteration(path: Path, here: Path, names: frozenset[str], report: Report) -> dict[str, Any]:
    below = "" if here == path else f"{here.relative_to(path).as_posix()}/"
    facts: dict[str, Any] = {"has_run_config": _RUN_CONFIG in names}
    number = _ITERATION.fullmatch(here.name)
    if number:
        facts["iteration"] = int(number[1])
    for name in (METADATA, "metadata.json"):
        if name not in names:
            what = f"{name} is missing, as after a save or a copy that was cut off"
            report.add(Problem("checkpoint.unfinished", what), file=below.rstrip("/") or None)
    if "metadata.json" in names:
        found = read_json_object(here / "metadata.json", limit=_SMALL)
        if isinstance(found, Problem):
            report.add(found, file=f"{below}metadata.json")
        else:
            facts["format"] = clipped(str(found.get("sharded_backend")))
    facts |= check_distributed(here, names, report, below=below)
    facts |= _parallel(here, names)
    return facts | _tokenizer(path, here, names, report)


def _parallel(here: Path, names: frozenset[str]) -> dict[str, Any]:
    if _RUN_CONFIG not in names:
        return {}
    data = read_bytes(here / _RUN_CONFIG, limit=_RUN_CONFIG_LIMIT)
    if isinstance(data, Problem):
        return {}  # what it would tell is known to be unknown
    sizes: dict[str, int] = {}
    for found in _PARALLEL.finditer(data):
        sizes.setdefault(found[1].decode("ascii"), int(found[2]))
    return {"parallel": sizes} if sizes else {}


def _tokenizer(path: Path, here: Path, names: frozenset[str], report: Report) -> dict[str, Any]:
    """The tokenizer in the iteration, as Megatron-Bridge saves it, or beside the weights, as NeMo-RL does."""
    place = here / "tokenizer" if "tokenizer" in names else here.parent.parent / "tokenizer"
    if path not in place.parents or not place.is_dir():
        return {}
    below = f"{place.relative_to(path).as_posix()}/"
    inside = directory_names(place, report, below=below)
    return check_tokenizer(place, inside, report, below=below) if inside else {}


def _numbers(names: Iterable[str], pattern: re.Pattern[str]) -> dict[int, str]:
    return {int(found[1]): name for name in names if (found := pattern.fullmatch(name))}
