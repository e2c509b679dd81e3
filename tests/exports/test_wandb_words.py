"""What of a run's config W&B gets to see, and what W&B's names are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.artifacts.runs import Run
from nemotron.exports.history import Item, shown_url
from nemotron.exports.mirror import MetricsTail
from nemotron.exports.wandb import artifact_name, public, target_of, wants_wandb

ON: dict[str, Any] = {"logger": {"wandb_enabled": True}}


def test_a_config_asks_and_an_engine_may_do_it_itself() -> None:
    assert wants_wandb(ON, "embedded")
    assert wants_wandb(ON, "script")
    assert not wants_wandb(ON, "nemo_rl")
    for config in ({}, {"logger": None}, {"logger": {"wandb_enabled": "yes"}}, {"logger": {"wandb": {}}}):
        assert not wants_wandb(config, "embedded")


def run_with(place: Path, logger: Any, name: str = "rl-rlhf-20260101-000000-abcd") -> Run:
    directory = place / name
    directory.mkdir()
    plan = {"recipe": {"step": "rl/rlhf", "config": {"logger": logger}}}
    (directory / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return Run(directory)


def test_nemo_rls_keys_say_where_a_run_goes(tmp_path: Path) -> None:
    section = {"project": "p", "name": "n", "entity": "e", "group": "g", "tags": ["a", 1]}
    target = target_of(run_with(tmp_path, {"wandb": section}))
    assert (target.project, target.name, target.entity, target.group) == ("p", "n", "e", "g")
    assert target.tags == ("a", "1")
    assert (target.id, target.job_type) == ("rl-rlhf-20260101-000000-abcd", "rl/rlhf")


@pytest.mark.parametrize("logger", [None, {}, {"wandb": None}, {"wandb": {"project": None, "name": None}}])
def test_a_config_that_says_nothing_has_a_place_too(tmp_path: Path, logger: Any) -> None:
    target = target_of(run_with(tmp_path, logger))
    assert (target.project, target.name) == ("nemotron", "rl-rlhf-20260101-000000-abcd")


@given(st.text(alphabet=st.characters(exclude_characters="/\0"), min_size=1, max_size=200))
def test_ids_are_what_wandb_takes(name: str) -> None:
    target = target_of(Run(Path("/runs") / f"x{name}"))
    assert 0 < len(target.id) <= 96
    assert not set(target.id) & set(":;,#?/' ")


def test_long_ids_that_begin_alike_stay_apart() -> None:
    one, other = (target_of(Run(Path("/runs") / ("x" * 150 + end))) for end in "ab")
    assert one.id != other.id


@pytest.mark.parametrize(
    "key", ["api_key", "apikey", "hf_token", "WANDB_API_KEY", "password", "client_secret", "access_token"]
)
def test_what_is_called_a_secret_is_hidden(key: str) -> None:
    assert public({"a": [{key: "s3cret"}]}) == {"a": [{key: "..."}]}


@pytest.mark.parametrize(
    "key", ["chat_key", "prompt_key", "eos_token", "stop_token_ids", "tokenizer", "monkey"]
)
def test_what_only_sounds_like_one_is_shown(key: str) -> None:
    assert public({key: "messages"}) == {key: "messages"}


def test_a_variables_name_is_no_secret_and_a_login_is() -> None:
    assert public({"api_key": "${oc.env:WANDB_API_KEY}"}) == {"api_key": "${oc.env:WANDB_API_KEY}"}
    assert "hunter2" not in str(public({"url": "https://me:hunter2@host/x"}))
    assert "hunter2" not in shown_url("https://host/x?token=hunter2")
    assert shown_url("step://a/b?config=tiny&seed=7") == "step://a/b?config=tiny&seed=7"


def test_artifacts_are_named_by_type_and_content() -> None:
    one = Item("rows", "training_jsonl", "/a", digest="blake3:" + "ab" * 32)
    other = Item("data", "training_jsonl", "/b", digest="blake3:" + "ab" * 32)
    assert artifact_name(one) == artifact_name(other) == "training_jsonl-" + "ab" * 6
    assert artifact_name(Item("rows", "x", "/a")) != artifact_name(Item("rows", "x", "/b"))


def write(path: Path, *steps: int, tail: str = "", mode: str = "a") -> None:
    with path.open(mode, encoding="utf-8") as file:
        file.write("".join(f'{{"step": {step}}}\n' for step in steps) + tail)


def steps(tail: MetricsTail) -> list[tuple[int, Any]]:
    return [(number, row and row["step"]) for number, row in tail.new_rows()]


def test_metrics_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert steps(tail) == []
    write(path, 1, 2, tail='{"st')
    assert steps(tail) == [(1, 1), (2, 2)]
    assert steps(tail) == []
    write(path, tail='ep": 3}\nnot json\n')
    assert steps(tail) == [(3, 3), (4, None)]


def test_a_file_written_anew_is_read_anew(tmp_path: Path) -> None:
    path, new = tmp_path / "metrics.jsonl", tmp_path / "new"
    tail = MetricsTail(path)
    write(path, 1, 2, 3)
    assert len(steps(tail)) == 3
    write(new, 1, 2, 3, 4)
    new.replace(path)
    assert steps(tail) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    write(path, 1, mode="w")
    assert steps(tail) == [(1, 1)]
