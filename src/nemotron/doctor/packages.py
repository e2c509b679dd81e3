"""Optional packages: whether they are installed, in which version, and whether they can be imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from nemotron.doctor.report import Item

_IMPORT_SECONDS = 120.0


@dataclass(frozen=True)
class Package:
    """An optional package.

    name: as pip knows it. module: what is imported of it. extra: of ours, which installs it. needs: a module
    of it whose file has to be there, for packages whose later versions went without.
    """

    name: str
    module: str
    extra: str
    needs: str | None = None


EMBEDDED = tuple(
    Package(name, name, "embedded")
    for name in ("torch", "transformers", "trl", "accelerate", "datasets", "peft")
)
NEMO_RUN = Package("nemo-run", "nemo_run.core.execution.lepton", "lepton")
LEPTONAI = Package("leptonai", "leptonai.api.v2.client", "lepton", needs="leptonai/api/v1/__init__.py")
RAY = Package("ray", "ray.job_submission", "ray")
SKYPILOT = Package("skypilot", "sky", "")
KUBERNETES = Package("kubernetes", "kubernetes", "")


def look_at(package: Package, *, deep: bool) -> Item:
    """Its state. deep: import it in a process of its own, for the error that Python itself gives."""
    # 40 ms, and only for who asks.
    from importlib.metadata import PackageNotFoundError, distribution

    install = f"pip install 'nemotron[{package.extra}]'" if package.extra else f"pip install {package.name}"
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        said = import_error(package.module) if deep else None
        top = package.module.partition(".")[0]
        return Item(package.name, "missing", said or f"not installed: there is no module {top}", install)
    version = found.version
    if package.needs and not found.locate_file(package.needs).is_file():  # type: ignore[attr-defined]
        module = package.needs.removesuffix("/__init__.py").replace("/", ".")
        said = import_error(module) if deep else f"No module named {module!r}"
        return Item(package.name, "broken", f"{version}: {said}", install)
    problem = import_error(package.module) if deep else None
    if problem:
        return Item(package.name, "broken", f"{version}: {problem}", install)
    return Item(package.name, "ok", version)


def import_error(module: str) -> str | None:
    """What Python says when a module is imported, its last line; None when nothing is wrong."""
    words = [sys.executable, "-c", "import importlib, sys; importlib.import_module(sys.argv[1])", module]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_IMPORT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"importing {module} takes more than {_IMPORT_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"importing {module} ends Python with exit code {done.returncode}"
