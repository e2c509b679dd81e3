"""The NeMo-RL engine: checks a config against the framework's contract and rules before it costs a job."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.engines.base import StepFacts, ranked
from nemotron.engines.nemo_rl.contract import contract_for_image
from nemotron.engines.nemo_rl.entry import ENTRY_POINTS, entry_point_of, trainer_config, why_not_here
from nemotron.engines.nemo_rl.rules import check as check_rules
from nemotron.findings import Finding

# The ports whose rows the rules ask for, under the names of NeMo-RL's splits.
_SPLITS = {"data": "train", "prompts": "train", "validation": "validation"}


class NemoRLEngine:
    """Runs a NeMo-RL example script inside the framework's container."""

    name = "nemo_rl"

    def why_not_here(self) -> str | None:
        """NeMo-RL has to be importable."""
        return why_not_here()

    def version(self) -> str:
        """The framework is the image's; the image is part of the recipe."""
        return "of the image"

    def training_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Without our own sections."""
        return trainer_config(config)

    def check(self, config: Mapping[str, Any], step: StepFacts) -> tuple[Finding, ...]:
        """The contract of the image's version, then the framework's rules."""
        entry = entry_point_of(config)
        contract, found = contract_for_image(step.image or "")
        mine = trainer_config(config)
        rows = {_SPLITS[port]: n for port, n in step.rows.items() if port in _SPLITS}
        return (
            *found,
            *contract.check(entry, mine),
            *check_rules(
                entry, mine, rows=rows or None, nodes=step.nodes, environ=os.environ, version=contract.version
            ),
        )

    def notes(self, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """The embedded engine's own section does nothing here."""
        return (("embedded", "read by the embedded engine alone"),) if "embedded" in config else ()

    def argv(self, step: StepFacts, config: Mapping[str, Any], arguments: Sequence[str]) -> tuple[str, ...]:
        """The upstream script of the config's algorithm, as it lies in the framework's container."""
        script = ENTRY_POINTS[entry_point_of(config)].script
        return ("uv", "run", script, "--config", "{run_dir}/config.yaml", *arguments)

    def environment(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Nothing beyond the profile's."""
        return {}

    def checkpoint_layout(self, config: Mapping[str, Any], select: str) -> tuple[str, str] | None:
        """NeMo-RL keeps the weights of a step in `policy/weights`."""
        return ranked(config, select), "policy/weights"

    def code(self, step: StepFacts) -> tuple[Path, ...]:
        """The framework's code is the image's."""
        return ()


ENGINE = NemoRLEngine()
