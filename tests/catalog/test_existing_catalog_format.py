"""A catalog in the existing format loads unchanged."""

from __future__ import annotations

import json

import pytest

from nemotron.catalog.manifest import KnownError, ModelChoice, Parameter, Port, RunShape, Strategy


@pytest.fixture
def catalog(load, existing):
    return load(existing)


def test_every_step_loads_and_none_is_broken(catalog):
    ids = [step.id for step in catalog.steps if step.root == "existing"]
    assert ids == [
        "align/lab/ppo",
        "clean/filter",
        "join/adapter",
        "plain/step_without_words",
        "site/profiles",
        "tune/toolkit",
    ]
    assert not [broken for broken in catalog.broken if broken.root == "existing"]


def test_every_table_of_a_full_manifest_is_kept(catalog):
    step = catalog.get("tune/toolkit")
    assert (step.name, step.category) == ("Tuning — with a toolkit", "tune")
    assert step.tags == ("tune", "chat", "lora")
    assert step.consumes == (
        Port("training_jsonl", ("training_jsonl",), "Chats in a messages list", required=True),
        Port("checkpoint_hf", ("checkpoint_hf",), "Start from this model", required=False),
    )
    assert step.produces == (Port("checkpoint_hf", ("checkpoint_hf",), "The tuned model", required=True),)
    assert step.models == (
        ModelChoice("example-org/small-1b", "For one GPU", default=True, min_gpus=1),
        ModelChoice("example-org/large-70b", "For a node", default=False, min_gpus=8),
    )
    assert step.strategies == (
        Strategy("memory is short", "train an adapter", "docs/adapters.md"),
        Strategy("there are many short rows", "set train.packed=true", None),
    )
    assert step.errors == (
        KnownError("out_of_memory", "halve train.batch", "docs/memory.md"),
        KnownError("template_missing", "choose a tokenizer that has a chat template"),
    )
    assert step.reference == {
        "skill": "docs/tune.md",
        "script": "https://example.org/toolkit/train.py",
        "docs": ["https://example.org/a", "https://example.org/b"],
        "recipe": "recipes/tune",
    }


def test_defaults_and_choices_keep_their_types(catalog):
    parameters = {item.name: item for item in catalog.get("tune/toolkit").parameters}
    assert parameters["train.adapter"].choices == ("lora", "null", 4, True)
    assert parameters["train.packed"].default is True
    assert parameters["train.steps"].default == 100
    assert parameters["train.rate"].default == 1e-5
    assert parameters["train.stop"].default == ["<end>", "</s>"]
    assert parameters["train.schedule"].default == {"warmup": 10, "kind": "cosine"}
    assert parameters["train.model"] == Parameter("train.model", "No default: it must be given")
    assert len(parameters) == 7


@pytest.mark.parametrize(
    ("step_id", "shape"),
    [
        (
            "tune/toolkit",
            RunShape(
                engines=("script",),
                image="registry.example.org/toolkit:24.01",
                launch="torchrun",
                nodes=2,
                gpus_per_node=4,
                config_dir="./config",
            ),
        ),
        (
            "align/lab/ppo",
            RunShape(
                engines=("script",),
                image="registry.example.org/ray:2",
                launch="ray",
                nodes=1,
                gpus_per_node=8,
                workdir="/opt/lab",
            ),
        ),
        (
            "clean/filter",
            RunShape(
                engines=("script",),
                launch="python",
                gpus_per_node=0,
                cmd="uv run --extra clean python {script} --config {config}",
            ),
        ),
        (
            "site/profiles",
            RunShape(engines=("script",), launch="torchrun", gpus_per_node=8, default_config="cluster"),
        ),
        ("join/adapter", RunShape(engines=("script",), launch="python")),
        ("plain/step_without_words", RunShape(engines=(), launch="python")),
    ],
)
def test_the_script_header_says_how_a_step_runs(catalog, step_id, shape):
    assert catalog.get(step_id).run == shape


def test_what_a_manifest_leaves_out_follows_from_its_directory(catalog):
    step = catalog.get("plain/step_without_words")
    assert (step.name, step.category) == ("Step Without Words", "plain")
    assert (step.description, step.stack, step.difficulty) == ("Says little.", "plain", "easy")
    assert step.tags == step.consumes == step.produces == ()


def test_an_entry_that_is_no_table_is_left_out_with_a_warning(catalog):
    step = catalog.get("plain/step_without_words")
    assert step.parameters == (Parameter("size", default=3),)
    assert [(w.id, w.severity) for w in step.warnings] == [("catalog.stray_entry", "warning")]
    assert "entry 2 of parameters" in step.warnings[0].message
    assert step.warnings[0].where == f"{step.path}:1"


def test_ports_are_named_after_their_types(catalog):
    ports = catalog.get("align/lab/ppo").consumes
    assert [port.name for port in ports] == ["checkpoint_megatron", "checkpoint_hf", "checkpoint_hf-2"]


def test_one_warning_says_that_inputs_are_not_bound(catalog):
    (warning,) = catalog.get("align/lab/ppo").warnings
    assert warning.id == "catalog.unbound"
    assert "checkpoint_megatron, checkpoint_hf, checkpoint_hf-2" in warning.message
    assert catalog.get("site/profiles").warnings == ()


def test_configs_are_found_with_both_suffixes_and_where_the_header_says(catalog):
    assert list(catalog.get("tune/toolkit").configs) == ["default", "tiny"]
    assert catalog.get("align/lab/ppo").configs["default"].name == "default.yml"
    assert list(catalog.get("site/profiles").configs) == ["cluster", "laptop"]
    assert catalog.get("join/adapter").configs == {}


def test_the_foreign_graph_keeps_its_own_edges(catalog):
    foreign = catalog.types_of(catalog.get("clean/filter"))
    assert foreign.is_a("raw_jsonl", "training_jsonl")
    assert not catalog.types.is_a("raw_jsonl", "training_jsonl")


def test_everything_shows_in_json(catalog):
    shown = json.loads(json.dumps(catalog.get("tune/toolkit").as_dict(), allow_nan=False))
    assert shown["strategies"][0] == {
        "when": "memory is short",
        "then": "train an adapter",
        "skill": "docs/adapters.md",
    }
    assert shown["errors"][1]["name"] == "template_missing"
    assert shown["models"][0]["min_gpus"] == 1
    assert shown["reference"]["recipe"] == "recipes/tune"
    assert shown["configs"]["tiny"].endswith("tune/toolkit/config/tiny.yaml")
    assert shown["parameters"][4]["default"] == ["<end>", "</s>"]
    assert shown["consumes"][0]["type"] == ["training_jsonl"]
    assert shown["run"]["nodes"] == 2
    assert shown["script"].endswith("step.py")
    assert shown["root"] == "existing"
    assert [warning["id"] for warning in shown["warnings"]] == ["catalog.unbound"]
