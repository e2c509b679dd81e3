"""The `step_N` that a trainer saved: which is the best by the metrics beside them, where its model lies."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.errors import NotFound, UsageError, nearest

from ..paths import printable  # noqa: TID252 - the rooms that jobs carry import each other relatively
from .files import read_bytes, read_json_object
from .report import Problem

_RANKING, _INFO, _CONFIG = "metric.json", "training_info.json", "config.yaml"
# NeMo-RL's consolidated copy of a DTensor model, its weights, and what the embedded engine leaves.
_INSIDE = ("policy/weights/model/consolidated", "policy/weights", "policy")
_LIMIT = 8 << 20
# What NeMo-RL writes before the first validation.
_NO_REWARD = -99999999.0
# YAML is not parsed: these two keys of `checkpointing` hold one word each.
_METRIC = re.compile(rb"^[ \t]+metric_name:[ \t]*['\"]?([^\s'\"]{1,200})", re.MULTILINE)
_DIRECTION = re.compile(rb"^[ \t]+higher_is_better:[ \t]*(true|false)\b", re.MULTILINE)


def best_step(root: Path, asked: str, numbers: Sequence[int]) -> int:
    """The number of the best `step_N` in `root`; of equals the highest.

    asked: a metric of training_info.json, with `min:` or `max:` before it where it is not the one that the
    run ranked by; empty for that one. numbers: ascending. Raises UsageError where nothing says what is
    better, NotFound where no checkpoint has the metric.
    """
    ranked_by, higher = _ranking(root, numbers)
    direction, _, metric = asked.partition(":") if asked.startswith(("min:", "max:")) else ("", "", asked)
    metric = metric or ranked_by or ""
    if not metric:
        what = "nothing says by which metric the checkpoints are ranked"
        raise UsageError(what, where=printable(root), valid=("best:max:METRIC", "best:min:METRIC"))
    values = {step: read_json_object(root / f"step_{step}" / _INFO, limit=_LIMIT) for step in numbers}
    infos = {step: info for step, info in values.items() if not isinstance(info, Problem)}
    if not any(metric in info for info in infos.values()):
        metric = _as_saved(metric)
    scored = {step: value for step, info in infos.items() if (value := _score(info, metric)) is not None}
    if not scored:
        names = sorted({key for info in infos.values() for key in info if _score(info, key) is not None})
        what = f"no checkpoint has the metric {metric!r}"
        raise NotFound(what, where=printable(root), nearest=nearest(metric, names), valid=names[:20])
    if direction:
        higher = direction == "max"
    elif metric != ranked_by or higher is None:
        what = f"it is not known whether a higher {metric} is better"
        raise UsageError(what, where=printable(root), valid=(f"best:max:{metric}", f"best:min:{metric}"))
    return max(scored, key=lambda step: (scored[step] if higher else -scored[step], step))


def inside_step(step: Path, inside: str | None) -> Path:
    """Where in a saved step the model lies; where that is not known, the first place that a trainer uses."""
    if inside is not None:
        return step / inside
    return next((step / place for place in _INSIDE if (step / place).is_dir()), step)


def _as_saved(metric: str) -> str:
    """A metric as `runs list` and logs call it, `validation/accuracy`, in the spelling of NeMo-RL's files."""
    group, slash, name = metric.partition("/")
    return f"{'val' if group == 'validation' else group}:{name}" if slash else metric


def _ranking(root: Path, numbers: Sequence[int]) -> tuple[str | None, bool | None]:
    """The metric that the run ranked by and whether higher is better, from our note or NeMo-RL's config."""
    noted = read_json_object(root / _RANKING, limit=_LIMIT)
    if not isinstance(noted, Problem) and isinstance(noted.get("metric_name"), str):
        return noted["metric_name"], noted.get("higher_is_better") is not False
    text = read_bytes(root / f"step_{numbers[-1]}" / _CONFIG, limit=_LIMIT)
    if isinstance(text, Problem):
        return None, None
    metric, direction = _METRIC.search(text), _DIRECTION.search(text)
    if metric is None or metric[1] in (b"null", b"~"):
        return None, None
    name = metric[1].decode("utf-8", "replace")
    return name, None if direction is None else direction[1] == b"true"


def _score(info: Mapping[str, Any], metric: str) -> float | None:
    value = info.get(metric)
    if isinstance(value, bool) or not isinstance(value, int | float) or value == _NO_REWARD:
        return None
    return float(value) if math.isfinite(value) else None
