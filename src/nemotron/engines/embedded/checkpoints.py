"""Checkpoints of the embedded engine: written whole or not at all, and resumed from.

The layout follows NeMo-RL:

    <checkpoint_dir>/step_N/policy/             model and tokenizer, loadable as they are; or
    <checkpoint_dir>/step_N/policy/weights/     both as a Megatron checkpoint, where the step leaves one
    <checkpoint_dir>/step_N/trainer/            optimizer, schedule, random state: for resuming
    <checkpoint_dir>/step_N/training_info.json  step, metrics
    <checkpoint_dir>/tmp_step_N                 being written; renamed when complete
    <checkpoint_dir>/tmp_step_N_removed         being removed

Whatever is named `tmp_step_N...` is removed at the next start.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.engines.embedded.reading import WEIGHTS

STATE_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "trainer_state.json")
# The trainer's pickled arguments and its model card name paths of this machine and nobody reads them.
DROPPED_FILES = ("training_args.bin", "README.md")


class CheckpointDirectory:
    """The `step_N` directories below one checkpoint directory.

    megatron: whether models are kept as Megatron checkpoints.
    """

    def __init__(self, root: Path, *, megatron: bool = False) -> None:
        self.root = root
        self._megatron = megatron
        root.mkdir(parents=True, exist_ok=True)

    def rank_by(self, metric: str | None, higher_is_better: bool) -> None:
        """Leave word for whoever picks the best checkpoint: the metric of training_info.json that counts."""
        if metric is not None:
            write_json(
                self.root / "metric.json", {"metric_name": metric, "higher_is_better": higher_is_better}
            )

    def steps(self) -> list[int]:
        """Steps with a whole checkpoint, ascending."""
        found = [re.fullmatch(r"step_(\d+)", p.name) for p in self.root.iterdir() if p.is_dir()]
        return sorted(int(m.group(1)) for m in found if m)

    def step_dir(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or would be."""
        return self.root / f"step_{step}"

    def remove_unfinished(self) -> None:
        """Remove what an interrupted run left half-written."""
        for path in self.root.glob("tmp_step_*"):
            shutil.rmtree(path)

    def adopt(self, written: Path, step: int, info: Mapping[str, Any], extra: Mapping[str, Any]) -> Path:
        """Turn the directory a trainer has `written` into `step_N`, in one rename at the end.

        info: goes into training_info.json. extra: file name to JSON value, kept beside the trainer state.
        """
        target = self.step_dir(step)
        temporary = self.root / f"tmp_step_{step}"
        if temporary.exists():
            shutil.rmtree(temporary)
        model = "hf" if self._megatron else "policy"
        (temporary / model).mkdir(parents=True)
        (temporary / "trainer").mkdir()
        for path in sorted(written.iterdir()):
            if path.name in DROPPED_FILES:
                continue
            part = "trainer" if path.name in STATE_FILES or path.name.startswith("rng_state") else model
            path.rename(temporary / part / path.name)
        if self._megatron:
            (temporary / "policy").mkdir()
            hf_to_megatron(temporary / model, temporary / "policy" / WEIGHTS)
            shutil.rmtree(temporary / model)
        for name, value in extra.items():
            write_json(temporary / "trainer" / name, value)
        write_json(temporary / "training_info.json", dict(info))
        _sync_tree(temporary)
        self._remove(step)
        temporary.rename(target)
        _sync(self.root)
        shutil.rmtree(written, ignore_errors=True)
        return target

    def resume_view(self, step: int, at: Path) -> Path:
        """A directory at `at` that shows model and trainer state of `step` side by side."""
        if at.exists():
            shutil.rmtree(at)
        at.mkdir(parents=True)
        for part in (self.model(step, at.with_name(f"{at.name}_model")), self.step_dir(step) / "trainer"):
            for path in part.iterdir():
                (at / path.name).symlink_to(path.resolve())
        return at

    def model(self, step: int, at: Path) -> Path:
        """The model of a step as transformers loads it: in its place, or converted, at `at`."""
        policy = self.step_dir(step) / "policy"
        if not self._megatron:
            return policy
        if not at.exists():
            megatron_to_hf(policy / WEIGHTS, at)
        return at

    def info(self, step: int) -> dict[str, Any]:
        """The training_info.json of a checkpoint."""
        loaded: dict[str, Any] = json.loads((self.step_dir(step) / "training_info.json").read_text())
        return loaded

    def prune(self, keep: int | None, metric: str | None, higher_is_better: bool) -> None:
        """Keep the best `keep` by metric (by recency without one) and always the latest."""
        steps = self.steps()
        if keep is None or len(steps) <= max(1, keep):
            return
        ranked = steps[::-1]
        if metric:
            values = {step: self.info(step).get(metric) for step in steps}
            worst = float("-inf") if higher_is_better else float("inf")
            ranked = sorted(
                steps,
                key=lambda s: (worst if values[s] is None else values[s], s),
                reverse=higher_is_better,
            )
        kept = {*ranked[:keep], steps[-1]}
        for step in steps:
            if step not in kept:
                self._remove(step)

    def _remove(self, step: int) -> None:
        """Remove a checkpoint; what a kill leaves of it does not look like a whole one."""
        if self.step_dir(step).exists():
            going = self.root / f"tmp_step_{step}_removed"
            shutil.rmtree(going, ignore_errors=True)
            self.step_dir(step).rename(going)
            shutil.rmtree(going)


def _sync_tree(root: Path) -> None:
    for directory, _, files in os.walk(root):
        for name in files:
            _sync(Path(directory) / name)
        _sync(Path(directory))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
