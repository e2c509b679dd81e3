"""Every shipped config compiles to the plan kept beside this file; a refactor changes none of them."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import nemotron
from nemotron.catalog.discover import load_catalog
from nemotron.planning.build import plan_step
from nemotron.planning.plan import Plan
from nemotron.planning.request import Request

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_SLURM = GOLDEN / "slurm"
SLURM = """
[cluster]
executor = "slurm"
account = "research"
partition = "batch"
time = "04:00:00"
mounts = ["/lustre:/lustre"]
chain = 4

[cluster.env_vars]
HF_HOME = "/lustre/cache/huggingface"
HF_TOKEN = "${oc.env:HF_TOKEN,}"
"""
PACKAGE = str(Path(nemotron.__file__).parent)
# What differs from one machine, or one edit of a trainer's code, to the next.
ELSEWHERE = {
    "engine_version": "<version>",
    "engine_problem": "<of this machine>",
    "recipe_digest": "<digest>",
    "code": "<digests>",
}


def shipped() -> list[tuple[str, str]]:
    """Every step and config of our own catalog."""
    return [(step.id, name) for step in load_catalog({}).steps for name in step.configs]


def golden_name(step: str, config: str) -> str:
    return f"{step.replace('/', '-')}__{config}"


def portable(value: Any, key: str = "") -> Any:
    """`value` without what is only true of this machine."""
    if key == "code" and isinstance(value, dict):
        return dict.fromkeys(value, ELSEWHERE["code"])
    if key in ELSEWHERE and value is not None:
        return ELSEWHERE[key]
    if isinstance(value, dict):
        return {name: portable(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    if isinstance(value, str):
        return value.replace(PACKAGE, "<package>").replace(sys.executable, "<python>")
    return value


def text_of(plan: Plan) -> str:
    """The plan as its golden file holds it: a shipped config it builds on is named, not repeated."""
    data = portable(plan.as_dict())
    data["engine_problem"] = None
    for build in data["builds"]:
        named = re.fullmatch(r"step://([^?]+)\?config=(\w+)", build["key"])
        if named is None:
            continue  # a conversion that the plan put in: its input is this plan's own
        step, config = named.groups()
        alone = portable(plan_step(Request(step, config)).as_dict())
        assert build["plan"] == {**alone, "builds": []}
        build["plan"] = f"<{golden_name(step, config)}>"
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(("step", "config"), shipped(), ids=lambda word: word.replace("/", "-"))
def test_a_shipped_config_compiles_to_its_golden_plan(
    world: Any, step: str, config: str, update_golden: bool
) -> None:
    plan = plan_step(Request(step, config))
    file = GOLDEN / f"{golden_name(step, config)}.json"
    if update_golden:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text_of(plan), encoding="utf-8")
    assert text_of(plan) == file.read_text(encoding="utf-8"), "if it is meant: pytest --update-golden"
    assert plan.to_json() == plan_step(Request(step, config)).to_json()
    assert Plan.from_dict(plan.as_dict()) == plan
    assert Plan.from_dict(json.loads(plan.to_json())).to_json() == plan.to_json()


def defaults() -> list[str]:
    """Every step of our own catalog that has a default config."""
    return [step for step, config in shipped() if config == "default"]


@pytest.mark.parametrize("step", defaults(), ids=lambda word: word.replace("/", "-"))
def test_a_default_config_compiles_to_its_golden_plan_on_slurm(
    world: Any, step: str, update_golden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in os.environ if n.startswith("SBATCH_")]:
        monkeypatch.delenv(name)
    (world.work / "env.toml").write_text(SLURM, encoding="utf-8")
    plan = plan_step(Request(step, "default", profile="cluster"))
    file = GOLDEN_SLURM / f"{golden_name(step, 'default')}.json"
    data = portable(plan.as_dict())
    # Whether there are changes, and even a commit, is of this checkout.
    data["placement"]["code"] = sorted(data["placement"]["code"].keys() & {"digest", "files", "search"})
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if update_golden:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), "if it is meant: pytest --update-golden"
    assert Plan.from_dict(json.loads(plan.to_json())).to_json() == plan.to_json()


def test_no_golden_plan_is_left_over() -> None:
    assert {p.stem for p in GOLDEN.glob("*.json")} == {golden_name(*each) for each in shipped()}
    assert {p.stem for p in GOLDEN_SLURM.glob("*.json")} == {golden_name(s, "default") for s in defaults()}


def test_golden_plans_hold_nothing_of_this_machine() -> None:
    for file in GOLDEN.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"blake3:[0-9a-f]{8}|/home/|/tmp/|/work/|/usr/|site-packages", text), file.name
