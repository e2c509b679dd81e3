"""What follows `--`: read as Hydra reads it, and checked before anything is submitted."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nemo_rl_configs import DEFAULTS, JUDGE, config

from nemotron.engines.base import StepFacts
from nemotron.engines.nemo_rl.engine import ENGINE
from nemotron.engines.nemo_rl.overrides import check_overrides

HYDRA = json.loads((Path(__file__).parent / "data" / "hydra_overrides.json").read_text(encoding="utf-8"))
CONFIG = HYDRA["config"]
GROUP = "grpo.num_generations_per_prompt"


def facts(entry_point: str = "sft", **rows: int) -> StepFacts:
    return StepFacts(
        step=DEFAULTS[entry_point],
        directory=Path("/s"),
        script=None,
        command=None,
        launch="ray",
        nodes=1,
        gpus_per_node=8,
        image="nvcr.io/nvidia/nemo-rl:v0.6.0",
        rows=rows,
        bound={},
    )


def found(entry_point: str, *arguments: str, **edits: Any) -> list[str]:
    data = config(entry_point, {"data.train.data_path": "in://data", **edits})
    return [f.id for f in ENGINE.check_arguments(data, facts(entry_point), arguments)]


@pytest.mark.parametrize("text", HYDRA["accepted"])
def test_what_hydra_accepts_gives_the_config_that_hydra_gives(text: str) -> None:
    changed, problems = check_overrides(CONFIG, [text], ())
    assert problems == ()
    assert changed == HYDRA["accepted"][text]
    assert json.dumps(changed, sort_keys=True) == json.dumps(HYDRA["accepted"][text], sort_keys=True)


@pytest.mark.parametrize("text", HYDRA["refused"])
def test_what_hydra_refuses_is_an_error(text: str) -> None:
    before = copy.deepcopy(CONFIG)
    changed, [problem] = check_overrides(CONFIG, [text], ())
    assert (problem.id, problem.severity, problem.where) == ("nemo_rl.override", "error", "after --")
    assert changed == before == CONFIG


@given(st.text(max_size=40))
def test_no_text_stops_the_check(text: str) -> None:
    for argument in (text, f"a.b={text}", f"+{text}=1"):
        changed, problems = check_overrides(CONFIG, [argument], ())
        assert problems or isinstance(changed, dict)


@given(st.text(st.characters(blacklist_characters="'\\", blacklist_categories=("Cs",)), max_size=40))
def test_a_text_in_quotes_arrives_as_it_is(text: str) -> None:
    changed, problems = check_overrides(CONFIG, [f"s='{text}'"], ())
    assert (problems, changed["s"]) == ((), text)


def test_a_mistyped_key_gets_the_nearest_and_the_way_to_add_it() -> None:
    _, [problem] = check_overrides(config("sft"), ["sft.max_num_stepz=3"], ())
    assert "sft.max_num_steps" in (problem.valid or "")
    assert problem.fix == "+sft.max_num_stepz=3"


def test_later_arguments_see_what_earlier_ones_made() -> None:
    changed, problems = check_overrides(CONFIG, ["+a.new={x:1}", "a.new.x=2", "~s"], ())
    assert (problems, changed["a"]["new"], "s" in changed) == ((), {"x": 2}, False)


class TestWithTheFrameworksRules:
    def test_no_arguments_cost_nothing(self) -> None:
        assert found("sft") == []

    def test_a_harmless_one_has_no_finding(self) -> None:
        assert found("sft", "sft.max_num_steps=3") == []

    def test_a_plus_that_adds_a_typo_is_told_of(self) -> None:
        assert found("sft", "+sft.max_num_stepss=3") == ["nemo_rl.unknown_key"]

    def test_a_value_of_the_wrong_type_is_refused(self) -> None:
        assert found("sft", "sft.max_num_steps=many") == ["nemo_rl.wrong_type"]

    def test_numbers_that_no_longer_fit_are_refused(self) -> None:
        assert "nemo_rl.genrm_cohort" in found("grpo_nemo_gym", f"{GROUP}=4")

    @pytest.mark.parametrize(
        "argument",
        [
            "data.train.data_path=/elsewhere.jsonl",
            "data.train={data_path:/elsewhere.jsonl}",
            "~data.train",
            "checkpointing.checkpoint_dir=/elsewhere",
            "++logger.log_dir=/elsewhere",
            "checkpointing.checkpoint_must_save_by=null",
            "checkpointing.metric_name=null",
        ],
    )
    def test_what_the_plan_goes_by_stays(self, argument: str) -> None:
        assert found("sft", argument) == ["nemo_rl.override_of_plan"]

    def test_a_judge_that_is_an_input_stays(self) -> None:
        key = f"{JUDGE}.genrm_model.model"
        edits = {key: "in://reward_model", "env.nemo_gym.genrm_model_name": "in://reward_model"}
        assert found("grpo_nemo_gym", f"{key}=other/judge", **edits) == ["nemo_rl.override_of_plan"]

    def test_an_option_is_refused(self) -> None:
        assert found("sft", "--config=/other.yaml") == ["nemo_rl.override"]
