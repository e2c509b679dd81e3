"""Where in a Megatron checkpoint the newest iteration lies, and what lies with it."""

from __future__ import annotations

import re
from pathlib import Path

from nemotron.artifacts.checks.directory import directory_names
from nemotron.artifacts.checks.files import read_bytes
from nemotron.artifacts.checks.megatron import layout_of
from nemotron.artifacts.checks.report import Problem, Report
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.hf_files import refuse, require_directory
from nemotron.errors import CheckFailed

TRACKER = "latest_checkpointed_iteration.txt"
TRAIN_STATE, LATEST_TRAIN_STATE = "train_state.pt", "latest_train_state.pt"
RUN_CONFIG = "run_config.yaml"
TOKENIZER, HF_CONFIG = "tokenizer", "hf_config"
_ITERATION = re.compile(r"iter_(\d{1,18})")
_STEP = re.compile(r"step_(\d{1,18})")
_WEIGHTS = ("policy", "weights")


def iteration_name(number: int) -> str:
    """What Megatron calls the directory of an iteration."""
    return f"iter_{number:07}"


def iteration_directory(path: Path) -> Path:
    """The iteration that a checkpoint means: `path` itself, or the newest in what it is the root of.

    path: an `iter_*`, a directory of them (its tracker tells which), a NeMo-RL `step_N` or a directory of
    those. Raises NotFound, or CheckFailed when it has none of these layouts.
    """
    require_directory(path)
    here = path
    for layout in ("steps", "step", "iterations", "iteration"):
        if layout_of(names_in(here)) == layout:
            inner = here if layout == "iteration" else _inward(here, layout)
            if inner is None:
                break
            here = inner
    if layout_of(names_in(here)) != "iteration":
        what = "not the layout of a Megatron checkpoint"
        raise CheckFailed(what, where=printable(path), valid=("iter_*", "its directory", "NeMo-RL's step_*"))
    return here


def names_in(path: Path) -> frozenset[str]:
    """The names in a directory, links that lead out of it left aside. Raises CheckFailed for those."""
    report = Report(path, 5)
    names = directory_names(path, report)
    refuse(report, f"{path.name} cannot be read")
    return names or frozenset()


def iterations(root: Path) -> list[int]:
    """The numbers of the `iter_*` in a directory, ascending."""
    return sorted(int(found[1]) for name in names_in(root) if (found := _ITERATION.fullmatch(name)))


def steps(root: Path) -> list[int]:
    """The numbers of the finished `step_*` in a NeMo-RL checkpoint directory, ascending."""
    return sorted(int(found[1]) for name in names_in(root) if (found := _STEP.fullmatch(name)))


def tracked_iteration(root: Path) -> int | None:
    """The iteration that the tracker in a directory of `iter_*` names, None without one."""
    text = read_bytes(root / TRACKER, limit=1 << 16)
    if isinstance(text, Problem):
        return None
    word = text.decode("ascii", "replace").strip()
    return int(word) if re.fullmatch(r"\d{1,18}", word) else None


def tokenizer_directory(iteration: Path) -> Path | None:
    """Where the tokenizer of an iteration is: in it, or beside NeMo-RL's weights."""
    beside = iteration.parent.parent if iteration.parent.name == _WEIGHTS[1] else iteration
    for place in (iteration / TOKENIZER, beside / TOKENIZER):
        if place.is_dir():
            return place
    return None


def _inward(here: Path, layout: str) -> Path | None:
    if layout == "step":
        return here.joinpath(*_WEIGHTS)
    if layout == "steps":
        found = steps(here)
        return here / f"step_{found[-1]}" if found else None
    numbers = iterations(here)
    tracked = tracked_iteration(here)
    number = tracked if tracked in numbers else numbers[-1]
    names = (name for name in names_in(here) if (m := _ITERATION.fullmatch(name)) and int(m[1]) == number)
    return here / max(names)
