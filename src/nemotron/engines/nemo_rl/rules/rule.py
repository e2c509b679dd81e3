"""The shape of a rule: an id, the entry points it speaks of, and one small function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nemotron.engines.nemo_rl.rules.view import View

EVERY = ("sft", "rm", "dpo", "grpo", "grpo_nemo_gym")
PAIRS = ("rm", "dpo")
GRPO = ("grpo", "grpo_nemo_gym")
GYM = ("grpo_nemo_gym",)


@dataclass(frozen=True)
class Problem:
    """What a rule found, without the id, which is the rule's.

    where: the config key at fault. message: what is wrong, with the numbers. valid: what would be
    right. fix: an override to type.
    """

    where: str
    message: str
    valid: str | None = None
    fix: str | None = None
    severity: str = "error"


@dataclass(frozen=True)
class Rule:
    """One preflight rule.

    id: stable, taken by `--waive`. since: the first release the rule is true of.
    """

    id: str
    entry_points: tuple[str, ...]
    test: Callable[[View], Iterable[Problem]]
    since: str = "v0.5.0"
