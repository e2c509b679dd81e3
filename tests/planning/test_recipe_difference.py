"""What two recipes differ in, and how it is told."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.planning.difference import Difference, described, input_sources, recipe_differences

ORDER = ["step", "engine", "engine_version", "inputs", "config", "outputs", "code", "image", "arguments"]
A, B = "blake3:" + "a1" * 32, "blake3:" + "b2" * 32
RECIPE: dict[str, Any] = {
    "step": "rl/nemo_rl/rlhf",
    "engine": "embedded",
    "engine_version": "torch 2.9.0",
    "config": {"grpo": {"kl": 0.1, "steps": 30}, "logger": {"level": 1}, "layers": [1, 2, 3]},
    "inputs": {"policy": {"type": "checkpoint_hf", "digest": A}},
    "outputs": {"policy": {"type": "checkpoint_hf", "select": "latest"}},
    "code": {"embedded": A, "step.py": A},
    "image": None,
    "arguments": [],
}

words = st.text(max_size=4)
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, width=16) | words
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
parts = st.fixed_dictionaries(
    {},
    optional={
        "step": words,
        "engine": words,
        "engine_version": words,
        "config": st.dictionaries(words, values, max_size=4),
        "inputs": st.dictionaries(words, st.fixed_dictionaries({"type": words, "digest": words}) | values),
        "outputs": st.dictionaries(words, st.dictionaries(words, words, max_size=2), max_size=2),
        "code": st.dictionaries(words, words, max_size=3) | values,
        "image": st.none() | words,
        "arguments": st.lists(words, max_size=3),
        "of a newer version": values,
    },
)


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def changed(**parts: Any) -> dict[str, Any]:
    return {**deepcopy(RECIPE), **parts}


def lines(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, ...]:
    return described(recipe_differences(old, new), {"policy": "run sft-1"}, {"policy": "/data/model"})


@given(parts, parts)
def test_only_equal_recipes_have_no_difference(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert recipe_differences(old, deepcopy(old)) == ()
    assert (recipe_differences(old, new) == ()) is (canonical(old) == canonical(new))


@given(parts, parts)
def test_the_way_back_is_the_same_way(old: dict[str, Any], new: dict[str, Any]) -> None:
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    there, back = recipe_differences(old, new), recipe_differences(new, old)
    assert [(d.kind, d.path, turned[d.change], d.new, d.old) for d in there] == [
        (d.kind, d.path, d.change, d.old, d.new) for d in back
    ]
    assert len({(d.kind, d.path) for d in there}) == len(there), "nothing is told twice"


@given(parts, parts)
def test_the_differences_are_all_that_leads_from_one_to_the_other(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    made = deepcopy(old)
    for each in recipe_differences(old, new):
        node, path = made, (each.kind, *each.path)
        for part in path[:-1]:
            node = node[part]  # type: ignore[index]
        if each.change == "removed":
            del node[path[-1]]  # type: ignore[arg-type]
        else:
            node[path[-1]] = each.new  # type: ignore[index]
    assert canonical(made) == canonical(new)


@given(parts, parts)
def test_every_difference_has_a_line_of_its_own_and_code_one_for_all(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    found = recipe_differences(old, new)
    files = sum(d.kind == "code" and bool(d.path) for d in found)
    said = described(found, {}, {})
    assert len(said) == len(found) - files + bool(files)
    assert all(line and "\n" not in line for line in said)


def test_what_decides_most_comes_first() -> None:
    new = changed(
        step="rl/x",
        engine="nemo_rl",
        engine_version="v0.6.0",
        inputs={},
        config={"logger": {"level": 2}, "policy": 1},
        outputs={},
        code={},
        image="i",
        arguments=["-v"],
        newer=1,
    )
    found = recipe_differences(RECIPE, new)
    assert list(dict.fromkeys(d.kind for d in found)) == [*ORDER, "newer"]
    assert [d.key for d in found if d.kind == "config"] == ["grpo", "layers", "policy", "logger.level"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"config": {**RECIPE["config"], "grpo": {"kl": 0.4, "steps": 30}}}, "grpo.kl: 0.1 -> 0.4"),
        ({"config": {**RECIPE["config"], "grpo": {"kl": 0.1}}}, "grpo.steps: 30 -> not set"),
        ({"config": {**RECIPE["config"], "note": "x"}}, 'note: not set -> "x"'),
        ({"config": {**RECIPE["config"], "layers": [1, 5, 3]}}, "layers.1: 2 -> 5"),
        ({"config": {**RECIPE["config"], "layers": [1]}}, "layers: [1, 2, 3] -> [1]"),
        ({"config": {**RECIPE["config"], "layers": [1, 2, 3.0]}}, "layers.2: 3 -> 3.0"),
        (
            {"inputs": {"policy": {"type": "checkpoint_hf", "digest": B}}},
            "input policy: a1a1a1a1a1a1 (run sft-1) -> b2b2b2b2b2b2 (/data/model)",
        ),
        ({"inputs": {}}, "input policy: a1a1a1a1a1a1 (run sft-1) -> /data/model"),
        (
            {"inputs": {"policy": {"type": "checkpoint_lora", "digest": A}}},
            "input policy: checkpoint_hf a1a1a1a1a1a1 (run sft-1) -> "
            "checkpoint_lora a1a1a1a1a1a1 (/data/model)",
        ),
        ({"code": {"embedded": B, "step.py": B}}, "code changed: embedded, step.py"),
        ({"engine": "nemo_rl"}, 'engine: "embedded" -> "nemo_rl"'),
        ({"engine_version": "torch 2.9.1"}, 'engine version: "torch 2.9.0" -> "torch 2.9.1"'),
        ({"image": "nvcr.io/x:1"}, 'image: null -> "nvcr.io/x:1"'),
        ({"arguments": ["--lr", "1"]}, 'arguments: [] -> ["--lr", "1"]'),
    ],
)
def test_a_difference_is_told_in_the_words_of_training(parts: dict[str, Any], said: str) -> None:
    assert lines(RECIPE, changed(**parts)) == (said,)


def test_long_values_are_cut_to_where_they_differ() -> None:
    long = "word " * 40
    (said,) = lines(changed(config={"prompt": long + "good"}), changed(config={"prompt": long + "bad"}))
    assert len(said) < 120
    assert 'good"' in said
    assert 'bad"' in said
    (said,) = lines(changed(config={"prompt": "a"}), changed(config={"prompt": "b" * 999}))
    assert said.startswith('prompt: "a" -> "bbb')
    assert said.endswith("...")


def test_where_an_input_came_from_is_told_by_run_path_or_what_is_due() -> None:
    inputs = [
        {"port": "a", "state": "pinned", "made_by": "sft-1", "path": "/x"},
        {"port": "b", "state": "pinned", "made_by": None, "path": "/data/x"},
        {"port": "c", "state": "to_build", "reference": "step://make/rows?config=default"},
        {"port": "d", "state": "late", "reference": "hf://org/model"},
        {"port": "e", "state": "unbound", "reference": None},
    ]
    assert input_sources({"inputs": inputs}) == {
        "a": "run sft-1",
        "b": "/data/x",
        "c": "to be built: step://make/rows?config=default",
        "d": "to be fetched: hf://org/model",
        "e": "unbound",
    }
    assert input_sources({}) == {}


def test_a_name_that_would_break_a_line_is_escaped() -> None:
    new = changed(inputs={"a\nb": {"type": "t", "digest": A}}, code={"c\x1b[31m": A}, config={"d\re": 1})
    assert all(line.isprintable() for line in described(recipe_differences(RECIPE, new), {}, {}))


def test_a_difference_names_its_key_as_it_is_typed() -> None:
    assert Difference("config", ("grpo", "layers", 0), "changed", 1, 2).key == "grpo.layers.0"
