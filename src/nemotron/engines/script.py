"""The engine of steps that bring their own program: `step.py --config CONFIG [arguments]`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.engines.base import StepFacts, installed_version
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
        if step.launch == "torchrun" and step.command is None and installed_version("torch") is None:
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
            # As many processes as the step asks for, and no more than there are GPUs.
            gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
            count = max(1, min(step.gpus_per_node, gpus))
            words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", script]
            words += ["--config", written]
        else:
            words = [sys.executable, script, "--config", written]
        return (*words, *arguments)

    def environment(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Output is shown as it is written."""
        return {"PYTHONUNBUFFERED": "1"}

    def checkpoint_layout(self, config: Mapping[str, Any], select: str) -> tuple[str, str] | None:
        """A script writes the artifact at the path the config gives."""
        return None

    def code(self, step: StepFacts) -> tuple[Path, ...]:
        """The step's own Python files, and the data room that our scripts use."""
        package = Path(__file__).parent.parent
        return (*sorted(step.directory.glob("*.py")), package / "data", package / "engines" / "genrm.py")


ENGINE = ScriptEngine()
