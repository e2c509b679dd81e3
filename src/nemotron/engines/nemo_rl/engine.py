"""The NeMo-RL engine: checks a config against the framework's contract and rules before it costs a job."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.engines.base import Shape, StepFacts, ranked
from nemotron.engines.nemo_rl.contract import contract_for_image
from nemotron.engines.nemo_rl.entry import (
    CHECKOUT,
    ENTRY_POINTS,
    entry_point_of,
    trainer_config,
    why_not_here,
)
from nemotron.engines.nemo_rl.judge import judge_findings
from nemotron.engines.nemo_rl.loading import loading_findings
from nemotron.engines.nemo_rl.overrides import check_overrides, planned_keys
from nemotron.engines.nemo_rl.placing import (
    SPLITS,
    job_environment,
    needed_shape,
    place_problems,
    placed_values,
    prefetch_commands,
    steps_to_do,
    weights_directory,
)
from nemotron.engines.nemo_rl.rules import check as check_rules
from nemotron.engines.nemo_rl.rules.view import View
from nemotron.findings import Finding, errors_in


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
        """The contract of the image's version, then the framework's loader and rules."""
        _, found = contract_for_image(step.image or "")
        return (*found, *_config_findings(trainer_config(config), entry_point_of(config), step))

    def check_arguments(
        self, config: Mapping[str, Any], step: StepFacts, arguments: Sequence[str]
    ) -> tuple[Finding, ...]:
        """Overrides that the script's parser refuses, and what is wrong with the config they make."""
        if not arguments:
            return ()
        entry, mine = entry_point_of(config), trainer_config(config)
        changed, found = check_overrides(mine, arguments, planned_keys(mine))
        if errors_in(found):
            return found
        before = set(_config_findings(mine, entry, step))
        return (*found, *(f for f in _config_findings(changed, entry, step) if f not in before))

    def notes(self, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """The embedded engine's own section does nothing here."""
        return (("embedded", "read by the embedded engine alone"),) if "embedded" in config else ()

    def argv(self, step: StepFacts, config: Mapping[str, Any], arguments: Sequence[str]) -> tuple[str, ...]:
        """The upstream script of the config's algorithm, as it lies in the framework's container.

        It runs in the checkout, as its documentation has it: uv finds the project there.
        """
        script = ENTRY_POINTS[entry_point_of(config)].script
        return ("uv", "run", "--directory", CHECKOUT, script, "--config", "{run_dir}/config.yaml", *arguments)

    def environment(self, config: Mapping[str, Any]) -> dict[str, str]:
        """What keeps the framework from building virtual environments anew on the GPUs' time."""
        return job_environment(config)

    def checkpoint_layout(
        self, config: Mapping[str, Any], select: str, type_name: str
    ) -> tuple[str, str | None] | None:
        """NeMo-RL keeps the weights of a step in `policy/weights`, a model to be served deeper in it."""
        return ranked(config, select), weights_directory(config)

    def code(self, step: StepFacts) -> tuple[Path, ...]:
        """The framework's code is the image's."""
        return ()

    def shape(
        self, step: StepFacts, config: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> Shape:
        """The policy's nodes, the judge's, and one for a dedicated Ray head."""
        return needed_shape(step, config, environment or {})

    def placed(
        self, config: Mapping[str, Any], *, seconds: int | None, save_before: int | None
    ) -> Mapping[str, Any]:
        """Where checkpoints and logs go, when to save, and scalars on disk."""
        return placed_values(config, seconds=seconds, save_before=save_before)

    def check_place(
        self,
        step: StepFacts,
        config: Mapping[str, Any],
        *,
        nodes: int,
        gpus_per_node: int,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[Finding, ...]:
        """Nodes that do not add up, GPUs that are not the cluster's, a judge that does not fit."""
        return place_problems(
            step, config, nodes=nodes, gpus_per_node=gpus_per_node, environment=environment or {}
        )

    def prefetch(self, config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
        """Models and data sets that are named by a hub id."""
        return prefetch_commands(config)

    def planned_steps(self, config: Mapping[str, Any], rows: Mapping[str, int]) -> int | None:
        """The step limit, or what the epochs hold where that is less."""
        return steps_to_do(config, rows)


def _config_findings(mine: Mapping[str, Any], entry: str, step: StepFacts) -> tuple[Finding, ...]:
    """Everything about the config alone; the place has its own check."""
    contract, _ = contract_for_image(step.image or "")
    rows = {SPLITS[port]: n for port, n in step.rows.items() if port in SPLITS}
    view = View(entry, mine, rows, None, None)
    return (
        *contract.check(entry, mine),
        *loading_findings(view, contract.resolvers(entry)),
        *check_rules(entry, mine, rows=rows or None, environ=os.environ, version=contract.version),
        *judge_findings(view),
    )


ENGINE = NemoRLEngine()
