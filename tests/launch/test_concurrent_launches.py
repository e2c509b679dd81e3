"""Two launches at once: one run of one recipe, whoever comes first."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

SLOW = "behave: sleep\nrows: 2\ntext: x\nseconds: 0.8\noutput: r.jsonl\n"
Wait = Callable[..., Any]


def finished(*processes: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    said = [p.communicate(timeout=40) for p in processes]
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, said, strict=True)]


def starts(world: Any) -> list[str]:
    return [
        pid
        for run in world.runs()
        if (run / "starts").exists()
        for pid in (run / "starts").read_text().split()
    ]


def test_of_two_identical_launches_one_runs_and_one_is_a_conflict(world: Any) -> None:
    words = ("steps", "run", "make/rows", "behave=sleep", "seconds=6", "--json")
    ended = finished(world.start(*words), world.start(*words))
    assert sorted(code for code, _, _ in ended) == [0, 5], [err for _, _, err in ended]
    (lost,) = [json.loads(out)["error"] for code, out, _ in ended if code == 5]
    assert lost["kind"] == "conflict"
    assert world.runs()[0].name in lost["what"]
    assert "--no-cache" in lost["next"]
    assert len(world.runs()) == len(starts(world)) == 1


def test_launches_that_share_an_input_build_it_once(world: Any) -> None:
    world.add_step("make/slow", configs={"default": SLOW})
    shared = "rows=step://make/slow?config=default"
    processes = [
        world.start("steps", "run", "use/count", f"text={n}", "-i", shared, "--json") for n in range(3)
    ]
    ended = finished(*processes)
    assert [code for code, _, _ in ended] == [0, 0, 0], [err for _, _, err in ended]
    runs = world.runs()
    assert len(runs) == 4, "one input, three consumers"
    slow = [r for r in runs if (r / "r.jsonl").exists()]
    assert len(slow) == 1
    assert len((slow[0] / "starts").read_text().split()) == 1
    assert sum("wait" in err for _, _, err in ended) >= 1, "whoever waits is told for what"


def test_without_the_cache_both_run(world: Any) -> None:
    words = ("steps", "run", "make/rows", "behave=sleep", "seconds=1", "--no-cache", "--json")
    ended = finished(world.start(*words), world.start(*words))
    assert [code for code, _, _ in ended] == [0, 0], [err for _, _, err in ended]
    assert len({json.loads(out)["run"] for _, out, _ in ended}) == 2


def test_a_running_run_is_seen_as_running(world: Any, wait_for: Wait, cli: Callable[..., Any]) -> None:
    client = world.start("steps", "run", "make/rows", "behave=sleep", "seconds=1.2")
    wait_for(lambda: starts(world))
    (run,) = cli("runs", "list", "--json").json["runs"]
    assert (run["state"], run["ended"]) == ("running", None)
    assert cli("steps", "run", "use/count", "-d", "-i", f"rows=run://{run['run']}").code == 4
    assert finished(client)[0][0] == 0
    assert cli("runs", "list", "--json").json["runs"][0]["state"] == "succeeded"


def test_whoever_asks_for_a_runs_state_does_not_keep_its_job_from_starting(
    world: Any, wait_for: Wait
) -> None:
    """Asking locks the run for an instant; a job that starts in it waits a little."""
    client = world.start("steps", "run", "make/rows")
    run = wait_for(lambda: next(iter((world.home / "runs").glob("*/plan.json")), None)).parent
    handle = os.open(run / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        time.sleep(0.25)
    finally:
        os.close(handle)
    ((code, _, err),) = finished(client)
    assert code == 0, err
