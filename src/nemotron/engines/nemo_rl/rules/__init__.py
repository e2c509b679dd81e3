"""Preflight rules: what NeMo-RL would find out after Ray is up, at the first save, or never.

Each rule is one function that reads the config and takes microseconds; `check` runs those that speak
of the entry point. Nothing here needs NeMo-RL, a GPU or the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemotron.engines.nemo_rl.rules import (
    batch,
    checkpoints,
    data,
    environment,
    generation,
    genrm,
    gym,
    loop,
    parallelism,
    validation,
)
from nemotron.engines.nemo_rl.rules.rule import EVERY, Rule
from nemotron.engines.nemo_rl.rules.view import View
from nemotron.errors import UsageError, nearest
from nemotron.findings import Finding

__all__ = ["RULES", "check"]


RULES: tuple[Rule, ...] = (
    *loop.RULES,
    *parallelism.RULES,
    *batch.RULES,
    *generation.RULES,
    *data.RULES,
    *validation.RULES,
    *checkpoints.RULES,
    *gym.RULES,
    *genrm.RULES,
    *environment.RULES,
)


def check(
    entry_point: str,
    data: Mapping[str, Any],
    *,
    rows: Mapping[str, int] | None = None,
    nodes: int | None = None,
    environ: Mapping[str, str] | None = None,
    version: str = "v0.6.0",
) -> tuple[Finding, ...]:
    """All findings of the rules that speak of `entry_point`, most basic first.

    Parameters
    ----------
    entry_point: sft, rm, dpo, grpo or grpo_nemo_gym; `entry_point_of` tells it from the config.
    data: the resolved config.
    rows: rows of the `train` and `validation` set, where they were counted.
    nodes: nodes of the allocation.
    environ: the environment the job will have; without it nothing is said about variables.
    version: the NeMo-RL release; rules that came true later are left out.
    """
    if entry_point not in EVERY:
        raise UsageError(
            f"{entry_point!r} is no entry point of NeMo-RL", nearest=nearest(entry_point, EVERY), valid=EVERY
        )
    view = View(entry_point, data, rows or {}, nodes, environ)
    return tuple(
        Finding(rule.id, problem.severity, problem.message, problem.where, problem.valid, problem.fix)
        for rule in RULES
        if entry_point in rule.entry_points and _release(rule.since) <= _release(version)
        for problem in rule.test(view)
    )


def _release(tag: str) -> tuple[int, ...]:
    return tuple(int(part) for part in tag.lstrip("v").split(".") if part.isdigit())
