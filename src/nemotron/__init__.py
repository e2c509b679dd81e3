"""A catalog of LLM post-training steps with typed artifacts between them.

The command line is a skin over these names, which a notebook can use just as well:

    plan = nemotron.plan_step("rl/nemo_rl/rlhf", config="tiny")
    print(nemotron.render_plan(plan))
    launched = nemotron.launch_plan(plan)
    launched.run.outputs["policy"]["path"]

Each name is imported when it is first used; `import nemotron` takes milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nemotron.api import find_run, launch_plan, list_runs, plan_step
    from nemotron.artifacts.checks import check_artifact
    from nemotron.artifacts.collection import Artifacts
    from nemotron.artifacts.lineage import Lineage
    from nemotron.artifacts.runs import Run
    from nemotron.artifacts.store import Store, find_store
    from nemotron.catalog.discover import Catalog, load_catalog
    from nemotron.catalog.lint import check_catalog
    from nemotron.catalog.step import Step
    from nemotron.errors import NemotronError
    from nemotron.findings import Finding
    from nemotron.launch.launcher import Launched
    from nemotron.planning.plan import Plan
    from nemotron.planning.render import render_plan

_HOMES = {
    "Artifacts": "nemotron.artifacts.collection",
    "Catalog": "nemotron.catalog.discover",
    "Finding": "nemotron.findings",
    "Launched": "nemotron.launch.launcher",
    "Lineage": "nemotron.artifacts.lineage",
    "NemotronError": "nemotron.errors",
    "Plan": "nemotron.planning.plan",
    "Run": "nemotron.artifacts.runs",
    "Step": "nemotron.catalog.step",
    "Store": "nemotron.artifacts.store",
    "check_artifact": "nemotron.artifacts.checks",
    "check_catalog": "nemotron.catalog.lint",
    "find_run": "nemotron.api",
    "find_store": "nemotron.artifacts.store",
    "launch_plan": "nemotron.api",
    "list_runs": "nemotron.api",
    "load_catalog": "nemotron.catalog.discover",
    "plan_step": "nemotron.api",
    "render_plan": "nemotron.planning.render",
}

__all__ = [
    "Artifacts",
    "Catalog",
    "Finding",
    "Launched",
    "Lineage",
    "NemotronError",
    "Plan",
    "Run",
    "Step",
    "Store",
    "__version__",
    "check_artifact",
    "check_catalog",
    "find_run",
    "find_store",
    "launch_plan",
    "list_runs",
    "load_catalog",
    "plan_step",
    "render_plan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nemotron' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
