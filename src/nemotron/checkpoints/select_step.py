"""Which of several checkpoints a selection means: `latest`, `step:N`, `best`, `best:METRIC`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.checks.files import read_bytes, read_json_object
from nemotron.artifacts.checks.report import Problem
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.hf_files import require_directory
from nemotron.checkpoints.places import iterations, steps, tracked_iteration
from nemotron.errors import NotFound, UsageError, nearest

SELECTIONS = ("latest", "step:N", "best", "best:METRIC", "best:min:METRIC", "best:max:METRIC")
_RANKING, _INFO, _CONFIG = "metric.json", "training_info.json", "config.yaml"
_SELECTION = re.compile(r"latest|step:[0-9]{1,18}|best(:.{1,400})?")
_LIMIT = 8 << 20
# What NeMo-RL writes before the first validation.
_NO_REWARD = -99999999.0
# YAML is not parsed: these two keys of `checkpointing` hold one word each.
_METRIC = re.compile(rb"^[ \t]+metric_name:[ \t]*['\"]?([^\s'\"]{1,200})", re.MULTILINE)
_DIRECTION = re.compile(rb"^[ \t]+higher_is_better:[ \t]*(true|false)\b", re.MULTILINE)


def resolve_step(root: Path, selection: str) -> int:
    """The number N of the `step_N`, or of the `iter_N`, that `selection` means in a checkpoint directory.

    `best` takes the metric that the run ranked by; with a METRIC of another name, `min:` or `max:` before it
    says which is better. Of equals the highest step is taken. Raises UsageError for a selection that is none
    or that cannot be decided, NotFound when there is no such checkpoint.
    """
    require_directory(root)
    kind, _, rest = selection.partition(":")
    if not _SELECTION.fullmatch(selection):
        raise UsageError(
            f"{selection!r} selects no checkpoint", nearest=nearest(kind, SELECTIONS), valid=SELECTIONS
        )
    numbered = steps(root)
    numbers = numbered or iterations(root)
    if not numbers:
        raise NotFound("no finished checkpoint", where=printable(root), valid=("step_N", "iter_N"))
    if kind == "step":
        return _named(int(rest), numbers, root)
    if kind == "latest":
        tracked = None if numbered else tracked_iteration(root)
        return tracked if tracked in numbers and tracked is not None else numbers[-1]
    if not numbered:
        what = "directories of iterations keep no metrics: the best of them is not known"
        raise UsageError(what, where=printable(root), valid=("latest", *(f"step:{n}" for n in numbers[-3:])))
    return _best(root, rest, numbers)


def _named(number: int, numbers: list[int], root: Path) -> int:
    if number in numbers:
        return number
    close = sorted(numbers, key=lambda each: abs(each - number))[:3]
    what = f"no checkpoint of step {number}"
    raise NotFound(what, where=printable(root), nearest=[f"step:{n}" for n in close])


def _best(root: Path, asked: str, numbers: list[int]) -> int:
    ranked_by, higher = _ranking(root, numbers)
    direction, _, metric = asked.partition(":") if asked.startswith(("min:", "max:")) else ("", "", asked)
    metric = metric or ranked_by or ""
    if not metric:
        what = "nothing says by which metric the checkpoints are ranked"
        raise UsageError(what, where=printable(root), valid=("best:max:METRIC", "best:min:METRIC"))
    values = {step: read_json_object(root / f"step_{step}" / _INFO, limit=_LIMIT) for step in numbers}
    infos = {step: info for step, info in values.items() if not isinstance(info, Problem)}
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


def _ranking(root: Path, numbers: list[int]) -> tuple[str | None, bool | None]:
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
