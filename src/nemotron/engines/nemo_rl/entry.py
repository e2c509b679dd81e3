"""Which NeMo-RL script a config is for, and whether NeMo-RL can run here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.engines.nemo_rl.rules.view import unbound
from nemotron.errors import UsageError


@dataclass(frozen=True)
class EntryPoint:
    """One way into NeMo-RL.

    name: as the contract and the rules call it. section: the config section that only this algorithm
    has. script: path in the NeMo-RL checkout.
    """

    name: str
    section: str
    script: str


ENTRY_POINTS: Mapping[str, EntryPoint] = {
    entry.name: entry
    for entry in (
        EntryPoint("sft", "sft", "examples/run_sft.py"),
        EntryPoint("rm", "rm", "examples/run_rm.py"),
        EntryPoint("dpo", "dpo", "examples/run_dpo.py"),
        EntryPoint("grpo", "grpo", "examples/run_grpo.py"),
        EntryPoint("grpo_nemo_gym", "grpo", "examples/nemo_gym/run_grpo_nemo_gym.py"),
    )
}

# Where the framework's image keeps it, and where a patched checkout is mounted. Its scripts run there: paths
# in its own configs are relative to it.
CHECKOUT = "/opt/nemo-rl"

_SECTIONS = ("sft", "rm", "dpo", "grpo")
_OTHER_ENGINES = ("embedded",)


def entry_point_of(data: Mapping[str, Any]) -> str:
    """The entry point a config is for: told by its algorithm section, and for GRPO by the Gym switch.

    Raises UsageError when the config has no such section, or several.
    """
    found = [name for name in _SECTIONS if isinstance(data.get(name), Mapping)]
    if len(found) != 1:
        raise UsageError(
            f"the config has the sections {' and '.join(found)}: which algorithm is meant?"
            if found
            else "the config has no algorithm section",
            valid=_SECTIONS,
        )
    env = data.get("env")
    if found == ["grpo"] and isinstance(env, Mapping) and env.get("should_use_nemo_gym") is True:
        return "grpo_nemo_gym"
    return found[0]


def trainer_config(data: Mapping[str, Any]) -> dict[str, Any]:
    """The config as NeMo-RL gets it.

    A validation set that nothing was bound to is none: the shipped configs keep the table, so that its
    key can be bound, and NeMo-RL would try to read a `data_path` of null. Sections of another engine
    are left out.
    """
    ours = {name: value for name, value in data.items() if name not in _OTHER_ENGINES}
    section = ours.get("data")
    validation = section.get("validation") if isinstance(section, Mapping) else None
    if isinstance(section, Mapping) and isinstance(validation, Mapping) and unbound(validation):
        ours["data"] = {**section, "validation": None}
    return ours


def why_not_here() -> str | None:
    """One sentence on why NeMo-RL cannot run in this process's environment; None when it can."""
    for package, hint in (("nemo_rl", "run in its container"), ("ray", "it starts its workers with Ray")):
        found = importlib.util.find_spec(package)
        # A directory of that name on the path, as of a checkout or of tests, is a namespace: no package.
        if found is None or found.origin is None:
            return f"the Python package {package} is not installed here; NeMo-RL needs it ({hint})"
    return None
