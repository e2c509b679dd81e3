"""The condenser: from classes with evidence to sections with keys."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nemotron.engines.nemo_rl.contract import Contract

TOOL = Path(__file__).parents[3] / "tools" / "condense_contract.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("condense_contract", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def key(text: str, *, required: bool = True, **more: Any) -> dict[str, Any]:
    nullable = text.endswith("| None")
    return {"type": text, "required": required, "nullable": nullable, "source": "a.py:1", **more}


def classes(**fields: dict[str, Any]) -> dict[str, Any]:
    return {f"m.{name}": {"kind": "TypedDict", "fields": keys} for name, keys in fields.items()}


def extracted() -> dict[str, Any]:
    """A contract of the extractor's shape, small enough to read."""
    entry = {"script": "run.py", "root": "m.Master", "validated_at_start": False}
    names = ("sft", "rm", "dpo", "grpo", "grpo_nemo_gym")
    switch = {"key": "enabled", "map": {"true": "m.On", "false": "m.Off"}}
    return {
        "framework": "nemo_rl",
        "version": "v9",
        "commit": "c",
        "entry_points": dict.fromkeys(names, entry),
        "resolvers": {name: ["mul"] for name in names},
        "generation_backends": {"vllm": "m.Vllm"},
        "classes": classes(
            Master={
                "policy": key("m.Policy"),
                "data": key("m.Data"),
                "env": key("dict[str, Any]"),
            },
            Policy={
                "lora": key("m.On | m.Off", variants=switch),
                "generation": key("m.GenerationConfig", required=False),
                "rates": key("list[float] | None"),
                "mode": key("Literal['a', 'b']", choices=["a", "b"]),
                "seed": key("int", required=False),
                "anywhere": key("int", required=False),
            },
            On={"enabled": key("Literal[True]", choices=[True]), "dim": key("int")},
            Off={"enabled": key("Literal[False]", choices=[False])},
            GenerationConfig={"backend": key("str")},
            Vllm={"backend": key("str"), "vllm_cfg": key("dict[str, Any]")},
            Data={"train": key("m.Answers | m.Pairs | list[m.Answers]")},
            Answers={"path": key("str"), "answer": key("str")},
            Pairs={"path": key("str"), "chosen": key("str")},
        ),
        "hard_indexed_optional": [
            read("policy.seed", ["sft"], in_branch=False),
            read("policy.mode", ["sft"], in_branch=True),
            read("policy.anywhere", ["shared"], in_branch=False),
            {**read("policy.undeclared", ["shared"], in_branch=True), "kind": "undeclared"},
            read("checkpointing.keep_top_k", ["shared"], in_branch=False),
        ],
    }


def read(name: str, scope: list[str], *, in_branch: bool) -> dict[str, Any]:
    return {
        "key": name,
        "kind": "not_required",
        "scope": scope,
        "evidence": [{"at": "b.py:7", "in_branch": in_branch, "scope": scope}],
    }


@pytest.fixture
def contract(tool: ModuleType) -> Contract:
    return Contract("v9", json.loads(tool.render(tool.condense(extracted()))))


GOOD = {
    "policy": {"lora": {"enabled": False}, "rates": None, "mode": "a", "seed": 1},
    "data": {"train": {"path": "/d", "answer": "x"}},
    "env": {"anything": 1},
}


def test_a_config_that_fits_has_no_finding(contract: Contract) -> None:
    assert contract.check("sft", GOOD) == ()


def test_a_union_knows_the_keys_of_all_and_demands_those_of_each(contract: Contract) -> None:
    for row in ({"path": "/d", "chosen": "x"}, {"path": "/d"}):
        assert contract.check("sft", {**GOOD, "data": {"train": row}}) == ()
        assert contract.check("sft", {**GOOD, "data": {"train": [row]}}) == ()
    [finding] = contract.check("sft", {**GOOD, "data": {"train": {"chosen": "x"}}})
    assert finding.where == "data.train.path"


def test_the_variant_that_is_switched_on_is_checked(contract: Contract) -> None:
    policy = {**GOOD["policy"], "lora": {"enabled": True}}
    assert [f.where for f in contract.check("sft", {**GOOD, "policy": policy})] == ["policy.lora.dim"]


def test_a_backend_brings_its_own_section(contract: Contract) -> None:
    policy = {**GOOD["policy"], "generation": {"backend": "vllm"}}
    assert [f.where for f in contract.check("sft", {**GOOD, "policy": policy})] == [
        "policy.generation.vllm_cfg"
    ]
    other = {**GOOD["policy"], "generation": {"backend": "own"}}
    assert contract.check("sft", {**GOOD, "policy": other}) == ()


def test_only_reads_that_always_happen_are_demanded_and_only_there(contract: Contract) -> None:
    policy = {k: v for k, v in GOOD["policy"].items() if k != "seed"}
    assert [f.where for f in contract.check("sft", {**GOOD, "policy": policy})] == ["policy.seed"]
    assert contract.check("dpo", {**GOOD, "policy": policy}) == ()
    assert {r["key"] for r in contract.spec["hard_indexed"]} == {"policy.seed", "checkpointing.keep_top_k"}


def test_a_key_that_is_read_without_being_declared_is_known(contract: Contract) -> None:
    policy = {**GOOD["policy"], "undeclared": {"any": "thing"}, "unheard": 1}
    assert [f.where for f in contract.check("sft", {**GOOD, "policy": policy})] == ["policy.unheard"]


def test_type_texts_are_split_at_their_own_level(tool: ModuleType) -> None:
    assert tool.alternatives("list[A | B] | dict[str, list[int]] | None") == [
        "list[A | B]",
        "dict[str, list[int]]",
        "None",
    ]


def test_wrong_arguments_are_told(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([]) == 2
    assert "EXTRACTED.json" in capsys.readouterr().err
