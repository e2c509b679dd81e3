"""Plans for Lepton, made by hand."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from nemotron.planning.plan import Placement, Plan, Recipe

OPTIONS = MappingProxyType(
    {
        "nemo_run_dir": "/mnt/shared/nemo_run",
        "node_group": "h100-a",
        "resource_shape": "gpu.8xh100-80gb",
        "mounts": [{"path": "/", "mount_path": "/mnt/shared", "from": "node-nfs:shared"}],
    }
)


def make_plan(**placement: Any) -> Plan:
    """A plan of one step; keywords are fields of its placement."""
    given = {
        "backend": "lepton",
        "root": "ours",
        "launch": "python",
        "nodes": 1,
        "gpus_per_node": 8,
        "argv": ("true",),
        "environment": {},
        "profile": "lep",
        "image": "registry.example.com/image:1",
        "options": dict(OPTIONS),
        "mounts": ("/:/mnt/shared",),
    }
    recipe = Recipe("rl/nemo_rl/rlhf", "nemo_rl", "v0.6.0", {}, {}, {}, {}, placement.get("image"))
    return Plan(recipe, Placement(**(given | placement)), (), (), "tiny", "tiny.yaml")
