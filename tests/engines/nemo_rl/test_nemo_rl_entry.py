"""Which script a config is for, what NeMo-RL gets of it, and whether it can run here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from nemo_rl_configs import DEFAULTS, config

from nemotron.engines.nemo_rl.contract import known_versions, load_contract
from nemotron.engines.nemo_rl.entry import ENTRY_POINTS, entry_point_of, trainer_config, why_not_here
from nemotron.errors import UsageError


@pytest.mark.parametrize("name", [*DEFAULTS, "grpo"])
def test_a_config_names_its_entry_point_by_its_sections(name: str) -> None:
    assert entry_point_of(config(name)) == name


def test_the_gym_switch_decides_between_the_two_grpo_scripts() -> None:
    assert entry_point_of(config("grpo_nemo_gym", {"env.should_use_nemo_gym": False})) == "grpo"


@pytest.mark.parametrize("data", [{}, {"policy": {}}, {"sft": {}, "dpo": {}}, {"sft": None}])
def test_a_config_for_none_or_several_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        entry_point_of(data)
    assert caught.value.valid == ("sft", "rm", "dpo", "grpo")


@pytest.mark.parametrize("version", known_versions())
def test_the_scripts_are_those_of_the_contracts(version: str) -> None:
    contract = load_contract(version)
    assert {n: e.script for n, e in ENTRY_POINTS.items()} == {
        n: contract.script(n) for n in contract.entry_points
    }


def test_an_unbound_validation_set_is_none_for_the_trainer() -> None:
    data = config("sft", {"data.validation.data_path": None, "embedded": {"seed": 1}})
    for_trainer = trainer_config(data)
    assert for_trainer["data"]["validation"] is None
    assert "embedded" not in for_trainer
    assert data["data"]["validation"] == {"data_path": None}


def test_a_bound_validation_set_stays() -> None:
    data = config("sft")
    assert trainer_config(data) == data


def test_a_registered_set_without_a_path_stays() -> None:
    data = config("sft", {"data.validation": {"dataset_name": "squad", "split": "validation"}})
    assert trainer_config(data)["data"]["validation"] == {"dataset_name": "squad", "split": "validation"}


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert "nemo_rl is not installed" in (why_not_here() or "")


def test_a_directory_of_that_name_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nemo_rl").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert "nemo_rl is not installed" in (why_not_here() or "")


def test_nothing_is_missing_where_both_packages_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("nemo_rl", "ray"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert why_not_here() is None
