"""The table of config keys: well-formed, true, and the reason for every key without effect."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nemotron.catalog.discover import load_catalog
from nemotron.config.compose import compose
from nemotron.engines.embedded.engine import ENGINE
from nemotron.engines.embedded.keys import TABLE, leaves, notes, table_for, unknown_keys

SHIPPED = [
    (step.id, name) for step in load_catalog({}).steps if "embedded" in step.engines for name in step.configs
]


def shipped(step: str, name: str) -> dict[str, Any]:
    configs = load_catalog({}).get(step).configs
    resolved = compose(configs[name], configs=configs).resolve({})
    return ENGINE.training_config(resolved.data)


@pytest.mark.parametrize("rule", list(TABLE), ids=lambda r: r.pattern)
def test_every_rule_is_well_formed(rule: Any) -> None:
    *middle, last = rule.pattern.split(".")
    assert all(re.fullmatch(r"\*|[a-z0-9_]+", part) for part in middle), rule.pattern
    assert re.fullmatch(r"\*|[a-z0-9_]+|[a-z0-9_]*\*\*", last), rule.pattern
    assert (rule.note == "") == (rule.effect == "honoured"), "a reason where and only where one is due"


@pytest.mark.parametrize("rule", list(TABLE), ids=lambda r: r.pattern)
def test_every_rule_is_reached_by_some_key(rule: Any) -> None:
    key = rule.pattern.replace("**", "anything").replace("*", "anything")
    assert TABLE.rule_for(key) is rule, "a wider pattern stands before it"


def test_the_first_match_counts() -> None:
    assert TABLE.rule_for("grpo.seed").effect == "honoured"  # type: ignore[union-attr]
    assert TABLE.rule_for("grpo.no_such_thing").effect == "no_effect"  # type: ignore[union-attr]
    assert TABLE.rule_for("data.train.data_path").effect == "honoured"  # type: ignore[union-attr]
    assert TABLE.rule_for("data.train.dataset_name").note.startswith("the form of the rows")  # type: ignore[union-attr]
    shaping = "grpo.reward_shaping"
    assert TABLE.rule_for(f"{shaping}.enabled").effect == "honoured"  # type: ignore[union-attr]
    assert TABLE.rule_for(f"{shaping}.stop_properly_penalty_coef").effect == "no_effect"  # type: ignore[union-attr]
    assert TABLE.rule_for("loss_fn.truncated_importance_sampling_ratio").pattern.endswith("_**")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "key", ["gpro.seed", "polcy.model_name", "seed", "embedded.thread", "checkpoint.dir"]
)
def test_a_key_that_no_rule_knows_is_an_error_with_the_nearest(key: str) -> None:
    assert TABLE.rule_for(key) is None
    config: dict[str, Any] = {}
    node = config
    *parents, last = key.split(".")
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = 1
    (finding,) = unknown_keys(config)
    assert (finding.severity, finding.where) == ("error", key)
    assert finding.valid


@pytest.mark.parametrize(("step", "name"), SHIPPED)
def test_the_notes_of_a_shipped_config_name_keys_it_holds(step: str, name: str) -> None:
    config = shipped(step, name)
    assert unknown_keys(config) == ()
    present = set(leaves(config))
    named = dict(notes(config))
    for key, reason in named.items():
        below = {k for k in present if k == key or k.startswith(key + ".")}
        assert below, f"{key} is not in the config"
        assert reason
        for leaf in below:
            rule = table_for(config).rule_for(leaf)
            assert rule is not None
            assert rule.effect == "no_effect", f"{leaf} has an effect, and {key} is said to have none"
            assert rule.note == reason
    table = table_for(config)
    rules = {k: table.rule_for(k) for k in present}
    silent = {k for k, rule in rules.items() if rule is not None and rule.effect == "no_effect"} - {
        k for k in present for key in named if k == key or k.startswith(key + ".")
    }
    assert silent == set(), "without effect and not told"


def test_the_rlhf_default_is_known_in_whole_sections() -> None:
    named = dict(notes(shipped("rl/nemo_rl/rlhf", "default")))
    for section in ("logger.gpu_monitoring", "cluster", "policy.generation.vllm_cfg", "grpo.async_grpo"):
        assert section in named
        assert not any(key.startswith(section + ".") for key in named), "told once"


def test_wandb_is_told_of_a_run_and_has_an_effect_therefore() -> None:
    named = dict(notes(shipped("rl/nemo_rl/rlhf", "default")))
    assert not {"logger", "logger.wandb", "logger.wandb_enabled", "logger.wandb.project"} & set(named)
    assert "logger.log_dir" in named
    other = {"logger": {"wandb": {"project": "p", "mode": "shared"}}}
    assert list(dict(notes(other))) == ["logger.wandb.mode"]


def test_a_section_with_two_reasons_is_told_key_by_key() -> None:
    config = {"policy": {"tokenizer": {"chat_template_kwargs": {"a": 1}, "use_fast": True}}}
    assert set(dict(notes(config))) == {"policy.tokenizer.chat_template_kwargs", "policy.tokenizer.use_fast"}
