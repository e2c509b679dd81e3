"""How artifacts and runs are called in a few words, the same in every view. All of it is printable."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nemotron.artifacts.lineage import ArtifactNode, RunNode
from nemotron.artifacts.paths import printable

ELLIPSIS = "\u2026"
# Progress and plumbing: true at the end of every run, and telling nothing of how good it was.
_BOOKKEEPING = ("step", "epoch", "lr", "learning_rate", "grad_norm", "seconds", "time", "tokens", "samples")
_CHECKPOINT = re.compile(r"(step|iter|global_step|checkpoint)[_-]?\d+")
_MEASURES = ("accuracy", "score", "reward", "win_rate", "loss")


def shorten(text: str, limit: int) -> str:
    """`text` in at most `limit` characters, its end replaced by an ellipsis where it is longer."""
    return text if len(text) <= limit else text[: limit - 1] + ELLIPSIS


def short_id(artifact: str) -> str:
    """An artifact's id as people paste it: the first 12 digits of a digest, else the name it is known by."""
    kind, _, rest = artifact.partition(":")
    return printable(rest if kind in ("record", "ref") else rest[:12] or artifact)


def artifact_title(artifact: ArtifactNode) -> str:
    """Its first name, else its short id."""
    return printable(artifact.names[0]) if artifact.names else short_id(artifact.id)


def artifact_label(artifact: ArtifactNode) -> str:
    """Its first name, else what its latest path ends with, else its short id."""
    if artifact.names or not artifact.paths:
        return artifact_title(artifact)
    parts = [part for part in artifact.paths[0].split("/") if part]
    # The step of a checkpoint is worth more than the `policy` below it.
    many = 2 if len(parts) > 1 and _CHECKPOINT.fullmatch(parts[-2]) else 1
    return printable("/".join(parts[-many:]) or artifact.paths[0])


def run_title(run: RunNode) -> str:
    """Its step, else its id; for what was made elsewhere that it was."""
    if run.step:
        return printable(run.step)
    return "made elsewhere" if run.state == "elsewhere" else printable(run.id)


def family(type_name: str | None) -> str:
    """What kind of thing a type is: `data`, `model`, `judge`, `scores`, or `thing` where there is no type."""
    if type_name is None:
        return "thing"
    marks = (("reward_model", "judge"), ("checkpoint", "model"), ("model", "model"), ("eval_", "scores"))
    return next((kind for mark, kind in marks if mark in type_name), "data")


def size_text(count: int | None) -> str | None:
    """A number of bytes, such as `2.8 MiB`."""
    if count is None:
        return None
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def moment_text(at: str | None) -> str | None:
    """An ISO time to the minute in UTC; what is no ISO time as it is."""
    moment = _moment(at)
    if moment is None:
        return None if at is None else shorten(printable(at), 40)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def duration_text(run: RunNode) -> str | None:
    """How long a run took, such as `40 s` or `3 h 12 min`; None while that is not known."""
    started, ended = _moment(run.started), _moment(run.ended)
    if started is None or ended is None or ended < started:
        return None
    seconds = (ended - started).total_seconds()
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def number_text(value: float) -> str:
    """A measured number to four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def headline(metrics: Mapping[str, Any]) -> str | None:
    """The one metric that says best how a run went, with its value: validation before training, and what
    is to grow before loss. A number that is not finite comes first: that run diverged."""
    ranked = sorted((rank, name) for name, value in metrics.items() if (rank := _rank(name, value)))
    if not ranked:
        return None
    name = ranked[0][1]
    return f"{shorten(printable(name), 60)} {number_text(metrics[name])}"


def _rank(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ()
    whole = name.lower()
    last = whole.replace(".", "/").rpartition("/")[2]
    if last in _BOOKKEEPING:
        return ()
    diverged = not math.isfinite(value)
    held_out = whole.startswith(("val", "eval", "test"))
    exact = next((n for n, measure in enumerate(_MEASURES) if last == measure), len(_MEASURES))
    like = next((n for n, measure in enumerate(_MEASURES) if measure in last), len(_MEASURES))
    return (not diverged, not held_out, exact, like)


def _moment(at: str | None) -> datetime | None:
    if at is None:
        return None
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
