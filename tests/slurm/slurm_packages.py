"""The Debian packages of a test cluster: what is missing is installed, without starting any service."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

# What has to be there, and the package it is in.
PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "gcc": "gcc",
    "/usr/include/slurm/spank.h": "libslurm-dev",
    "/usr/include/stdlib.h": "libc6-dev",
}
SBIN = "/usr/sbin:/sbin"
_LOCK = Path("/tmp/nemotron-slurm-packages.lock")
_POLICY = Path("/usr/sbin/policy-rc.d")
_LIMIT = 600


class Unavailable(Exception):
    """Why there can be no test cluster on this machine."""


def install_packages() -> None:
    """Install what is missing. Raises Unavailable where that cannot be done."""
    install_missing(PACKAGES)


def install_missing(packages: dict[str, str]) -> None:
    """The same for other packages; keys are what has to be there."""
    if os.geteuid() != 0:
        raise Unavailable("a test cluster needs root: a network namespace, device nodes, bind mounts")
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = _missing(packages)
        if missing:
            _install(missing)
        still = _missing(packages)
    if still:
        raise Unavailable(f"not there after installation: {', '.join(still)}")


def _missing(packages: dict[str, str]) -> list[str]:
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    return [package for what, package in packages.items() if not shutil.which(what, os.F_OK, path)]


def _install(packages: list[str]) -> None:
    if not shutil.which("apt-get"):
        raise Unavailable(f"{', '.join(packages)} missing, and no apt-get to install them with")
    # Packages of services start them when they are installed, unless this says no.
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", *command], env=environ, capture_output=True, text=True, timeout=_LIMIT
            )
        if done.returncode != 0:
            raise Unavailable(f"apt-get cannot install {', '.join(packages)}: {done.stderr.strip()[-300:]}")
    finally:
        if ours:
            _POLICY.unlink(missing_ok=True)
