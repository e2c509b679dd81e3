"""The type graph, and finding steps by what they take and leave."""

from __future__ import annotations

import pytest

from nemotron.catalog.cache import ParsedFiles
from nemotron.catalog.discover import load_catalog
from nemotron.catalog.types import read_types
from nemotron.errors import NotFound

NAMES_IN_USE = (
    "training_jsonl",
    "prompt_jsonl",
    "preference_jsonl",
    "rollout_jsonl",
    "packed_parquet",
    "checkpoint_hf",
    "reward_model_hf",
    "checkpoint_lora",
    "checkpoint_megatron",
    "eval_results",
)


@pytest.fixture
def graph(tmp_path):
    def graph(text, *, is_own=True):
        (tmp_path / "types.toml").write_text(text)
        return read_types(tmp_path / "types.toml", ParsedFiles(), is_own=is_own)

    return graph


def test_our_types_are_sound_and_complete():
    types = load_catalog({}).types
    assert set(NAMES_IN_USE) <= set(types.names)
    assert types.findings == ()
    assert types.is_a("reward_model_hf", "checkpoint_hf")
    assert types.is_a("translated_mcq_benchmark_parquet", "benchmark_parquet")
    for have in ("raw_jsonl", "prompt_jsonl", "preference_jsonl", "rollout_jsonl", "checkpoint_lora"):
        assert not types.is_a(have, "training_jsonl")
        assert not types.is_a(have, "checkpoint_hf")


def test_is_a_is_reflexive_and_transitive_and_one_way(graph):
    types = graph('[a]\nis_a = ["b"]\n[b]\nis_a = ["c", "d"]\n[c]\n[d]\n[e]\n')
    assert types.is_a("a", "a")
    assert types.is_a("a", "d")
    assert not types.is_a("d", "a")
    assert not types.is_a("a", "e")
    assert types.is_a("unknown", "unknown")
    assert not types.is_a("unknown", "a")
    assert types.subtypes("d") == ("d", "a", "b")
    assert types.subtypes("a") == ("a",)
    assert types.names == ("a", "b", "c", "d", "e")
    assert types.get("b").line == 3
    assert types.get("nothing") is None


@pytest.mark.parametrize(("is_own", "severity"), [(True, "error"), (False, "warning")])
def test_unsound_edges_are_found_with_their_line(graph, is_own, severity):
    types = graph(
        '[chats]\nis_a = ["row"]\n[rows]\nis_a = ["lines"]\n[lines]\n\nis_a = ["rows"]\n'
        '[model]\nconvert_to = { modle_hf = "convert/x" }\n[model_hf]\n',
        is_own=is_own,
    )
    found = [(f.id, f.severity, f.where.rpartition(":")[2], f.valid) for f in types.findings]
    assert found == [
        ("types.unknown_name", severity, "2", "rows"),
        ("types.unknown_name", severity, "9", "model_hf, model"),
        ("types.circle", severity, "4", "a more special type is_a a more general one, never back"),
    ]
    assert types.is_a("rows", "lines")
    assert types.is_a("lines", "rows")


def test_a_type_that_is_a_itself_is_a_circle(graph):
    assert [f.id for f in graph('[a]\nis_a = ["a"]\n').findings] == ["types.circle"]


def test_an_unknown_key_of_a_type_names_the_nearest(graph):
    (finding,) = graph('[a]\ndescriptoin = "x"\n').findings
    assert (finding.id, finding.severity, finding.valid) == ("types.unknown_key", "error", "description")
    assert finding.where.endswith("types.toml:2")


STEPS = {
    "sft/train": ("training_jsonl", "checkpoint_hf", "sft", "Tunes a model on chats."),
    "sft/packed": ("packed_parquet", "checkpoint_megatron", "sft", "Tunes a model fast."),
    "rm/train": ("preference_jsonl", "reward_model_hf", "rl", "Trains a judge."),
    "eval/bench": ("checkpoint_hf", "eval_results", "eval", "Scores a model."),
}


@pytest.fixture
def catalog(tmp_path, write_step, load):
    for step_id, (takes, leaves, tag, description) in STEPS.items():
        write_step(
            tmp_path / "mine",
            step_id,
            f'[step]\nid = "{step_id}"\ntags = ["{tag}", "all"]\ndescription = "{description}"\n'
            f'[[consumes]]\ntype = "{takes}"\n[[produces]]\ntype = "{leaves}"\n',
        )
    return load(tmp_path / "mine")


def found(catalog, **conditions):
    return [step.id for step in catalog.select(**conditions) if step.root == "mine"]


def test_what_a_step_takes_includes_what_may_stand_in(catalog):
    assert found(catalog, consumes="training_jsonl") == ["sft/train"]
    assert found(catalog, consumes="filtered_jsonl") == ["sft/train"]
    assert found(catalog, consumes="reward_model_hf") == ["eval/bench"]
    assert found(catalog, consumes="raw_jsonl") == []


def test_what_a_step_leaves_includes_more_special_types(catalog):
    assert found(catalog, produces="checkpoint_hf") == ["rm/train", "sft/train"]
    assert found(catalog, produces="reward_model_hf") == ["rm/train"]
    assert [s.id for s in catalog.producers_of("checkpoint_hf") if s.root == "mine"] == [
        "rm/train",
        "sft/train",
    ]
    assert catalog.producers_of("no_such_type") == ()


def test_conditions_add_up(catalog):
    assert found(catalog) == sorted(STEPS)
    assert found(catalog, category="sft") == ["sft/packed", "sft/train"]
    assert found(catalog, category="sft", produces="checkpoint_hf") == ["sft/train"]
    assert found(catalog, tags=["rl", "all"]) == ["rm/train"]
    assert found(catalog, tags=["rl", "sft"]) == []
    assert found(catalog, text="MODEL chats") == ["sft/train"]
    assert found(catalog, text="rm/") == ["rm/train"]
    assert found(catalog, text="chats judge") == []


@pytest.mark.parametrize(
    ("conditions", "nearest"),
    [
        ({"consumes": "trainig_jsonl"}, "training_jsonl"),
        ({"produces": "checkpoint"}, "checkpoint_hf"),
        ({"category": "evl"}, "eval"),
        ({"tags": ["sfd"]}, "sft"),
    ],
)
def test_an_unknown_value_is_not_found_with_the_nearest(catalog, conditions, nearest):
    with pytest.raises(NotFound) as caught:
        catalog.select(**conditions)
    assert nearest in caught.value.nearest
    assert caught.value.exit_code == 3


def test_a_foreign_step_is_searched_by_its_own_types(existing, load):
    catalog = load(existing)
    takes_raw = [step.id for step in catalog.select(consumes="raw_jsonl") if step.root == "existing"]
    assert takes_raw == ["clean/filter", "tune/toolkit"]
    # A type that only ours knows is looked up in ours.
    takes_model = [step.id for step in catalog.select(consumes="reward_model_hf") if step.root == "existing"]
    assert takes_model == ["align/lab/ppo", "tune/toolkit"]
