"""Work that takes several allocations, steps that wait for one another, and trainers that get nowhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from slurm_site import Site

pytestmark = pytest.mark.slurm

# Saves when it is asked to leave, and goes on from there. It logs a step in time, or hangs at one.
TRAINER = """
import json, signal, sys, time
from pathlib import Path

import yaml

config = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text(encoding="utf-8"))
saved, place = Path("saved"), Path(config["output"])
done = int(saved.read_text()) if saved.exists() else 0
with Path("starts").open("a") as file:
    file.write(f"{done}\\n")
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
for step in range(done + 1, config["steps"] + 1):
    until = time.monotonic() + (1000 if step == config["hangs_at"] else config["seconds"])
    while time.monotonic() < until and not asked:
        time.sleep(0.02)
    if asked and step == config["hangs_at"]:
        sys.exit(0)
    saved.write_text(str(step))
    print(json.dumps({"step": step}), file=Path("metrics.jsonl").open("a"))
    if asked:
        sys.exit(0)
place.write_text(json.dumps({"steps": config["steps"]}))
"""
TRAIN = """
    [step]
    id = "{id}"
    description = "Counts steps."

    [[produces]]
    name = "count"
    type = "eval_results"
    config = "output"

    [run]
    engines = ["script"]
    launch = "python"
"""
CONFIG = """
    steps: 10
    seconds: 0.1
    hangs_at: null
    output: count.json
"""

# Gives its rows on.
KEEPER = """
import shutil, sys, time
from pathlib import Path

import yaml

config = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text(encoding="utf-8"))
shutil.copy(config["rows_path"], config["output"])
"""
KEEP = """
    [step]
    id = "{id}"
    description = "Gives rows on."

    [[consumes]]
    name = "rows"
    type = "training_jsonl"
    config = "rows_path"

    [[produces]]
    name = "rows"
    type = "training_jsonl"
    config = "output"

    [run]
    engines = ["script"]
    launch = "python"
"""
KEEP_CONFIG = """
    number: 0
    rows_path: ???
    output: rows.jsonl
"""


@pytest.fixture
def trains(site: Site) -> Site:
    site.world.add_step("train/steps", TRAIN, configs={"default": CONFIG}, script=TRAINER)
    return site


@pytest.fixture
def keeps(site: Site) -> Site:
    site.world.add_step("keep/rows", KEEP, configs={"default": KEEP_CONFIG}, script=KEEPER)
    return site


def ends(site: Site, run: str) -> list[tuple[int, int, str | None]]:
    """Attempt, exit code and reason of every ended record of a run."""
    records: list[dict[str, Any]] = [
        json.loads(p.read_text()) for p in site.world.home.glob(f"records/*/attempt-{run}-*.ended.json")
    ]
    return sorted((r["attempt"], r["exit_code"], r.get("reason")) for r in records)


def test_work_goes_on_in_the_next_allocation_and_stops_where_none_advances(trains: Site) -> None:
    # Slurm looks at time limits every 30 s: one minute is the least, and its warning comes early.
    words = ("run.env.time=1", "--chain", "3")
    long = trains.submit("train/steps", *words, "seconds=40", "steps=2")
    stuck = trains.submit("train/steps", *words, "hangs_at=3")
    assert trains.wait(long, stuck, timeout=240) == (1, ["succeeded", "failed"])
    assert len(trains.jobs(long)) == len(trains.jobs(stuck)) == 3
    *cut, last = ends(trains, long)
    assert last[1:] == (0, None) and cut and all(end[1:] == (130, "walltime") for end in cut)
    assert ends(trains, stuck) == [(1, 130, "walltime"), (2, 1, "no progress")]
    assert trains.json(stuck, "failure.json")["what"].startswith("no progress: allocation 2 of 3")
    assert trains.queue() == []


def test_a_trainer_that_hangs_is_ended_with_its_stacks_and_its_node(trains: Site) -> None:
    with (trains.work / "env.toml").open("a") as file:
        file.write('[cluster.env_vars]\nNEMOTRON_HANG_FLOOR = "3"\nNEMOTRON_HANG_START = "3"\n')
    run = trains.submit("train/steps", "hangs_at=6")
    assert trains.wait(run) == (1, ["failed"])
    assert ends(trains, run) == [(1, 1, "hang")]
    failure = trains.json(run, "failure.json")
    assert "no step since step 5" in failure["what"] and failure["node"] in ("n1", "n2"), failure
    assert re.search(r"step\.py(:|\", line )\d+", trains.text(run, "logs/attempt-1.log"))
    assert failure["what"] in trains.run("runs", "show", run).stdout


def chained(site: Site, cli: Callable[..., Any], count: int, first: str) -> list[str]:
    """Submit so many steps, each on what the one before will leave."""
    runs = [first]
    while len(runs) < count:
        words = ("-i", f"rows=run://{runs[-1]}", f"number={len(runs)}")
        done = cli("steps", "run", "keep/rows", "-b", "cluster", *words)
        assert done.code == 0, done.err
        runs.append(done.out.strip())
    return runs


def test_twenty_steps_are_submitted_in_one_go(keeps: Site, cli: Callable[..., Any]) -> None:
    gate = keeps.work / "gate"
    first = keeps.submit("make/rows", "behave=gate", f"text={gate}")
    runs = chained(keeps, cli, 20, first)
    assert {job["state"] for job in keeps.listed().values()} == {"running", "queued"}
    gate.touch()
    assert keeps.wait(*runs, timeout=300) == (0, ["succeeded"] * 20)
    assert keeps.json(runs[-1], "record.json")["inputs"]["rows"]["made_by"] == runs[-2]
    shown = keeps.run("artifacts", "lineage", runs[-1]).stdout
    assert all(run in shown for run in runs)


def test_a_failure_stops_what_is_built_upon_it(keeps: Site, cli: Callable[..., Any]) -> None:
    gate = keeps.work / "gate"
    script = keeps.world.catalog / "make/rows/step.py"
    script.write_text(script.read_text(encoding="utf-8") + "\nsys.exit(3)\n", encoding="utf-8")
    runs = chained(keeps, cli, 4, keeps.submit("make/rows", "behave=gate", f"text={gate}"))
    gate.touch()
    code, states = keeps.wait(*runs)
    assert code == 3 and states[0] == "failed" and set(states[1:]) == {"interrupted"}
    assert not any((keeps.directory(run) / "rows.jsonl").exists() for run in runs[1:])
    for before, run in pairwise(runs):
        assert f"it waited for {before}, and that did not succeed" in keeps.run("runs", "show", run).stdout
    assert keeps.queue() == []
