"""Worlds with a stand-in for Lepton beside them, and profiles that name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lepton_stand_in import TOKEN, WORKSPACE, StandIn, namespace_words, serving

needs_namespaces = pytest.mark.skipif(
    namespace_words() is None, reason="nobody may mount anything here: `unshare --mount` does not work"
)
PROFILES = """
[lep]
executor = "lepton"
nemo_run_dir = "/mnt/shared/nemo_run"
node_group = "h100-a"
resource_shape = "cpu.large"
container_image = "registry.example.com/image:1"

[[lep.mounts]]
path = "/"
mount_path = "/mnt/shared"
from = "node-nfs:shared"

[lep.env_vars]
HF_TOKEN = "${oc.env:HF_TOKEN,}"

[lep.secret_vars]
HF_TOKEN = "hf-token"
"""


@dataclass
class Place:
    """A world, and the service it speaks to."""

    world: Any
    lepton: StandIn

    def run(self, *words: str, **environ: str) -> Any:
        """A whole `nemotron` process."""
        return self.world.run(*words, **environ)

    @property
    def runs(self) -> Path:
        """The directories of runs on the storage, which the client does not see."""
        return self.lepton.storage / "nemo_run"

    def posted(self) -> list[Any]:
        """The jobs that were asked for, movers left out."""
        jobs = [body for method, path, body in self.lepton.calls if (method, path) == ("POST", "/jobs")]
        return [job for job in jobs if not job["spec"]["container"]["image"].startswith("busybox")]


def node_groups(lepton: StandIn, *names: str, nodes: int = 4, gpus: int = 8) -> None:
    """Give the service node groups."""
    for number, name in enumerate(names):
        group = f"ng-{number}"
        lepton.groups.append(
            {"metadata": {"id": group, "name": name}, "spec": {}, "status": {"ready_nodes": nodes}}
        )
        gpu = {"product": "H100", "total": gpus}
        lepton.nodes[group] = [
            {
                "metadata": {"id": f"{group}-node-{n}"},
                "spec": {"unschedulable": False, "resource": {"gpu": gpu}},
                "status": None,
            }
            for n in range(nodes)
        ]


@contextmanager
def lepton_place(world: Any, monkeypatch: pytest.MonkeyPatch, profiles: str = PROFILES) -> Iterator[Place]:
    """A place whose profiles speak to a stand-in."""
    with serving(world.root / "lepton") as lepton:
        node_groups(lepton, "h100-a", "h100-b")
        lepton.secrets["hf-token"] = "hf_value_at_lepton"
        told = {
            "LEPTON_WORKSPACE_ID": WORKSPACE,
            "LEPTON_WORKSPACE_TOKEN": TOKEN,
            "LEPTON_WORKSPACE_URL": lepton.url,
            "LEPTON_CACHE_DIR": str(world.root / "no-login"),
        }
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        world.environ.update(told)
        (world.work / "env.toml").write_text(profiles, encoding="utf-8")
        yield Place(world, lepton)
