"""What a run writes while it trains: metrics and timings, a line a step.

`metrics.jsonl` holds only what the training computed, so that an interrupted and resumed run ends with
the same bytes as an undisturbed one; wall-clock times go to `timings.jsonl`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

# trl's names to NeMo-RL's; what is not named here is not written.
NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/lr",
    "reward": "train/reward",
    "reward_std": "train/reward_std",
    "kl": "train/kl",
    "entropy": "train/entropy",
    "completions/mean_length": "train/mean_gen_tokens_per_sample",
    "completions/clipped_ratio": "train/truncated_share",
    "frac_reward_zero_std": "train/zero_std_share",
    "mean_token_accuracy": "train/token_accuracy",
    "accuracy": "train/accuracy",
    "margin": "train/margin",
    "rewards/accuracies": "train/accuracy",
    "rewards/margins": "train/margin",
    "judge/fallback_rate": "judge/fallback_rate",
    "judge/tie_rate": "judge/tie_rate",
    "eval_loss": "validation/val_loss",
    "eval_accuracy": "validation/accuracy",
    "eval_margin": "validation/margin",
    "eval_rewards/accuracies": "validation/accuracy",
    "eval_rewards/margins": "validation/margin",
    "eval_mean_token_accuracy": "validation/token_accuracy",
}


def renamed(logs: Mapping[str, Any]) -> dict[str, float]:
    """The entries of a trainer's log that are metrics, under their public names."""
    found = {}
    for key, value in logs.items():
        name = NAMES.get(key) or (key if key.startswith(("monitor/", "validation/")) else None)
        if name is not None and isinstance(value, int | float) and math.isfinite(value):
            found[name] = float(value)
    return found


class MetricsFile:
    """Appends rows to `metrics.jsonl` and `timings.jsonl` of a run directory."""

    def __init__(self, run_dir: Path) -> None:
        self._metrics = run_dir / "metrics.jsonl"
        self._timings = run_dir / "timings.jsonl"
        self._handle: IO[str] | None = None
        self._timing_handle: IO[str] | None = None
        self._last = time.monotonic()

    def start(self, from_step: int, total_steps: int) -> None:
        """Begin to write after `from_step`: rows of later steps, left by an interrupted attempt, go.

        From step 0 everything goes, the scores before the first step too: they are written again.
        """
        rows = [row for row in read_metrics(self._metrics) if 0 < from_step >= row["step"]]
        temporary = self._metrics.with_name("metrics.jsonl.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(self._metrics)
        self._handle = self._metrics.open("a", encoding="utf-8")
        self._timing_handle = self._timings.open("a", encoding="utf-8")
        self._last = time.monotonic()
        self._time({"event": "start", "step": from_step, "total_steps": total_steps})

    def latest(self, upto: int) -> dict[str, float]:
        """The last value of every metric up to a step, as an earlier attempt left them."""
        found: dict[str, float] = {}
        for row in read_metrics(self._metrics):
            if row["step"] <= upto:
                found |= {name: value for name, value in row.items() if name != "step"}
        return found

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row; `step` counts steps of the config."""
        assert self._handle is not None, "start() comes first"
        self._handle.write(json.dumps({"step": step, **metrics}) + "\n")
        self._handle.flush()

    def step_done(self, step: int) -> None:
        """One row of timings."""
        now = time.monotonic()
        self._time({"event": "step", "step": step, "seconds": round(now - self._last, 4)})
        self._last = now

    def phase(self, name: str) -> None:
        """Say what the run does outside of its steps (loading, judging, drawing)."""
        if self._timing_handle is None:
            self._timing_handle = self._timings.open("a", encoding="utf-8")
        self._time({"event": "phase", "name": name})

    def _time(self, row: Mapping[str, Any]) -> None:
        assert self._timing_handle is not None
        self._timing_handle.write(json.dumps({**row, "at": round(time.time(), 3)}) + "\n")
        self._timing_handle.flush()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows
