"""What a manifest says of two inputs that must agree about the model."""

from __future__ import annotations

import pytest

from nemotron.catalog.lint import check_catalog
from nemotron.catalog.step import RELATION_TYPES

PORT = '[[consumes]]\nname = "{name}"\ntype = "{type}"\nconfig = "{name}"\n{more}\n'
PORTS = {
    "policy": "checkpoint_hf",
    "reference": "reward_model_hf",
    "data": "packed_parquet",
    "adapter": "checkpoint_lora",
    "chats": "training_jsonl",
}
CONFIG = {"default.yaml": "".join(f"{name}: ???\n" for name in PORTS)}


@pytest.fixture
def step(tmp_path, write_step, load):
    """A step whose ports say more: `step(reference='same_tokens_as = "policy"')`; and its lint."""

    def make(**more):
        toml = '[step]\nid = "a/b"\n' + "".join(
            PORT.format(name=name, type=kind, more=more.get(name, "")) for name, kind in PORTS.items()
        )
        produces = more.get("produces", "")
        write_step(tmp_path / "mine", "a/b", toml + produces, configs=CONFIG, script="")
        catalog = load(tmp_path / "mine")
        return catalog.get("a/b"), check_catalog(catalog, "a/b")

    return make


def test_relations_are_read_and_sound_ones_pass(step):
    found, findings = step(
        reference='same_tokens_as = "policy"',
        data='same_template_as = "policy"',
        adapter='adapts = "reference"',
    )
    assert findings == ()
    said = {port.name: port.relations() for port in found.consumes if port.relations()}
    assert said == {
        "reference": (("same_tokens_as", "policy"),),
        "data": (("same_template_as", "policy"),),
        "adapter": (("adapts", "reference"),),
    }


@pytest.mark.parametrize("relation", [*RELATION_TYPES])
@pytest.mark.parametrize(("name", "nearest"), [("polcy", "policy"), ("reference", "policy")])
def test_a_port_that_is_no_other_input_is_an_error(step, relation, name, nearest):
    _, findings = step(reference=f'{relation} = "{name}"')
    found = {f.id: f for f in findings}["catalog.unknown_port"]
    assert found.severity == "error"
    assert f"{relation} is {name!r}" in found.message
    assert found.valid.split(", ")[0] == nearest
    assert found.where.endswith("step.toml:12")


def test_a_port_of_another_engine_is_no_other_input(step):
    more = '[run]\nengines = ["embedded", "nemo_rl"]\n'
    engines = {"policy": 'engines = ["nemo_rl"]'}
    _, findings = step(
        **engines, reference='engines = ["embedded"]\nsame_tokens_as = "policy"', produces=more
    )
    assert [f.id for f in findings if f.severity == "error"] == ["catalog.unknown_port"]


@pytest.mark.parametrize(
    ("port", "relation", "message"),
    [
        ("chats", 'same_template_as = "policy"', "same_template_as says nothing of training_jsonl (chats)"),
        ("data", 'same_tokens_as = "policy"', "same_tokens_as says nothing of packed_parquet (data)"),
        ("reference", 'same_tokens_as = "chats"', "same_tokens_as says nothing of training_jsonl (chats)"),
        ("policy", 'adapts = "reference"', "adapts says nothing of checkpoint_hf (policy)"),
    ],
)
def test_a_relation_that_no_check_could_see_is_an_error(step, port, relation, message):
    _, findings = step(**{port: relation})
    assert [(f.id, f.severity) for f in findings] == [("catalog.relation_type", "error")]
    assert message in findings[0].message


def test_an_output_has_no_relations(step):
    _, findings = step(produces='[[produces]]\ntype = "checkpoint_hf"\nsame_tokens_as = "policy"\n')
    assert [f.id for f in findings] == ["catalog.unknown_key"]


def test_a_relation_that_is_no_text_breaks_the_step(tmp_path, write_step, load):
    toml = '[step]\nid = "a/b"\n[[consumes]]\ntype = "checkpoint_hf"\nadapts = 1\n'
    write_step(tmp_path, "a/b", toml)
    (broken,) = load(tmp_path).broken
    assert "[[consumes]] adapts must be a string" in broken.problem
    assert broken.line == 5
