"""What the recipe's digest depends on, and what it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.store import Store
from nemotron.config.keys import leaves
from nemotron.errors import CheckFailed
from nemotron.planning.build import plan_step
from nemotron.planning.plan import Plan
from nemotron.planning.request import Request

SFT = ("sft/nemo_rl", "tiny")


@pytest.fixture
def bound(write_rows: Callable[..., Path], write_model: Callable[..., Path]) -> dict[str, str]:
    """The inputs of the SFT step, as files."""
    return {
        "data": str(write_rows("a/chat.jsonl", "training_jsonl")),
        "validation": str(write_rows("a/held_out.jsonl", "training_jsonl", count=16)),
        "model": str(write_model("a/model")),
    }


def sft(bound: dict[str, str], *overrides: str, **more: Any) -> Plan:
    return plan_step(Request(*SFT, overrides=overrides, inputs=bound), **more)


def test_the_same_content_elsewhere_is_the_same_recipe(
    world: Any, bound: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sft(bound)
    assert first.recipe_digest is not None
    moved = {port: path.replace("/a/", "/elsewhere/b c/") for port, path in bound.items()}
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere/b c")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    second = sft(moved, store=Store(tmp_path / "another store"))
    assert second.recipe == first.recipe
    assert second.recipe_digest == first.recipe_digest
    assert second.digest != first.digest, "the plan says where its inputs are"


def test_relative_and_absolute_paths_are_the_same_recipe(
    world: Any, bound: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "a")
    relative = {"data": "chat.jsonl", "validation": "./held_out.jsonl", "model": "../a/model"}
    assert sft(relative).recipe_digest == sft(bound).recipe_digest


def test_the_place_of_outputs_is_not_part_of_the_recipe(world: Any, bound: dict[str, str]) -> None:
    moved = sft(bound, "checkpointing.checkpoint_dir=elsewhere/saved")
    assert moved.outputs[0].path == "elsewhere/saved"
    assert moved.recipe_digest == sft(bound).recipe_digest


def test_how_an_input_is_bound_is_not_part_of_the_recipe(world: Any, bound: dict[str, str]) -> None:
    by_key = sft({k: v for k, v in bound.items() if k != "data"}, f"data.train.data_path={bound['data']}")
    assert by_key.recipe_digest == sft(bound).recipe_digest


@pytest.mark.parametrize(
    "override",
    [
        "sft.max_num_steps=501",
        "sft.seed=43",
        "policy.megatron_cfg.optimizer.lr=3.1e-3",
        "policy.precision=bfloat16",
        "checkpointing.save_period=51",
        "embedded.threads=2",
        "+policy.note=new",
    ],
)
def test_a_config_value_changes_the_recipe(world: Any, bound: dict[str, str], override: str) -> None:
    assert sft(bound, override).recipe_digest != sft(bound).recipe_digest


def test_every_value_of_a_config_counts(world: Any) -> None:
    plan = plan_step(Request("make/rows"))
    changes = [
        "behave=a",
        "rows=4",
        "text=b",
        "seconds=2.0",
        "lr=0.6",
        "layers.0=9",
        "layers.1=9",
        "layers.2=9",
    ]
    assert len(changes) == len([key for key, _ in leaves(plan.recipe.config) if key != "output"])
    made = {plan_step(Request("make/rows", overrides=(change,))).recipe_digest for change in changes}
    assert len(made | {plan.recipe_digest}) == len(changes) + 1


@pytest.mark.parametrize("port", ["data", "validation", "model"])
def test_one_changed_byte_of_an_input_changes_the_recipe(
    world: Any, bound: dict[str, str], port: str
) -> None:
    before = sft(bound).recipe_digest
    path = Path(bound[port])
    path = path / "tokenizer_config.json" if path.is_dir() else path
    path.write_text(path.read_text().replace("4", "5").replace("[0]", "[1]"))
    assert sft(bound).recipe_digest not in (before, None)


def test_swapped_inputs_are_another_recipe(world: Any, bound: dict[str, str]) -> None:
    swapped = {**bound, "data": bound["validation"], "validation": bound["data"]}
    assert sft(swapped).recipe_digest != sft(bound).recipe_digest


def test_engine_code_and_arguments_change_the_recipe(world: Any) -> None:
    def digest(*arguments: str) -> str | None:
        return plan_step(Request("make/rows", arguments=arguments)).recipe_digest

    plain = digest()
    assert plain is not None
    assert len({plain, digest("a"), digest("a", "b"), digest("a b"), digest("")}) == 5
    script = world.catalog / "make/rows/step.py"
    script.write_text(script.read_text() + "# changed\n")
    assert digest() != plain


def test_another_engine_is_another_recipe(world: Any, bound: dict[str, str]) -> None:
    theirs = plan_step(Request(*SFT, inputs=bound, engine="nemo_rl"))
    ours = sft(bound)
    assert (ours.recipe.engine, theirs.recipe.engine) == ("embedded", "nemo_rl")
    assert theirs.recipe_digest not in (None, ours.recipe_digest)


def test_there_is_no_digest_before_every_input_is_pinned(world: Any, bound: dict[str, str]) -> None:
    to_build = sft({**bound, "model": "step://model/scratch?config=tiny"})
    late = sft({**bound, "model": "org/model"})
    unbound = plan_step(Request("sft/nemo_rl", inputs={"data": bound["data"]}))
    missing = sft({**bound, "data": "/nowhere/chat.jsonl"})
    assert {p.recipe_digest for p in (to_build, late, unbound, missing)} == {None}


def test_a_plan_with_pinned_inputs_survives_json(world: Any, bound: dict[str, str]) -> None:
    plan = sft(bound)
    assert {i.state for i in plan.inputs} == {"pinned"}
    again = Plan.from_dict(json.loads(plan.to_json()))
    assert again == plan
    assert (again.digest, again.recipe_digest) == (plan.digest, plan.recipe_digest)


@pytest.mark.parametrize(
    "damage",
    [
        {"schema": 99},
        {"recipe": None},
        {"placement": {}},
        {"inputs": [{"port": "data"}]},
        {"findings": [{"id": "x"}]},
        {"builds": ["step://a"]},
    ],
)
def test_a_damaged_plan_is_refused(world: Any, damage: dict[str, Any]) -> None:
    data = plan_step(Request("make/rows")).as_dict()
    with pytest.raises(CheckFailed):
        Plan.from_dict({**data, **damage})


def test_a_number_reads_back_as_what_it_was(world: Any) -> None:
    """1 and 1.0 and "1" are three recipes, in this process and after JSON."""
    plans = [plan_step(Request("make/rows", overrides=(o,))) for o in ("+n=1", "+n=1.0", "+n='1'", "+n=true")]
    again = [Plan.from_dict(json.loads(p.to_json())) for p in plans]
    assert len({p.recipe_digest for p in plans}) == 4
    assert [p.recipe_digest for p in plans] == [p.recipe_digest for p in again]
