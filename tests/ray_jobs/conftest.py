"""A real Ray cluster for the tests of this directory; skipped, with the reason, where there can be none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ray_server import ADDRESS, PROFILES, RayServer, Unavailable, ray_server

from nemotron.launch.ray_jobs.api import Jobs


@pytest.fixture(scope="session")
def running_ray() -> Iterator[RayServer]:
    """One cluster for all tests of a session."""
    try:
        with ray_server() as made:
            yield made
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def place(world: Any, running_ray: RayServer) -> Iterator[Any]:
    """A world with a profile for the cluster; this thread, and what it starts, reaches it."""
    (world.work / "env.toml").write_text(PROFILES, encoding="utf-8")
    with running_ray.inside():
        yield world
        for job in Jobs(ADDRESS).jobs():
            if job["status"] in ("PENDING", "RUNNING"):
                Jobs(ADDRESS).stop(str(job["submission_id"]))
