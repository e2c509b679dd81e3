"""The engine of steps that bring their own program: `step.py --config CONFIG [arguments]`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.engines.base import Shape, StepFacts, installed_version, place_findings
from nemotron.errors import CheckFailed
from nemotron.findings import Finding

# Sections of a config that speak to us, not to the step's program.
OUR_SECTIONS = ("run", "inputs", "artifacts", "embedded")


class ScriptEngine:
    """Runs a step's own script once (`python`), under torchrun, or as a Ray driver."""

    name = "script"

    def why_not_here(self) -> str | None:
        """Scripts run wherever Python does; a launcher that is missing is found by `check`."""
        return None

    def version(self) -> str:
        """Python's version, and transformers' where it is installed."""
        extra = installed_version("transformers")
        return f"python {sys.version_info.major}.{sys.version_info.minor}" + (f", {extra}" if extra else "")

    def training_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Everything but our own sections."""
        return {k: v for k, v in config.items() if k not in OUR_SECTIONS}

    def check(self, config: Mapping[str, Any], step: StepFacts) -> tuple[Finding, ...]:
        """A script must exist, and its launcher must be on this machine."""
        found = []
        if step.script is None:
            found.append(
                Finding(
                    "step.no_script", "error", "the step has no step.py to run", where=str(step.directory)
                )
            )
        needs_torch = step.launch == "torchrun" and step.command is None and not step.elsewhere
        if needs_torch and installed_version("torch") is None:
            found.append(
                Finding(
                    "engine.no_launcher",
                    "error",
                    "the step is launched by torchrun, and torch is not installed here",
                    where=str(step.directory),
                    fix="pip install 'nemotron[embedded]'",
                )
            )
        return tuple(found)

    def check_arguments(
        self, config: Mapping[str, Any], step: StepFacts, arguments: Sequence[str]
    ) -> tuple[Finding, ...]:
        """Anything goes: the script reads its own arguments."""
        return ()

    def notes(self, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """None: the script reads what it reads."""
        return ()

    def argv(self, step: StepFacts, config: Mapping[str, Any], arguments: Sequence[str]) -> tuple[str, ...]:
        """The command template of the step's header, or its script under its launcher."""
        script, written = str(step.script), "{run_dir}/config.yaml"
        if step.command is not None:
            try:
                words = [w.format(script=script, config=written) for w in shlex.split(step.command)]
            except (ValueError, KeyError, IndexError) as problem:
                raise CheckFailed(
                    f"the step's command template cannot be filled: {problem}",
                    where=str(step.script),
                    valid=("{script}", "{config}"),
                ) from problem
        elif step.launch == "torchrun":
            # As many processes as the step asks for, and here no more than there are GPUs.
            gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
            count = max(1, step.gpus_per_node if step.elsewhere else min(step.gpus_per_node, gpus))
            words = [step.python, "-m", "torch.distributed.run", f"--nproc-per-node={count}", script]
            words += ["--config", written]
        else:
            words = [step.python, script, "--config", written]
        return (*words, *arguments)

    def environment(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Output is shown as it is written."""
        return {"PYTHONUNBUFFERED": "1"}

    def checkpoint_layout(
        self, config: Mapping[str, Any], select: str, type_name: str
    ) -> tuple[str, str | None] | None:
        """A script that saves several writes `step_N` directories where the config says."""
        return select, None

    def code(self, step: StepFacts) -> tuple[Path, ...]:
        """None of its own: the step's script and what that imports decide."""
        return ()

    def shape(
        self, step: StepFacts, config: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> Shape:
        """As the step's manifest says."""
        why = dict.fromkeys(("launch", "nodes", "gpus_per_node", "image"), f"the manifest of {step.step}")
        return Shape(step.launch, step.nodes, step.gpus_per_node, step.image, why)

    def placed(
        self, config: Mapping[str, Any], *, seconds: int | None, save_before: int | None
    ) -> Mapping[str, Any]:
        """Nothing: a script is told by a signal that time is nearly up."""
        return {}

    def check_place(
        self,
        step: StepFacts,
        config: Mapping[str, Any],
        *,
        nodes: int,
        gpus_per_node: int,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[Finding, ...]:
        """A script that runs once has no use for more nodes; under a launcher it takes what it gets."""
        if step.launch != "python":
            return ()
        return place_findings(
            self.shape(step, config), nodes=nodes, gpus_per_node=max(gpus_per_node, step.gpus_per_node)
        )

    def prefetch(self, config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
        """Nothing: the script loads what it loads."""
        return ()

    def planned_steps(self, config: Mapping[str, Any], rows: Mapping[str, int]) -> int | None:
        """Nobody can tell."""
        return None


ENGINE = ScriptEngine()
