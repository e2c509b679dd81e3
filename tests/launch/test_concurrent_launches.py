"""Two launches at once: one run of one recipe, whoever comes first."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Wait = Callable[..., Any]
Cli = Callable[..., Any]


@pytest.fixture
def gate(world: Any) -> Path:
    """Programs with `behave=gate text=GATE` go on when this file exists."""
    path: Path = world.root / "gate"
    world.add_step(
        "make/gated",
        configs={"default": f"behave: gate\nrows: 2\ntext: {path}\nseconds: 1\noutput: r.jsonl\n"},
    )
    return path


def finished(*processes: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    said = [p.communicate(timeout=60) for p in processes]
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, said, strict=True)]


def starts(world: Any) -> list[str]:
    """The processes that programs ran in so far."""
    files = [run / "starts" for run in world.runs()]
    return [pid for file in files if file.exists() for pid in file.read_text().split()]


def test_of_two_identical_launches_one_runs_and_one_is_a_conflict(
    world: Any, gate: Path, wait_for: Wait
) -> None:
    clients = [world.start("steps", "run", "make/gated", "--json") for _ in range(2)]
    loser = wait_for(lambda: next((c for c in clients if c.poll() is not None), None))
    ((code, out, err),) = finished(loser)
    assert code == 5, err
    error = json.loads(out)["error"]
    assert error["kind"] == "conflict"
    assert world.runs()[0].name in error["what"]
    assert "--no-cache" in error["next"]
    gate.touch()
    ((code, _, err),) = finished(*(c for c in clients if c is not loser))
    assert code == 0, err
    assert len(world.runs()) == len(starts(world)) == 1


def test_launches_that_share_an_input_build_it_once(world: Any, gate: Path, wait_for: Wait) -> None:
    shared = "rows=step://make/gated?config=default"
    clients = [
        world.start("steps", "run", "use/count", f"text={n}", "-i", shared, "--json") for n in range(3)
    ]
    wait_for(lambda: starts(world))
    gate.touch()
    ended = finished(*clients)
    assert [code for code, _, _ in ended] == [0, 0, 0], [err for _, _, err in ended]
    assert len({json.loads(out)["run"] for _, out, _ in ended}) == 3
    assert len(world.runs()) == 4, "one input, three consumers"
    (made,) = [run for run in world.runs() if (run / "r.jsonl").exists()]
    assert len((made / "starts").read_text().split()) == 1


def test_whoever_waits_for_an_input_says_so(world: Any, gate: Path, wait_for: Wait) -> None:
    words = ("steps", "run", "use/count", "-i", "rows=step://make/gated?config=default", "--json")
    first = world.start(*words, "text=a")
    wait_for(lambda: starts(world))
    second = world.start(*words, "text=b")
    assert second.stderr is not None
    said = next(line for line in iter(second.stderr.readline, "") if world.runs()[0].name in line)
    assert "wait" in said
    gate.touch()
    assert [code for code, _, _ in finished(first, second)] == [0, 0]


def test_without_the_cache_both_run(world: Any, gate: Path, wait_for: Wait) -> None:
    clients = [world.start("steps", "run", "make/gated", "--no-cache", "--json") for _ in range(2)]
    wait_for(lambda: len(starts(world)) == 2, "for both to run at once")
    gate.touch()
    ended = finished(*clients)
    assert [code for code, _, _ in ended] == [0, 0], [err for _, _, err in ended]
    assert len({json.loads(out)["run"] for _, out, _ in ended}) == 2


def test_a_running_run_is_seen_as_running(world: Any, gate: Path, wait_for: Wait, cli: Cli) -> None:
    client = world.start("steps", "run", "make/gated")
    wait_for(lambda: starts(world))
    (run,) = cli("runs", "list", "--json").json["runs"]
    assert (run["state"], run["ended"]) == ("running", None)
    assert cli("runs", "show", run["run"]).code == 0
    assert cli("steps", "run", "use/count", "-d", "-i", f"rows=run://{run['run']}").code == 4
    gate.touch()
    ((code, _, err),) = finished(client)
    assert code == 0, err
    assert cli("runs", "list", "--json").json["runs"][0]["state"] == "succeeded"
