"""A laptop in front of the cluster: an sshd, and a world whose commands reach Slurm by it alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster
from slurm_packages import Unavailable
from ssh_server import SshServer, ssh_server

PROFILES = """
[cluster]
executor = "slurm"
time = 5
[cluster.env_vars]
HF_TOKEN = "${{oc.env:HF_TOKEN,}}"
FLAVOUR = "it's $(touch x) `y` \\" $z"

[laptop]
extends = "cluster"
tunnel = "ssh"
host = "login"
remote_job_dir = "{there}"
"""
TOKEN = "hf_verySecret1234567890"


@dataclass
class Laptop:
    """world: its store and its commands. there: the directory of runs on the cluster."""

    world: Any
    there: Path

    @property
    def home(self) -> Path:
        found: Path = self.world.home
        return found

    @property
    def work(self) -> Path:
        found: Path = self.world.work
        return found

    def run(self, *words: str, **environ: str) -> Any:
        return self.world.run(*words, **environ)

    def start(self, *words: str) -> Any:
        return self.world.start(*words)

    def submitted(self, *words: str, **environ: str) -> str:
        """The id of a run that was just handed over."""
        done = self.run("steps", "run", *words, "-b", "laptop", **environ)
        assert done.code == 0, done.err
        return str(done.out.strip())


@pytest.fixture
def server(cluster: Cluster, tmp_path: Path) -> Iterator[SshServer]:
    """A real sshd on loopback."""
    try:
        with ssh_server(cluster, tmp_path / "sshd") as made:
            yield made
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def sockets(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where connections are kept, and the config that is used; no connection is left after the test."""
    place = Path(tempfile.mkdtemp(prefix="nm", dir="/tmp"))
    monkeypatch.setenv("NEMOTRON_SSH_CONFIG", str(server.config))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    yield place
    for socket in place.glob("*/*"):
        subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "x"], capture_output=True)
    shutil.rmtree(place)


@pytest.fixture
def laptop(
    world: Any, cluster: Cluster, sockets: Path, server: SshServer, tmp_path: Path
) -> Iterator[Laptop]:
    """No SLURM_CONF here: only sshd's logins know where the scheduler is."""
    there = tmp_path / "cluster's runs"
    (world.work / "env.toml").write_text(PROFILES.format(there=there), encoding="utf-8")
    world.environ.pop("SLURM_CONF", None)
    world.environ |= {name: os.environ[name] for name in ("NEMOTRON_SSH_CONFIG", "XDG_RUNTIME_DIR")}
    yield Laptop(world, there)
