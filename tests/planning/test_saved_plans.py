"""A saved plan is run as it was shown, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def saved(world: Any) -> Path:
    rows = world.work / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "2"}]}
    rows.write_text(json.dumps(row) + "\n", encoding="utf-8")
    done = world.run("steps", "run", "use/count", "-i", f"rows={rows}", "-d", "-o", "plan.json")
    assert done.code == 0, done.err
    return Path(world.work / "plan.json")


def test_a_saved_plan_runs_just_as_it_was_shown(world: Any, saved: Path) -> None:
    done = world.run("steps", "run", "plan.json", "--json")
    assert done.code == 0, done.err
    run = Path(done.json["directory"])
    assert json.loads((run / "plan.json").read_text())["recipe"] == json.loads(saved.read_text())["recipe"]
    again = world.run("steps", "run", "plan.json", "--json")
    assert again.json["outcome"] == "reused"


def test_a_dry_run_shows_what_was_saved(world: Any, saved: Path) -> None:
    shown = world.run("steps", "run", "plan.json", "-d", "--json")
    assert shown.code == 0 and shown.json == json.loads(saved.read_text())


def test_an_input_that_changed_since_is_refused(world: Any, saved: Path) -> None:
    rows = world.work / "rows.jsonl"
    rows.write_text(rows.read_text() * 2, encoding="utf-8")
    done = world.run("steps", "run", "plan.json")
    assert done.code == 4
    assert "input rows has changed since" in done.err and "plan.changed" in done.err
    assert world.runs() == []


def test_an_input_that_is_gone_is_refused(world: Any, saved: Path) -> None:
    (world.work / "rows.jsonl").unlink()
    done = world.run("steps", "run", "plan.json")
    assert done.code == 4 and "rows.jsonl" in done.err and "Traceback" not in done.err


def test_code_that_changed_since_is_refused(world: Any, saved: Path) -> None:
    script = world.catalog / "use/count/step.py"
    script.write_text(script.read_text() + "\n# another program\n", encoding="utf-8")
    done = world.run("steps", "run", "plan.json")
    assert done.code == 4 and "the code of step.py has changed since" in done.err


@pytest.mark.parametrize(
    "words",
    [("-c", "built"), ("rows=4",), ("-i", "rows=x"), ("--engine", "script"), ("--stub",), ("--", "x")],
)
def test_nothing_can_be_changed_about_it(world: Any, saved: Path, words: tuple[str, ...]) -> None:
    done = world.run("steps", "run", "plan.json", *words)
    assert done.code == 2 and "a saved plan is run as it is" in done.err


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"schema": 99}', '{"schema": 1, "recipe": 3}', "\x00"]
)
def test_a_file_that_is_no_plan_is_told(world: Any, text: str) -> None:
    (world.work / "bad.json").write_text(text, encoding="utf-8")
    done = world.run("steps", "run", "bad.json")
    assert done.code == 4 and "plan" in done.err and "Traceback" not in done.err


def test_a_plan_that_is_not_there_is_told(world: Any) -> None:
    done = world.run("steps", "run", "nowhere.json")
    assert done.code == 3 and "there is no plan nowhere.json" in done.err
