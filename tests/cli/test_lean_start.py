"""What a quick command must not import: each of these costs more than the command itself."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

HEAVY = {
    "torch",
    "trl",
    "transformers",
    "ray",
    "wandb",
    "nemo_run",
    "omegaconf",
    "pydantic",
    "rich",
    "datasets",
    "numpy",
    "importlib.metadata",
}
PROBE = """
import sys
from nemotron.cli.app import command_line
code = command_line(sys.argv[1:])
print("\\nMODULES", *sorted(sys.modules))
sys.exit(code)
"""


def modules(world: Any, *words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        env=world.environ,
        capture_output=True,
        text=True,
        cwd=world.work,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "words",
    [
        ("steps", "list", "--json"),
        ("steps", "list"),
        ("steps", "show", "rl/nemo_rl/rlhf"),
        ("steps", "show", "rl/nemo_rl/rlhf", "--json"),
        ("--help",),
        ("steps", "--help"),
        ("steps", "run", "--help"),
        ("--version",),
        ("runs", "list"),
    ],
    ids=" ".join,
)
def test_a_quick_command_imports_nothing_heavy(world: Any, words: tuple[str, ...]) -> None:
    loaded = modules(world, *words)
    assert not loaded & HEAVY
    assert not {m for m in loaded if m.startswith(("nemotron.planning", "nemotron.launch"))}


def test_a_dry_run_imports_no_framework(world: Any) -> None:
    loaded = modules(world, "steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny", "-d")
    assert not loaded & (HEAVY - {"omegaconf"})


def test_importing_the_library_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import nemotron; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {m for m in done.stdout.split() if m.startswith("nemotron")} == {"nemotron"}
