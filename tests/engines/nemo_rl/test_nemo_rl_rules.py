"""Every rule: the shipped config passes it, and one edit breaks it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nemo_rl_cases import APART, BATCH, CASES, MEGATRON, RESOURCES, Case
from nemo_rl_configs import GONE, JUDGE, config, edited

from nemotron.engines.nemo_rl.contract import load_contract
from nemotron.engines.nemo_rl.rules import RULES, check
from nemotron.errors import UsageError
from nemotron.findings import Finding

SHOWN_ALWAYS = {"nemo_rl.effective_data", "nemo_rl.steps"}
ON_DISK = {"nemo_rl.resumes", "nemo_rl.policy_format"}


def found(entry_point: str, edits: Mapping[str, object], given: Mapping[str, Any]) -> tuple[Finding, ...]:
    return check(entry_point, config(entry_point, edits), **given)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_broken_config_is_found(case: Case) -> None:
    findings = found(case.entry_point, case.edits, case.given)
    mine = [f for f in findings if f.id == case.rule and f.where == case.where and case.says in f.message]
    assert [f.severity for f in mine] == [case.severity], [f.render() for f in findings]
    assert mine[0].valid or case.severity != "error"
    if case.fix:
        assert mine[0].fix == case.fix


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_shipped_config_passes_the_same_rule(case: Case) -> None:
    if case.rule not in SHOWN_ALWAYS:
        assert case.rule not in {f.id for f in found(case.entry_point, {}, {})}


OVERRIDE = re.compile(r"\+?(?!run\.)([\w.]+)=([^ .]\S*)")


def broken_by(case: Case) -> Finding:
    findings = found(case.entry_point, case.edits, case.given)
    [broken] = [f for f in findings if f.id == case.rule and f.where == case.where and case.says in f.message]
    return broken


@pytest.mark.parametrize("case", [c for c in CASES if OVERRIDE.fullmatch(broken_by(c).fix or "")], ids=str)
def test_the_override_that_is_offered_mends_the_config(case: Case) -> None:
    match = OVERRIDE.fullmatch(broken_by(case).fix or "")
    assert match
    try:
        value = json.loads(match[2])
    except json.JSONDecodeError:
        value = match[2]
    left = check(
        case.entry_point, edited(config(case.entry_point, case.edits), {match[1]: value}), **case.given
    )
    assert broken_by(case) not in left
    assert not [f for f in left if f.id == case.rule and f.where == case.where and f.severity == "error"]


def test_every_rule_has_a_case() -> None:
    ids = {rule.id for rule in RULES}
    assert ids - {case.rule for case in CASES} == ON_DISK
    assert all(case.rule in ids for case in CASES)


def test_rule_ids_are_unique() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_an_entry_point_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        check("grpo_nemogym", {})
    assert caught.value.nearest[0] == "grpo_nemo_gym"


@pytest.mark.parametrize("entry_point", ["sft", "rm", "dpo", "grpo", "grpo_nemo_gym"])
def test_a_config_without_anything_is_judged_without_a_crash(entry_point: str) -> None:
    assert any(f.severity == "error" for f in check(entry_point, {}))


WRONG = st.sampled_from(
    [
        None,
        0,
        -1,
        1,
        3,
        1.5,
        True,
        False,
        "x",
        "???",
        "1",
        [],
        {},
        ["a"],
        [None],
        {"enabled": True},
        {"name": []},
    ]
)


def keys_of(data: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every dotted key, sections included."""
    below = [keys_of(v, f"{prefix}{k}.") for k, v in data.items() if isinstance(v, dict)]
    return [*(prefix + key for key in data), *(key for keys in below for key in keys)]


@pytest.mark.parametrize("entry_point", ["sft", "rm", "dpo", "grpo", "grpo_nemo_gym"])
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_value_anywhere_crashes_a_rule_or_the_contract(entry_point: str, data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(keys_of(config(entry_point))), min_size=1, max_size=3))
    # Longest first: a section that is replaced last takes the keys below it along.
    edits = {key: data.draw(WRONG) for key in sorted(keys, key=len, reverse=True)}
    wrong = config(entry_point, edits)
    check(entry_point, wrong, rows={"train": 100}, nodes=2, environ={})
    load_contract().check(entry_point, wrong)


class TestExceptions:
    """Conditions under which a rule does not apply."""

    def test_micro_batches_need_not_divide_when_packed(self) -> None:
        ids = {f.id for f in found("sft", {"policy.train_micro_batch_size": 3}, {})}
        assert "nemo_rl.batch_vs_micro" not in ids

    def test_on_policy_training_may_use_any_logprob_batch(self) -> None:
        edits = {f"{MEGATRON}.tensor_model_parallel_size": 4, "policy.logprob_batch_size": 4}
        assert "nemo_rl.logprob_vs_micro" not in {f.id for f in found("grpo_nemo_gym", edits, {})}

    def test_the_logprob_check_can_be_switched_off_by_its_variable(self) -> None:
        edits = {
            f"{MEGATRON}.tensor_model_parallel_size": 4,
            "policy.logprob_batch_size": 4,
            "loss_fn.force_on_policy_ratio": False,
        }
        given = {"environ": {"NRL_IGNORE_TP_ACCURACY_CHECK": "1"}}
        assert "nemo_rl.logprob_vs_micro" not in {f.id for f in found("grpo_nemo_gym", edits, given)}

    def test_sft_may_have_a_negative_period_without_validation(self) -> None:
        edits = {
            "data.validation": None,
            "sft.val_period": -1,
            "sft.val_at_start": False,
            "sft.val_at_end": False,
            "checkpointing.metric_name": None,
        }
        assert not [f for f in found("sft", edits, {}) if f.severity != "note"]

    def test_asynchronous_grpo_may_repeat_prompts(self) -> None:
        edits = {
            "data.train.repeat": 4,
            "grpo.async_grpo.enabled": True,
            APART: False,
            f"{RESOURCES}.gpus_per_node": 4,
        }
        findings = found("grpo_nemo_gym", edits, {})
        assert not [f for f in findings if f.severity == "error"], [f.render() for f in findings]

    def test_an_agent_may_call_a_server_of_another_name(self) -> None:
        agent = "responses_api_agents.simple_agent.resources_server.name"
        edits: dict[str, object] = {
            f"env.nemo_gym.{name}.{agent}": "mine"
            for name in ("genrm_simple_agent", "genrm_simple_agent_reasoning_off")
        }
        server = "env.nemo_gym.mine.resources_servers.genrm_compare"
        edits[server] = {"entrypoint": "app.py", "num_rollouts_per_prompt": 8}
        edits["env.nemo_gym.genrm_compare_resources_server"] = GONE
        findings = found("grpo_nemo_gym", edits, {})
        assert not [f for f in findings if f.severity == "error"], [f.render() for f in findings]

    def test_a_judge_that_is_served_elsewhere_needs_no_gpus(self) -> None:
        edits = {"env.nemo_gym.num_gpu_nodes": 0, f"{JUDGE}.genrm_model.base_url": "http://judge:8000/v1"}
        assert not [f for f in found("grpo_nemo_gym", edits, {"nodes": 1}) if f.severity == "error"]

    def test_metrics_of_a_gym_agent_are_known_by_their_shape(self) -> None:
        edits = {"checkpointing.metric_name": "val:genrm_simple_agent/reward/mean"}
        assert "nemo_rl.metric_name" not in {f.id for f in found("grpo_nemo_gym", edits, {})}

    def test_early_releases_have_the_flat_data_layout(self) -> None:
        data = config("sft", {"data.train_data_path": "/d/x.jsonl"})
        assert "nemo_rl.legacy_data_key" not in {f.id for f in check("sft", data, version="v0.5.0")}

    def test_training_on_the_gpus_that_generation_leaves(self) -> None:
        edits = {
            APART: False,
            "cluster.num_nodes": 3,
            f"{RESOURCES}.gpus_per_node": 8,
            f"{RESOURCES}.num_nodes": 1,
            f"{MEGATRON}.tensor_model_parallel_size": 3,
            BATCH: 126,
        }
        messages = {f.id: f.message for f in found("grpo_nemo_gym", edits, {})}
        assert "16 training GPUs" in messages["nemo_rl.world_vs_model_parallel"]
