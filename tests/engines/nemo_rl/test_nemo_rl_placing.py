"""What a NeMo-RL config needs of its place, and what the place decides in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nemo_rl_configs import COMPARE, DEFAULTS, GONE, JUDGE, config
from stand_in import seconds
from test_nemo_rl_overrides import facts

from nemotron.engines.nemo_rl.engine import ENGINE
from nemotron.engines.nemo_rl.placing import clock, seconds_of

MUST = "checkpointing.checkpoint_must_save_by"
HEAD = {"DEDICATED_RAY_HEAD": "1"}
KWARGS = f"{JUDGE}.genrm_model.vllm_serve_kwargs"


def placed(entry_point: str = "sft", length: int | None = None, save: int | None = None, **edits: Any) -> Any:
    return ENGINE.placed(config(entry_point, edits), seconds=length, save_before=save)


def problems(entry_point: str, nodes: int, gpus: int = 8, **edits: Any) -> list[tuple[str, str | None]]:
    data = config(entry_point, edits)
    found = ENGINE.check_place(facts(entry_point), data, nodes=nodes, gpus_per_node=gpus)
    assert all(f.severity == "error" for f in found)
    return [(f.id, f.fix) for f in found]


class TestShape:
    def test_the_judge_s_nodes_come_on_top(self) -> None:
        shape = ENGINE.shape(facts("grpo_nemo_gym"), config("grpo_nemo_gym", {"cluster.num_nodes": 3}))
        assert (shape.launch, shape.nodes, shape.gpus_per_node) == ("ray", 4, 8)
        assert shape.why["nodes"] == "cluster.num_nodes 3 + env.nemo_gym.num_gpu_nodes 1"
        assert shape.image == "nvcr.io/nvidia/nemo-rl:v0.6.0"

    def test_so_does_a_dedicated_ray_head(self) -> None:
        shape = ENGINE.shape(facts(), config("sft"), HEAD)
        assert (shape.nodes, shape.why["nodes"]) == (2, "cluster.num_nodes 1 + DEDICATED_RAY_HEAD=1")

    def test_a_judge_of_a_script_without_gym_takes_none(self) -> None:
        data = config("grpo", {"env.nemo_gym": {"num_gpu_nodes": 4}})
        assert ENGINE.shape(facts("grpo_nemo_gym"), data).nodes == 1

    def test_without_a_cluster_section_the_manifest_counts(self) -> None:
        shape = ENGINE.shape(facts(), config("sft", {"cluster": {}}))
        assert (shape.nodes, shape.gpus_per_node) == (1, 8)
        assert shape.why["nodes"] == shape.why["gpus_per_node"] == "the manifest of sft/nemo_rl"


class TestCheckPlace:
    @pytest.mark.parametrize("entry_point", DEFAULTS)
    def test_the_place_that_a_shipped_config_asks_for_is_right(self, entry_point: str) -> None:
        nodes = ENGINE.shape(facts(entry_point), config(entry_point)).nodes
        assert problems(entry_point, nodes) == []

    @pytest.mark.parametrize("nodes", [1, 3])
    def test_nodes_that_do_not_add_up_are_refused(self, nodes: int) -> None:
        assert problems("grpo_nemo_gym", nodes) == [("place.nodes", "run.env.nodes=2")]

    def test_a_dedicated_head_is_counted(self) -> None:
        data = config("sft")
        found = ENGINE.check_place(facts(), data, nodes=1, gpus_per_node=8, environment=HEAD)
        assert ["the step needs 2" in f.message for f in found] == [True]

    @pytest.mark.parametrize("gpus", [4, 16])
    def test_another_number_of_gpus_a_node_is_refused(self, gpus: int) -> None:
        assert problems("sft", 1, gpus) == [("place.gpus_per_node", f"cluster.gpus_per_node={gpus}")]

    def test_a_judge_that_only_fits_on_larger_nodes_is_told_of_too(self) -> None:
        found = problems("grpo_nemo_gym", 2, 4)
        assert {name for name, _ in found} == {"place.gpus_per_node", "place.judge_gpus"}

    def test_a_judge_that_fits_nowhere_is_the_config_s_fault(self) -> None:
        found = problems("grpo_nemo_gym", 2, 4, **{f"{KWARGS}.tensor_parallel_size": 64})
        assert [name for name, _ in found] == ["place.gpus_per_node"]


class TestPlaced:
    def test_relative_directories_go_into_the_run(self) -> None:
        found = placed()
        assert found["checkpointing.checkpoint_dir"] == "{run_dir}/checkpoints"
        assert found["logger.log_dir"] == "{run_dir}/logs"

    def test_absolute_ones_stay(self) -> None:
        edits = {"checkpointing.checkpoint_dir": "/c", "logger.log_dir": "/l"}
        assert placed(**edits) == {}

    def test_the_state_is_saved_while_there_is_time_for_it_and_for_the_start(self) -> None:
        # The framework counts from its first step: 15 minutes are left for what comes before that.
        assert placed(length=4 * 3600, save=900)[MUST] == "00:03:30:00"

    def test_a_short_allocation_is_not_all_margin(self) -> None:
        assert placed(length=600, save=60)[MUST] == "00:00:08:00"

    def test_a_shorter_time_of_the_config_stays(self) -> None:
        assert placed(length=4 * 3600, save=900, **{MUST: "00:01:00:00"})[MUST] == "00:01:00:00"
        assert placed(length=4 * 3600, save=900, **{MUST: "00:04:00:00"})[MUST] == "00:03:30:00"

    def test_without_an_end_nothing_is_set(self) -> None:
        assert MUST not in placed()

    @given(st.integers(1, 10**7), st.integers(0, 10**7))
    def test_there_is_always_some_time_and_never_more_than_there_is(self, length: int, save: int) -> None:
        assert 1 <= seconds(placed(length=length, save=save)[MUST]) <= max(1, length - save)

    def test_scalars_are_kept_on_disk(self) -> None:
        off = {"logger.tensorboard_enabled": False}
        assert placed(**off)["logger.tensorboard_enabled"] is True
        assert "logger.tensorboard" not in placed(**off)
        assert placed(**off, **{"logger.tensorboard": GONE})["logger.tensorboard"] == {}
        assert "logger.tensorboard_enabled" not in placed()


@given(st.integers(0, 10**8))
def test_the_clock_reads_back(number: int) -> None:
    assert seconds_of(clock(number)) == seconds(clock(number)) == number


@pytest.mark.parametrize("text", [None, "", "3600", "03:00:00", "a:b:c:d", "-1:00:00:00", "1:2:3:4:5"])
def test_another_form_is_no_time(text: str | None) -> None:
    assert seconds_of(text) is None


class TestPrefetch:
    def test_models_that_are_named_by_a_hub_id_are_fetched_once(self) -> None:
        edits = {"policy.model_name": "org/policy", "policy.tokenizer.name": "org/policy"}
        commands = ENGINE.prefetch(config("grpo_nemo_gym", edits))
        assert commands == (
            ("hf", "download", "org/policy"),
            ("hf", "download", "meta-llama/Llama-3.2-1B-Instruct"),
        )

    def test_what_is_an_input_or_a_directory_is_not(self) -> None:
        judge = {f"{JUDGE}.genrm_model.model": "in://reward_model", "env.nemo_gym.genrm_model_name": None}
        assert ENGINE.prefetch(config("grpo_nemo_gym", judge)) == ()

    def test_a_judge_that_is_served_elsewhere_is_not(self) -> None:
        assert ENGINE.prefetch(config("grpo_nemo_gym", {f"{JUDGE}.genrm_model.base_url": "http://h:1"})) == ()

    def test_a_data_set_of_the_hub_is_fetched_as_one(self) -> None:
        commands = ENGINE.prefetch(config("sft", {"data.train.data_path": "org/chats"}))
        assert commands == (("hf", "download", "--repo-type", "dataset", "org/chats"),)


class TestPlannedSteps:
    @pytest.mark.parametrize(
        ("entry_point", "rows", "steps"),
        [
            ("sft", {"data": 10_000}, 78),
            ("sft", {"data": 10**7}, 1000),
            ("sft", {"validation": 5}, 1000),
            ("sft", {}, 1000),
            ("grpo_nemo_gym", {"prompts": 1600}, 100),
            ("dpo", {"data": 127}, 1),
        ],
    )
    def test_the_step_limit_or_what_the_rows_hold(
        self, entry_point: str, rows: dict[str, int], steps: int
    ) -> None:
        assert ENGINE.planned_steps(config(entry_point), rows) == steps

    def test_without_any_limit_nobody_knows(self) -> None:
        edits = {"sft.max_num_steps": -1}
        assert ENGINE.planned_steps(config("sft", edits), {}) is None
        assert ENGINE.planned_steps(config("sft", edits), {"data": 1280}) == 10


class TestLoading:
    def found(self, entry_point: str, **edits: Any) -> list[str]:
        findings = ENGINE.check(config(entry_point, edits), facts(entry_point))
        return [f.id for f in findings if f.severity != "note"]

    @pytest.mark.parametrize("entry_point", DEFAULTS)
    def test_a_shipped_config_has_nothing_left_to_fill_in(self, entry_point: str) -> None:
        assert "nemo_rl.interpolation" not in self.found(entry_point)

    @pytest.mark.parametrize(
        ("text", "refused"),
        [
            ("${mul:2,3}", ("dpo", "rm")),
            ("${oc.env:HF_HOME,x}", ()),
            ("${art:model,path}", ("sft", "grpo_nemo_gym", "dpo", "rm")),
            ("costs ${cluster.num_nodes}", ("sft", "grpo_nemo_gym", "dpo", "rm")),
            ("costs $5 {or so}", ()),
            (r"\${mul:2,3}", ()),
        ],
    )
    def test_only_what_the_script_s_own_loader_knows_may_be_left(
        self, text: str, refused: tuple[str, ...]
    ) -> None:
        for entry_point in DEFAULTS:
            ids = self.found(entry_point, **{"logger.wandb.name": text})
            assert ("nemo_rl.interpolation" in ids) == (entry_point in refused), entry_point

    def test_data_that_the_job_would_look_for_in_the_image_is_told_of(self) -> None:
        assert "nemo_rl.relative_path" in self.found("sft", **{"data.train.data_path": "data/train.jsonl"})

    @pytest.mark.parametrize("value", ["03:45:00", 13500, "soon"])
    def test_a_time_to_save_by_that_the_framework_cannot_read_is_refused(self, value: object) -> None:
        assert "nemo_rl.must_save_by" in self.found("sft", **{MUST: value})


class TestJudgeInput:
    def test_an_input_that_no_compare_server_asks_is_refused(self) -> None:
        edits = {
            f"{JUDGE}.genrm_model.model": "in://reward_model",
            "env.nemo_gym.genrm_model_name": None,
            f"{COMPARE}.genrm_model_server.name": "elsewhere",
        }
        [found] = [
            f
            for f in ENGINE.check(config("grpo_nemo_gym", edits), facts("grpo_nemo_gym"))
            if f.id == "nemo_rl.judge_input"
        ]
        assert found.message.endswith("calls elsewhere, which names no model")
