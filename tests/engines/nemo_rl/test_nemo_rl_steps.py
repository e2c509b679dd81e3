"""The four NeMo-RL steps: their shipped configs start, and their manifests say what the configs do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nemo_rl_configs import DEFAULTS, INPUTS, STEPS, config

from nemotron.catalog.discover import load_catalog
from nemotron.catalog.step import Step
from nemotron.config.compose import compose
from nemotron.engines.nemo_rl.contract import contract_for_image, load_contract
from nemotron.engines.nemo_rl.entry import entry_point_of, trainer_config
from nemotron.engines.nemo_rl.rules import check

JUDGE = "env.nemo_gym.genrm_model.responses_api_models.genrm_model.model"
DOCUMENTED_JUDGE = "env.nemo_gym.genrm_model.responses_api_models.vllm_model.model"


def step_of(entry_point: str) -> Step:
    return load_catalog({}).get(DEFAULTS[entry_point])


def default_of(entry_point: str) -> Path:
    return STEPS / DEFAULTS[entry_point] / "config" / "default.yaml"


def at(data: dict[str, Any], key: str) -> Any:
    node: Any = data
    for part in key.split("."):
        node = node[part]
    return node


@pytest.mark.parametrize("entry_point", DEFAULTS)
def test_the_shipped_config_has_no_finding(entry_point: str) -> None:
    data, step = config(entry_point), step_of(entry_point)
    contract, about_image = contract_for_image(step.run.image or "")
    rows = {"train": 10_000, "validation": 200}
    findings = [
        *about_image,
        *contract.check(entry_point_of(data), trainer_config(data)),
        *check(
            entry_point_of(data), data, rows=rows, nodes=step.run.nodes, environ={}, version=contract.version
        ),
    ]
    assert contract.version == "v0.6.0"
    assert [f.render() for f in findings if f.severity != "note"] == []


@pytest.mark.parametrize("entry_point", DEFAULTS)
def test_without_a_validation_set_the_fix_that_is_offered_works(entry_point: str) -> None:
    inputs = [text for text in INPUTS if "validation" not in text]
    data = compose(default_of(entry_point), inputs).resolve({}).data
    [finding] = [f for f in check(entry_point, data) if f.severity == "error"]
    assert finding.id == "nemo_rl.validation_set"
    _, _, offered = (finding.fix or "").partition(", or ")
    mended = compose(default_of(entry_point), [*inputs, *offered.split()]).resolve({}).data
    contract, _ = contract_for_image(step_of(entry_point).run.image or "")
    findings = [*contract.check(entry_point, trainer_config(mended)), *check(entry_point, mended)]
    assert [f.render() for f in findings if f.severity != "note"] == []


@pytest.mark.parametrize("entry_point", DEFAULTS)
def test_required_inputs_are_left_open_and_demanded(entry_point: str) -> None:
    data = compose(default_of(entry_point)).data
    step = step_of(entry_point)
    open_keys = {port.config for port in step.consumes if port.required and port.config != JUDGE}
    assert {at(data, key or "") for key in open_keys} == {"???"}
    contract, _ = contract_for_image(step.run.image or "")
    missing = {f.where for f in contract.check(entry_point, data) if f.id == "nemo_rl.missing_key"}
    assert missing == open_keys


@pytest.mark.parametrize("entry_point", DEFAULTS)
def test_every_port_and_parameter_is_a_key_of_the_config(entry_point: str) -> None:
    composed, step = compose(default_of(entry_point)), step_of(entry_point)
    for port in (*step.consumes, *step.produces):
        assert port.config is not None and composed.has(port.config), port.name
    for parameter in step.parameters:
        assert composed.has(parameter.alias_of or parameter.name), parameter.name


@pytest.mark.parametrize("entry_point", DEFAULTS)
def test_a_documented_default_is_the_config_s(entry_point: str) -> None:
    data, step = config(entry_point), step_of(entry_point)
    documented = {p.alias_of or p.name: p.default for p in step.parameters if p.default is not None}
    assert documented
    assert {key: at(data, key) for key in documented} == documented


@pytest.mark.parametrize("entry_point", DEFAULTS)
def test_checkpoints_and_logs_are_relative_so_that_a_run_owns_them(entry_point: str) -> None:
    data = config(entry_point)
    assert data["checkpointing"]["checkpoint_dir"] == "checkpoints"
    assert data["logger"]["log_dir"] == "logs"
    assert data["logger"]["tensorboard_enabled"] is True


@pytest.mark.parametrize("entry_point", DEFAULTS)
def test_no_variable_is_needed_and_only_the_scripts_own_resolvers(entry_point: str) -> None:
    text = default_of(entry_point).read_text(encoding="utf-8")
    assert text.count("${oc.env:") == (1 if entry_point == "grpo_nemo_gym" else 0)
    used = {name for name in ("mul", "div", "add", "max") if f"${{{name}:" in text}
    assert used <= set(load_contract().resolvers(entry_point))


class TestRlhf:
    def test_the_judge_has_nodes_of_its_own(self) -> None:
        data, step = config("grpo_nemo_gym"), step_of("grpo_nemo_gym")
        assert step.run.nodes == data["cluster"]["num_nodes"] + data["env"]["nemo_gym"]["num_gpu_nodes"] == 2

    def test_the_step_is_one_train_batch(self) -> None:
        data = config("grpo_nemo_gym")
        grpo = data["grpo"]
        rollouts = grpo["num_prompts_per_step"] * grpo["num_generations_per_prompt"]
        assert data["policy"]["train_global_batch_size"] == rollouts == 128

    def test_cohort_and_validation_follow_the_generations(self) -> None:
        overrides = [*INPUTS, "grpo.num_generations_per_prompt=16", "policy.train_global_batch_size=256"]
        data = compose(default_of("grpo_nemo_gym"), overrides).resolve({}).data
        assert [f.render() for f in check("grpo_nemo_gym", data) if f.severity == "error"] == []
        assert data["data"]["validation"]["repeat"] == 16

    def test_the_judge_is_the_variable_s_or_a_small_llama(self) -> None:
        composed = compose(default_of("grpo_nemo_gym"), INPUTS)
        for environ, judge in (({}, "meta-llama/Llama-3.2-1B-Instruct"), ({"RL_REWARD_MODEL": "/j"}, "/j")):
            data = composed.resolve(environ).data
            assert at(data, JUDGE) == data["env"]["nemo_gym"]["genrm_model_name"] == judge

    def test_the_documented_judge_parameter_sets_the_key_that_is_read(self) -> None:
        step = step_of("grpo_nemo_gym")
        aliases = {p.name: p.alias_of for p in step.parameters if p.alias_of}
        assert aliases == {DOCUMENTED_JUDGE: JUDGE}

    def test_each_engine_has_the_checkpoint_format_it_writes(self) -> None:
        step = step_of("grpo_nemo_gym")
        formats = {engine: [p.type for p in step.outputs(engine)] for engine in step.run.engines}
        assert formats == {engine: [("checkpoint_megatron",)] for engine in ("nemo_rl", "embedded")}


@pytest.mark.parametrize("entry_point", DEFAULTS)
def test_what_a_step_produces_is_what_its_backend_saves(entry_point: str) -> None:
    data, step = config(entry_point), step_of(entry_point)
    [port] = step.outputs("nemo_rl")
    megatron = data["policy"]["megatron_cfg"]["enabled"]
    assert megatron == (port.type == ("checkpoint_megatron",))
    if not megatron:
        assert data["checkpointing"]["model_save_format"] == "safetensors"
        assert data["checkpointing"]["save_consolidated"] is True
