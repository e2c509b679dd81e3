"""What is installed, from what, and with which commands."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nemotron

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Stands in for a Python: makes an "environment" whose pip notes what it is asked and ends with $PIP_CODE.
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c import sys"*) exit "${OLD:-0}" ;;
  "-c import ensurepip"*) exit "${BARE:-0}" ;;
  "--version "*) echo "Python 3.9.2" ;;
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cd "$3/bin"
             printf '#!/bin/sh\\necho ran "$@"\\n' > nemotron; chmod +x nemotron ;;
  "-m pip") echo "$@" >> "$LOG"; exit "${PIP_CODE:-0}" ;;
esac
"""


class Make:
    """`make` in the checkout, with a Python and an environment that stand in for real ones."""

    def __init__(self, place: Path) -> None:
        self.log = place / "pip.log"
        self.venv = place / "venv"
        self._python = place / "python"
        self._python.write_text(PYTHON, encoding="utf-8")
        self._python.chmod(0o755)

    def __call__(self, *goals: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run make for the goals."""
        return subprocess.run(
            ["make", "-C", str(ROOT), f"PYTHON={self._python}", f"VENV={self.venv}", *goals],
            env={"PATH": os.environ["PATH"], "LOG": str(self.log), **environ},
            capture_output=True,
            text=True,
        )

    @property
    def installs(self) -> int:
        """How often pip was asked."""
        return len(self.log.read_text(encoding="utf-8").splitlines()) if self.log.exists() else 0


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return Make(tmp_path)


def test_demo_installs_under_constraints_and_runs_the_chain(make: Make) -> None:
    done = make("demo")
    assert done.returncode == 0, done.stderr
    assert "ran steps run rl/nemo_rl/rlhf -c tiny" in done.stdout
    said = make.log.read_text(encoding="utf-8").splitlines()
    assert all("-c constraints.txt" in line for line in said)
    assert said[-1].endswith("-e .[embedded]")


def test_what_is_installed_is_not_installed_again(make: Make) -> None:
    make("demo")
    first = make.installs
    assert make("demo").returncode == 0
    assert make.installs == first
    assert make("test").returncode == 0
    assert make.log.read_text(encoding="utf-8").splitlines()[-1].endswith("--group test")
    assert make.installs == first + 1


def test_a_failed_installation_is_tried_again(make: Make) -> None:
    assert make("demo", PIP_CODE="1").returncode != 0
    first = make.installs
    done = make("demo")
    assert done.returncode == 0
    assert make.installs > first


def test_every_goal_shows_what_it_runs(make: Make) -> None:
    for goal, shown in (
        ("demo", "steps run rl/nemo_rl/rlhf"),
        ("test", "-m pytest"),
        ("lint", "lint-imports"),
    ):
        assert shown in make(goal, "-n").stdout
    assert "benchmarks/cli.py" in make("bench", "-n").stdout


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OLD": "1"}, ("is not Python 3.11 or newer: Python 3.9.2", "next: make demo PYTHON=")),
        ({"BARE": "1"}, ("cannot make virtual environments", "apt-get install python3-venv")),
    ],
)
def test_an_unfit_python_is_named_before_anything_is_made(
    make: Make, environ: dict[str, str], said: tuple[str, str]
) -> None:
    done = make("demo", **environ)
    assert done.returncode != 0
    assert all(text in done.stderr for text in said)
    assert not make.venv.exists()


def pins() -> dict[str, str]:
    """Package to version, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", row) for row in rows), rows
    return {canonicalize_name(row.partition("==")[0]): row.partition("==")[2] for row in rows}


def wanted() -> list[Requirement]:
    """What the package, its embedded extra and the development groups ask for by name."""
    groups = PROJECT["dependency-groups"]
    listed = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["embedded"]]
    listed += [entry for name in ("test", "lint") for entry in groups[name]]
    return [Requirement(entry) for entry in listed]


@pytest.mark.parametrize("requirement", wanted(), ids=lambda requirement: requirement.name)
def test_constraints_pin_what_the_project_asks_for(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_constraints_leave_the_build_of_torch_open() -> None:
    assert re.fullmatch(r"[0-9.]+", pins()["torch"])


def test_versions_agree() -> None:
    version = PROJECT["project"]["version"]
    assert nemotron.__version__ == version
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("hatchling.build", reason="of the test group: make test")
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        held = set(wheel.namelist())
    package = ROOT / "src" / "nemotron"
    files = {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.is_file()}
    kept = {name for name in files if "__pycache__" not in name}
    assert any(name.endswith("step.toml") for name in kept)
    assert kept <= held


def test_the_checks_run_by_one_command() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_every_public_name_is_there() -> None:
    assert all(hasattr(nemotron, name) for name in nemotron.__all__)
    assert set(nemotron.__all__) <= set(dir(nemotron))


@pytest.mark.parametrize(
    "code",
    [
        "import nemotron",
        "from nemotron.cli.app import command_line; command_line(['steps', 'list'])",
        "from nemotron.cli.app import command_line; command_line(['steps', 'show', 'rl/nemo_rl/rlhf'])",
    ],
)
def test_no_trainer_is_loaded_to_look_at_the_catalog(code: str, tmp_path: Path) -> None:
    shown = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", shown],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {
        *("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "ray", "wandb"),
        *("omegaconf", "pydantic", "yaml", "blake3", "fsspec", "rich"),
    }
    assert heavy & set(done.stdout.splitlines()[-1].split()) == set()
