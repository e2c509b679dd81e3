"""The catalog is read by every command, and so must be cheap."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

import pytest

STEPS, PARAMETERS = 25, 177

LOAD = """
import os, sys, time
from nemotron.catalog.discover import load_catalog
catalog = load_catalog(os.environ)
print(sum(step.root == "large" for step in catalog.steps), *sorted(sys.modules))
"""


@pytest.fixture
def environ(tmp_path, write_step):
    """A catalog as large as the existing one, a week old."""
    for index in range(STEPS):
        count = PARAMETERS // STEPS + (index < PARAMETERS % STEPS)
        toml = f'[step]\nid = "kind_{index % 6}/step_{index}"\ndescription = """\n{"Words. " * 20}"""\n'
        toml += '[[consumes]]\ntype = "training_jsonl"\n[[produces]]\ntype = "checkpoint_hf"\n'
        for number in range(count):
            toml += f'[[parameters]]\nname = "a.b{number}"\ndefault = {number}\n'
            toml += f'description = "{"what it does " * 5}"\n'
        toml += f'[[strategies]]\nwhen = "{"it happens " * 5}"\nthen = "{"do this " * 9}"\n' * 4
        toml += f'[[errors]]\nname = "oom"\nrecovery = "{"less of it " * 9}"\n' * 4
        header = (
            '# /// script\n# [tool.runspec]\n# image = "x"\n# [tool.runspec.run]\n# launch = "ray"\n# ///\n'
        )
        directory = write_step(tmp_path / "large", f"kind_{index % 6}/step_{index}", toml, script=header)
        for name in ("step.toml", "step.py"):
            os.utime(directory / name, (time.time() - 604_800,) * 2)
    return {
        "NEMOTRON_CATALOG": str(tmp_path / "large"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode"),
        "PATH": os.environ["PATH"],
    }


def run(code, environ):
    """What a fresh process prints, and its CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout.split(), used


def test_loading_imports_the_standard_library_only(environ):
    (count, *modules), _ = run(LOAD, environ)
    assert int(count) == STEPS
    heavy = {
        "yaml",
        "omegaconf",
        "pydantic",
        "rich",
        "typer",
        "torch",
        "importlib.metadata",
        "asyncio",
    }
    assert not heavy & set(modules)
    assert not any(name.startswith("nemotron.config") or ".lint" in name for name in modules)


def test_a_remembered_catalog_of_25_steps_costs_a_few_empty_pythons(environ):
    time.sleep(2.1)  # what is younger than that is not remembered
    run(LOAD, environ)
    (_, *modules), _ = run(LOAD, environ)
    assert "tomllib" not in modules
    assert "nemotron.catalog.advice" not in modules
    floor = min(run("pass", environ)[1] for _ in range(5))
    cost = min(run(LOAD, environ)[1] for _ in range(5))
    # 4.3 when this was written, of which only 1.4 come on top of what typer needs anyway.
    assert cost < 6 * floor
