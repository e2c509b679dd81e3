"""A plan that runs says why, against the earlier run that is most like it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.runs import Run
from nemotron.planning import earlier
from nemotron.planning.build import plan_step
from nemotron.planning.plan import Plan
from nemotron.planning.request import Request

Cli = Callable[..., Any]


def launched(cli: Cli, *words: str) -> str:
    done = cli("steps", "run", *words, "--json")
    assert done.code == 0, done.err
    return str(done.json["run"])


def planned(*overrides: str, step: str = "make/rows", **more: Any) -> Plan:
    return plan_step(Request(step, overrides=overrides, **more))


def test_the_first_run_of_a_step_is_the_first(world: Any) -> None:
    assert planned().because == ("no earlier run of this step",)


def test_a_changed_key_is_the_reason(world: Any, cli: Cli) -> None:
    run = launched(cli, "make/rows")
    assert planned("lr=0.6").because == (f"lr: 0.5 -> 0.6, unlike run {run}",)
    assert planned("lr=0.6", "rows=4").because == (f"lr: 0.5 -> 0.6, unlike run {run}", "rows: 3 -> 4")


def test_what_is_reused_needs_no_reason(world: Any, cli: Cli) -> None:
    run = launched(cli, "make/rows")
    plan = planned()
    assert (plan.done_by, plan.done_at, plan.because) == (run, str(world.home / "runs" / run), ())


def test_the_run_with_the_fewest_differences_is_the_one_to_compare_with(world: Any, cli: Cli) -> None:
    near = launched(cli, "make/rows", "rows=4", "text=a")
    launched(cli, "make/rows")
    launched(cli, "make/rows", "rows=5", "text=b", "seconds=1.0")
    assert planned("rows=4", "text=c").because == (f'text: "a" -> "c", unlike run {near}',)


def test_a_run_of_the_same_config_is_compared_with_first(world: Any, cli: Cli) -> None:
    far = "defaults: default\nrows: 9\ntext: far\nseconds: 2.0\n"
    (world.catalog / "make/rows/config/far.yaml").write_text(far)
    run = launched(cli, "make/rows", "-c", "far")
    launched(cli, "make/rows")
    plan = plan_step(Request("make/rows", "far", overrides=("rows=3", "text=yes sir")))
    assert plan.because == (f"rows: 9 -> 3, unlike run {run}", 'text: "far" -> "yes sir"')


def test_runs_of_a_step_with_the_same_beginning_and_end_are_not_compared_with(world: Any, cli: Cli) -> None:
    world.add_step("make/other/rows")
    launched(cli, "make/other/rows")
    assert planned().because == ("no earlier run of this step",)


def test_only_the_newest_runs_are_opened(world: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.home / "runs" / launched(cli, "make/rows")
    for number in range(60):
        other = run.with_name(f"make-rows-20990101-0000{number % 60:02d}-0000")
        other.mkdir()
        (other / "plan.json").write_text((run / "plan.json").read_text().replace("yes sir", f"{number}"))
    opened: list[str] = []
    real = Run.plan.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Run, "plan", property(lambda run: opened.append(run.id) or real(run)))
    assert planned("lr=0.6").because[0].startswith("lr: 0.5 -> 0.6")
    assert opened == [f"make-rows-20990101-0000{n:02d}-0000" for n in range(59, 39, -1)]


def test_many_differences_are_counted(world: Any, cli: Cli) -> None:
    launched(cli, "make/rows")
    because = planned(*(f"+new{number:02d}={number}" for number in range(12))).because
    assert len(because) == 9
    assert because[0].startswith("new00: not set -> 0, unlike run ")
    assert because[-1] == "and 4 more"


def test_changed_code_is_named_by_its_files(world: Any, cli: Cli) -> None:
    run = launched(cli, "make/rows")
    script = world.catalog / "make/rows/step.py"
    script.write_text(script.read_text() + "# changed\n")
    assert planned().because == (f"code changed: step.py, unlike run {run}",)


def test_another_input_is_named_with_who_made_which(
    world: Any, cli: Cli, write_rows: Callable[..., Path]
) -> None:
    run = launched(cli, "use/count", "-c", "built")
    (made,) = {r["made_by"]["run_id"] for r in world.records() if r.get("type") == "training_jsonl"}
    rows = write_rows("mine.jsonl", "training_jsonl")
    because = plan_step(Request("use/count", "built", inputs={"rows": str(rows)})).because
    wanted = rf"input rows: [0-9a-f]{{12}} \(run {made}\) -> [0-9a-f]{{12}} \({rows}\), unlike run {run}"
    assert re.fullmatch(wanted, because[0])
    assert len(because) == 1


def test_an_input_that_is_to_be_built_is_a_reason(world: Any, cli: Cli) -> None:
    run = launched(cli, "use/count", "-c", "built")
    text = "step://make/rows?config=default&rows=8"
    plan = plan_step(Request("use/count", "built", inputs={"rows": text}))
    assert plan.recipe_digest is None
    assert plan.because[0].endswith(f"-> to be built: {text}, unlike run {run}")
    ((_, build),) = plan.builds
    assert build.because[0].startswith("rows: 3 -> 8, unlike run make-rows-")


@pytest.mark.parametrize(("damage", "word"), [("deleted", "gone"), ("modified", "changed")])
def test_outputs_that_are_not_what_a_run_left_are_the_reason(
    world: Any, cli: Cli, damage: str, word: str
) -> None:
    run = launched(cli, "make/rows")
    rows = world.home / "runs" / run / "rows.jsonl"
    rows.unlink() if damage == "deleted" else rows.write_text("x")
    assert planned().because == (f"outputs of run {run} are no longer what it left (rows: {word})",)


def test_a_run_that_failed_goes_on_because_it_failed(world: Any, cli: Cli) -> None:
    assert cli("steps", "run", "make/rows", "behave=fail_once").code == 1
    (run,) = world.runs()
    plan = planned("behave=fail_once")
    assert (plan.resumes, plan.because) == (run.name, (f"run {run.name} of the same recipe failed",))


def test_a_step_that_leaves_nothing_says_so(world: Any, cli: Cli) -> None:
    toml = '[step]\nid = "say/hello"\ndescription = "Says hello."\n[run]\nengines = ["script"]\n'
    world.add_step("say/hello", toml, configs={"default": "word: hello\n"}, script="print('hello')\n")
    run = launched(cli, "say/hello")
    because = planned(step="say/hello").because
    assert because == (f"run {run} of the same recipe left nothing that could be reused",)


def test_the_reason_is_shown_and_said_once_when_it_starts(world: Any, cli: Cli) -> None:
    run = launched(cli, "make/rows")
    reason = f"lr: 0.5 -> 0.6, unlike run {run}"
    assert (
        f"\nwhy\n  1. {reason}\n     rows: 3 -> 4\n"
        in cli("steps", "run", "make/rows", "lr=0.6", "rows=4", "-d").out
    )
    assert cli("steps", "run", "make/rows", "lr=0.6", "-d", "--json").json["because"] == [reason]
    done = cli("steps", "run", "make/rows", "lr=0.6", "rows=4")
    assert [line for line in done.err.splitlines() if "why" in line] == [
        f"[1/1] make/rows: why: {reason} (and 1 more)"
    ]
    assert "why" not in cli("steps", "run", "make/rows", "lr=0.6", "rows=4").err, "nothing runs"


def test_the_plan_in_the_run_directory_keeps_the_reason(world: Any, cli: Cli) -> None:
    run = launched(cli, "make/rows", "--no-cache")
    plan = json.loads((world.home / "runs" / run / "plan.json").read_text())
    assert plan["because"] == ["--no-cache"]


def test_no_cache_is_a_reason(world: Any, cli: Cli) -> None:
    launched(cli, "make/rows")
    shown = cli("steps", "run", "make/rows", "--no-cache", "-d")
    assert "\nwhy\n  1. --no-cache\n" in shown.out
    assert "[1/1] make/rows: why: --no-cache\n" in cli("steps", "run", "make/rows", "--no-cache").err


def test_plans_of_one_reason_share_a_line(world: Any, cli: Cli) -> None:
    shown = cli("steps", "run", "use/count", "-c", "built", "-d").out
    assert "\nwhy\n  1, 2. no earlier run of this step\n" in shown


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"recipe": 3}', '{"recipe": {"step": "make/rows"}, "inputs": 5}']
)
def test_a_damaged_plan_of_an_earlier_run_does_no_harm(world: Any, cli: Cli, text: str) -> None:
    run = launched(cli, "make/rows")
    (world.home / "runs" / run / "plan.json").write_text(text)
    assert planned("lr=0.6").because


def test_a_plan_without_reasons_from_an_earlier_version_is_read(world: Any) -> None:
    data = planned().as_dict()
    del data["because"], data["done_at"]
    assert Plan.from_dict(data).because == ()


def test_the_number_of_runs_that_are_compared_is_bounded() -> None:
    assert earlier._COMPARED <= 20
