"""What all trainers of this engine share: arguments, optimizer, metrics, checkpoints, stopping, resuming."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nemotron.engines.embedded.batches import BatchPlan
from nemotron.engines.embedded.checkpoints import CheckpointDirectory
from nemotron.engines.embedded.megatron import leaves_megatron, with_hf_models
from nemotron.engines.embedded.metrics import MetricsFile, renamed
from nemotron.engines.embedded.models import device_of, dtype_of
from nemotron.engines.embedded.optimizers import build_optimizer, build_scheduler
from nemotron.engines.embedded.reading import algorithm_of, lookup
from nemotron.errors import WorkFailed


class Stopped(Exception):
    """The run was asked to stop and has saved its state."""


@dataclass
class Run:
    """One training run in its directory: the config, where it writes, and whether it was asked to stop."""

    directory: Path
    config: dict[str, Any]
    metrics: MetricsFile
    checkpoints: CheckpointDirectory
    stop_requested: bool = False
    extra_state: dict[str, Callable[[], Any]] = field(default_factory=dict)

    @classmethod
    def in_directory(cls, directory: Path, config: dict[str, Any]) -> Run:
        """The run whose bundle is at `directory`."""
        checkpoint_dir = directory / str(lookup(config, "checkpointing.checkpoint_dir", "checkpoints"))
        checkpoints = CheckpointDirectory(checkpoint_dir, megatron=leaves_megatron(directory))
        run = cls(directory, config, MetricsFile(directory), checkpoints)
        run.checkpoints.remove_unfinished()
        run.checkpoints.rank_by(*ranking(config))
        shutil.rmtree(run.work, ignore_errors=True)
        run.work.mkdir()
        run.config = with_hf_models(config, run.work)
        signal.signal(signal.SIGTERM, run._on_signal)
        return run

    @property
    def work(self) -> Path:
        """Scratch space, emptied at every start."""
        return self.directory / "work"

    @property
    def seed(self) -> int:
        """The algorithm section's seed, 42 as in NeMo-RL where it names none."""
        for section in ("grpo", "dpo", "rm", "sft"):
            if section in self.config:
                return int(lookup(self.config, f"{section}.seed", 42))
        return 42

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop_requested = True


def arguments(run: Run, batches: BatchPlan, section: str) -> dict[str, Any]:
    """The TrainingArguments every trainer gets."""
    config = run.config
    on_cpu = device_of(config) == "cpu"
    dtype = dtype_of(config)
    saves = bool(lookup(config, "checkpointing.enabled", True))
    save_period = int(lookup(config, "checkpointing.save_period", 0)) or batches.steps
    val_period = int(lookup(config, f"{section}.val_period", 0))
    return {
        "output_dir": str(run.work),
        "per_device_train_batch_size": batches.per_device,
        "gradient_accumulation_steps": batches.accumulation,
        "max_steps": batches.optimizer_steps,
        "max_grad_norm": float(lookup(config, "policy.max_grad_norm", 0.0)),
        "seed": run.seed,
        "use_cpu": on_cpu,
        "bf16": not on_cpu and dtype is torch.bfloat16,
        "fp16": False,
        "gradient_checkpointing": bool(lookup(config, "policy.dtensor_cfg.activation_checkpointing", False)),
        "save_strategy": "steps" if saves else "no",
        "save_steps": save_period * batches.optimizer_steps_per_step,
        "logging_steps": 1,
        # The filter shows a loss that is no number as 0.
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if val_period > 0 else "no",
        "eval_steps": max(1, val_period) * batches.optimizer_steps_per_step,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
        "dataloader_num_workers": 0,
        "train_sampling_strategy": "random" if lookup(config, "data.shuffle", True) else "sequential",
    }


class ConfiguredOptimizer:
    """Mixin for trainers: optimizer and schedule come from the config, not from TrainingArguments."""

    run: Run
    batches: BatchPlan

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The config's optimizer over the trainable parameters."""
        if self.optimizer is None:  # type: ignore[has-type]
            owner = self.model if model is None else model  # type: ignore[attr-defined]
            trainable = [p for p in owner.parameters() if p.requires_grad]
            self.optimizer = build_optimizer(self.run.config, trainable)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The config's schedule; NeMo-RL steps it once per optimizer step, and so does the trainer."""
        if self.lr_scheduler is None:  # type: ignore[has-type]
            made = build_scheduler(self.run.config, optimizer or self.optimizer, num_training_steps)
            self.lr_scheduler = made
        return self.lr_scheduler


class RunCallback(TrainerCallback):
    """Writes metrics as they come, makes checkpoints whole, and stops when asked to."""

    def __init__(self, run: Run, batches: BatchPlan) -> None:
        self._run = run
        self._per_step = batches.optimizer_steps_per_step
        steps = run.checkpoints.steps()
        # A checkpoint made after resuming tells the same as one of an undisturbed run.
        self._latest = run.metrics.latest(upto=steps[-1] if steps else 0)
        self._pending: list[dict[str, float]] = []

    def _step(self, state: TrainerState) -> int:
        return int(state.global_step) // self._per_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """One row a step: the mean over its optimizer steps. Raises WorkFailed when training diverged."""
        logs = kwargs.get("logs") or {}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise WorkFailed(
                    f"training diverged: {name} is {logs[name]} at step {self._step(state)}",
                    next="lower the learning rate, or set policy.max_grad_norm",
                )
        row = renamed(logs)
        if not row:
            return
        if any(name.startswith("train/") for name in row):
            self._pending.append(row)
            if state.global_step % self._per_step:
                return
            keys = dict.fromkeys(k for r in self._pending for k in r)
            row = {k: _mean([r[k] for r in self._pending if k in r]) for k in keys}
            self._pending = []
            self._run.metrics.step_done(self._step(state))
        self._latest.update(row)
        self._run.metrics.write(self._step(state), row)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Save and stop at the end of the step in which a stop was asked for."""
        if self._run.stop_requested and state.global_step % self._per_step == 0:
            control.should_save = args.save_strategy != "no"
            control.should_training_stop = True
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Rename what the trainer wrote into a whole checkpoint, then drop what is no longer kept."""
        config = self._run.config
        step = self._step(state)
        info = {
            "step": step,
            "consumed_samples": state.global_step * args.train_batch_size * args.gradient_accumulation_steps,
        }
        info |= {checkpoint_metric(k, algorithm_of(config)): v for k, v in self._latest.items()}
        extra = {name: make() for name, make in self._run.extra_state.items()}
        written = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self._run.checkpoints.adopt(written, step, info, extra)
        keep = lookup(config, "checkpointing.keep_top_k")
        self._run.checkpoints.prune(None if keep is None else int(keep), *ranking(config))


def train(run: Run, trainer: Any, batches: BatchPlan) -> None:
    """Train to the end, from the latest whole checkpoint if there is one.

    Raises Stopped when a stop was asked for before the last step; the state is saved then.
    """
    steps = run.checkpoints.steps()
    latest = steps[-1] if steps else 0
    run.metrics.start(latest, batches.steps)
    if latest >= batches.steps:
        return
    resume = str(run.checkpoints.resume_view(latest, run.work / "resume")) if latest else None
    trainer.train(resume_from_checkpoint=resume)
    if run.stop_requested and trainer.state.global_step < batches.optimizer_steps:
        raise Stopped


def ranking(config: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The metric that ranks checkpoints (None: the latest is the best), and whether higher is better."""
    name = lookup(config, "checkpointing.metric_name")
    return (None if name is None else str(name)), bool(lookup(config, "checkpointing.higher_is_better", True))


def checkpoint_metric(name: str, algorithm: str | None) -> str:
    """A metric's name in training_info.json, which is NeMo-RL's: `val:accuracy`, or for pairs
    `val:validation-default_loss`.
    """
    group, _, rest = name.partition("/")
    if group == "validation" and algorithm in ("rm", "dpo"):
        return f"val:validation-default_{rest.removeprefix('val_')}"
    return f"{'val' if group == 'validation' else group}:{rest}"


def _mean(values: list[float]) -> float:
    return values[0] if len(values) == 1 else sum(values) / len(values)


def saved_state(run: Run, name: str) -> Mapping[str, Any] | None:
    """A value of `extra_state` as the latest checkpoint holds it; None when starting anew."""
    steps = run.checkpoints.steps()
    if not steps:
        return None
    path = run.checkpoints.step_dir(steps[-1]) / "trainer" / name
    if not path.exists():
        return None
    import json

    loaded: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded
