"""A secret is named in plans and read by the job; its value is written nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.planning.build import plan_step
from nemotron.planning.render import render_plan
from nemotron.planning.request import Request

MARKER = "hf_marker_0123456789abcdef"


@pytest.fixture
def with_secret(world: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's config that reads a token, directly, inside text and through another key."""
    monkeypatch.setenv("HF_TOKEN", MARKER)
    text = (
        f"defaults: {world.catalog}/make/rows/config/default.yaml\n"
        "hub:\n"
        "  token: ${oc.env:HF_TOKEN}\n"
        "  header: 'Bearer ${hub.token}'\n"
        "  url: https://user:${oc.env:HF_TOKEN,none}@host\n"
    )
    (world.work / "mine.yaml").write_text(text)
    return "./mine.yaml"


def test_a_plan_names_the_variable_and_not_its_value(with_secret: str) -> None:
    plan = plan_step(Request("make/rows", with_secret))
    for text in (plan.to_json(), render_plan(plan), repr(plan)):
        assert MARKER not in text
    assert plan.placement.secrets == ("HF_TOKEN",)
    assert plan.recipe.config["hub"]["token"] == "${oc.env:HF_TOKEN}"
    assert [line.partition(":")[0] for line in plan.late] == ["hub.token", "hub.header", "hub.url"]
    assert "HF_TOKEN (secret" in render_plan(plan)


def test_another_token_is_the_same_recipe(with_secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plan_step(Request("make/rows", with_secret)).to_json()
    monkeypatch.setenv("HF_TOKEN", "another")
    assert plan_step(Request("make/rows", with_secret)).to_json() == first
    monkeypatch.delenv("HF_TOKEN")
    assert plan_step(Request("make/rows", with_secret)).to_json() == first


def test_a_run_leaves_no_trace_of_a_secret(
    world: Any, with_secret: str, cli: Callable[..., Any], tmp_path: Path
) -> None:
    done = cli("steps", "run", "make/rows", "-c", with_secret, "--json")
    assert done.code == 0, done.err
    run = Path(done.json["directory"])
    assert "started hf_ma" in (run / "logs/attempt-1.log").read_text(), "the program itself has it"
    assert "${oc.env:HF_TOKEN}" in (run / "config.yaml").read_text()
    said = [done.out, done.err]
    for words in (
        ("runs", "show", run.name),
        ("runs", "show", run.name, "--json"),
        ("runs", "logs", run.name),
    ):
        said.append(cli(*words).out)
    said += [
        cli("steps", "run", "make/rows", "-c", with_secret, *more).out for more in (("-d",), ("-d", "--json"))
    ]
    said.append(cli("steps", "run", "make/rows", "-c", with_secret, "-d", "--explain", "hub.token").out)
    said += [cli("steps", "run", "make/rows", "-c", with_secret, "hub.tokn=1").err]
    assert not [text for text in said if MARKER in text]
    files = [p for p in (*world.home.rglob("*"), *(tmp_path / "cache").rglob("*")) if p.is_file()]
    assert len(files) > 20
    assert not [p for p in files if MARKER.encode() in p.read_bytes()]


def test_a_failing_run_leaves_no_trace_either(world: Any, with_secret: str, cli: Callable[..., Any]) -> None:
    done = cli("steps", "run", "make/rows", "-c", with_secret, "behave=fail", "--json")
    assert done.code == 1
    assert MARKER not in done.out + done.err
    assert not [p for p in world.home.rglob("*") if p.is_file() and MARKER.encode() in p.read_bytes()]


def test_a_secret_never_stands_in_a_process_list(
    world: Any, with_secret: str, cli: Callable[..., Any]
) -> None:
    plan = cli("steps", "run", "make/rows", "-c", with_secret, "-d", "--json").json
    assert MARKER not in json.dumps(plan["placement"]["argv"])
    assert "HF_TOKEN" not in plan["placement"]["environment"]
