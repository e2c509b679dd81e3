"""Detached runs: handed over, found again, built upon while they go on; real processes of this host."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROFILES = """
[here]
executor = "local"
[here.env_vars]
HF_TOKEN = "${oc.env:HF_TOKEN,}"
FLAVOUR = "it's $(touch x) `y` \\" $z"

[nowhere]
executor = "docker"
"""
PATIENCE = 60.0


@pytest.fixture
def place(world: Any) -> Any:
    (world.work / "env.toml").write_text(PROFILES, encoding="utf-8")
    return world


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def listed(world: Any) -> dict[str, Any]:
    return {run["run"]: run for run in world.run("runs", "list", "--json").json["runs"]}


def test_a_detached_run_prints_its_id_and_goes_on_alone(place: Any) -> None:
    done = place.run("steps", "run", "make/rows", "-b", "here")
    assert done.code == 0, done.err
    run = done.out.strip()
    assert (place.home / "runs" / run).is_dir()
    waited = place.run("runs", "wait", run)
    assert waited.code == 0, waited.err
    found = listed(place)[run]
    assert found["state"] == "succeeded"
    again = place.run("steps", "run", "make/rows", "-b", "here", "--json")
    assert again.json["outcome"] == "reused" and again.json["run"] == run


def test_a_run_that_is_built_first_is_waited_for(place: Any) -> None:
    done = place.run("steps", "run", "use/count", "-c", "built", "-b", "here", "--json")
    assert done.code == 0, done.err
    (before,) = done.json["before"]
    run = done.json["run"]
    assert place.run("runs", "wait", run).code == 0
    record = json.loads((place.home / "runs" / run / "record.json").read_text())
    assert record["inputs"]["rows"]["made_by"] == before
    lineage = place.run("artifacts", "lineage", run)
    assert before in lineage.out, lineage.out + lineage.err
    again = place.run("steps", "run", "use/count", "-c", "built", "-b", "here", "--json")
    assert (again.json["outcome"], again.json["run"]) == ("reused", run)


def test_what_goes_on_can_be_built_upon(place: Any) -> None:
    gate = place.work / "gate"
    first = place.run("steps", "run", "make/rows", "-b", "here", "behave=gate", f"text={gate}")
    assert first.code == 0, first.err
    run = first.out.strip()
    until(lambda: listed(place)[run]["state"] == "running", "it never began")
    second = place.run("steps", "run", "use/count", "-b", "here", "-i", f"rows=run://{run}", "--json")
    assert second.code == 0, second.err
    assert listed(place)[second.json["run"]]["state"] == "queued"
    gate.touch()
    assert place.run("runs", "wait", second.json["run"]).code == 0


def test_the_same_recipe_is_not_submitted_twice(place: Any) -> None:
    gate = place.work / "gate"
    words = ("steps", "run", "make/rows", "-b", "here", "behave=gate", f"text={gate}")
    run = place.run(*words).out.strip()
    again = place.run(*words)
    assert again.code == 5 and run in again.err
    gate.touch()
    assert place.run("runs", "wait", run).code == 0


def test_a_trainer_that_fails_gives_its_result_to_who_waits(place: Any) -> None:
    run = place.run("steps", "run", "make/rows", "-b", "here", "behave=fail").out.strip()
    waited = place.run("runs", "wait", run)
    assert waited.code == 7
    assert listed(place)[run]["state"] == "failed"
    resumed = place.run("steps", "run", "make/rows", "-b", "here", "behave=fail", "--json")
    assert (resumed.json["outcome"], resumed.json["run"]) == ("resumed", run)
    assert place.run("runs", "wait", run).code == 7


def test_what_depends_on_a_failure_does_not_start(place: Any) -> None:
    gate = place.work / "gate"
    script = place.catalog / "make/rows/step.py"
    script.write_text(script.read_text() + "\nsys.exit(3)\n", encoding="utf-8")
    first = place.run("steps", "run", "make/rows", "-b", "here", "behave=gate", f"text={gate}").out.strip()
    until(lambda: listed(place)[first]["state"] == "running", "it never began")
    second = place.run("steps", "run", "use/count", "-b", "here", "-i", f"rows=run://{first}").out.strip()
    gate.touch()
    assert place.run("runs", "wait", first).code == 3
    assert place.run("runs", "wait", second).code != 0
    assert not (place.home / "runs" / second / "count.json").exists()


def test_a_cancelled_run_is_over_and_goes_on_when_asked(place: Any) -> None:
    run = place.run("steps", "run", "make/rows", "-b", "here", "behave=sleep").out.strip()
    until(lambda: listed(place)[run]["state"] == "running", "it never began")
    cancelled = place.run("runs", "cancel", run)
    assert cancelled.code == 0, cancelled.err
    assert listed(place)[run]["state"] == "interrupted"


def test_a_secret_is_in_one_file_that_others_cannot_read(place: Any) -> None:
    secret = "hf_" + "s3cr3t" * 4
    gate = place.work / "gate"
    words = ("steps", "run", "make/rows", "-b", "here", "behave=gate", f"text={gate}")
    done = place.run(*words, HF_TOKEN=secret)
    run = place.home / "runs" / done.out.strip()
    until(lambda: (run / "logs/attempt-1.log").is_file(), "it never began")
    holding = [p for p in place.root.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]
    assert holding == [run / ".secrets"]
    assert stat.S_IMODE((run / ".secrets").stat().st_mode) == 0o600
    gate.touch()
    assert place.run("runs", "wait", run.name).code == 0
    assert not (run / ".secrets").exists()
    assert "started hf_s3" in (run / "logs/attempt-1.log").read_text()


def test_a_profile_gives_its_environment_to_an_attached_run_here(place: Any) -> None:
    script = place.catalog / "make/rows/step.py"
    script.write_text(
        script.read_text() + "\nPath('flavour').write_text(os.environ['FLAVOUR'])\n", encoding="utf-8"
    )
    done = place.run("steps", "run", "make/rows", "-r", "here", "--json")
    assert done.code == 0, done.err
    assert (Path(done.json["directory"]) / "flavour").read_text() == "it's $(touch x) `y` \" $z"
    assert not (place.work / "x").exists()


def test_a_place_without_a_backend_is_shown_and_not_submitted(place: Any) -> None:
    shown = place.run("steps", "run", "make/rows", "-b", "nowhere", "-d")
    assert shown.code == 0 and "cannot submit" in shown.out
    refused = place.run("steps", "run", "make/rows", "-b", "nowhere")
    assert refused.code == 4 and "scheduler.no_backend" in refused.err
    assert place.runs() == []


def test_a_stub_leaves_outputs_that_pass_and_says_what_it_is(place: Any) -> None:
    done = place.run("steps", "run", "use/count", "-b", "here", "--stub")
    assert done.code == 0, done.err
    run = done.out.strip()
    assert place.run("runs", "wait", run).code == 0
    assert listed(place)[run]["engine"] == "stub"
    real = place.run("steps", "run", "make/rows", "-b", "here", "--json")
    assert real.json["outcome"] == "submitted"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-b", "nobody"), "nobody"),
        (("-b", "here", "-r", "here"), "exclude each other"),
        (("--chain", "3"), "--chain"),
        (("--force-squash",), "--force-squash"),
        (("-b", ""), "no profile"),
    ],
)
def test_what_cannot_be_meant_is_refused(place: Any, words: tuple[str, ...], said: str) -> None:
    done = place.run("steps", "run", "make/rows", *words)
    assert done.code in (2, 3) and said in done.err and "Traceback" not in done.err
    assert place.runs() == []
