"""A real Slurm for the tests of this directory; skipped, with the reason, where there can be none."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster, boot, take_down
from slurm_packages import Unavailable
from slurm_site import PROFILE, Site


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    """One cluster for all tests of a session; the workers of one xdist run take turns."""
    turn = Path(f"/tmp/nemotron-slurm-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}.lock")
    with turn.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Short: the path of a socket below it has 107 characters at most.
        directory = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        try:
            try:
                made = boot(directory / "c")
            except Unavailable as reason:
                pytest.skip(str(reason))
            yield made
            take_down(made)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            turn.unlink(missing_ok=True)


@pytest.fixture
def cluster(running_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, idle; jobs that a test leaves are cancelled, drained nodes come back.

    This thread is inside its network namespace while the test runs, so that a backend called in the test
    reaches it, and SLURM_CONF says where it is.
    """
    for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, running_cluster.environ[name])
    with running_cluster.inside():
        yield running_cluster
    running_cluster.clear()


@pytest.fixture
def site(world: Any, cluster: Cluster) -> Site:
    """Somebody on the cluster's login node, with the profile `cluster`."""
    (world.work / "env.toml").write_text(PROFILE, encoding="utf-8")
    return Site(world, cluster)
