"""Data preparation by Ray Data: the same bytes as on one machine, from workers of the cluster."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from ray_server import ADDRESS, PROFILES

from nemotron.launch.ray_jobs.api import Jobs

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster(place: Any) -> Any:
    """A world with a profile that asks for Ray Data."""
    more = '\n[data]\nextends = "ray"\nray_data = true\n'
    (place.work / "env.toml").write_text(PROFILES + more, encoding="utf-8")
    return place


def chats(place: Path, rows: int, seed: int) -> Path:
    """Chat rows of several blocks, with some that are left out, and some twice."""
    noise = random.Random(seed)
    lines = []
    for number in range(rows):
        asks = f"What is {noise.randrange(rows // 2)} times {number % 7}? " + "x" * noise.randrange(900)
        says = [{"role": "user", "content": asks}, {"role": "assistant", "content": f"\u6f22 {number}"}]
        lines.append(
            "" if number % 97 == 5 else "{broken" if number % 101 == 7 else json.dumps({"messages": says})
        )
    text = ("\n".join(lines) + "\n").encode()
    place.write_bytes(gzip.compress(text) if place.suffix == ".gz" else text)
    return place


def outputs(directory: Path) -> dict[str, bytes]:
    """What a step left below `data/`, the report without the paths of its inputs."""
    found = {}
    for path in sorted((directory / "data").rglob("*")):
        if path.is_file():
            found[path.name] = path.read_bytes()
    return found


def run_of(world: Any, *words: str) -> Path:
    client = world.start("steps", "run", *words)
    out, err = client.communicate(timeout=240)
    assert client.returncode == 0, err[-3000:] + out[-3000:]
    newest = world.run("runs", "list", "--json").json["runs"][0]
    found: Path = world.home / "runs" / newest["run"]
    return found


def tasks() -> list[Any]:
    """The tasks that workers of the cluster did for Ray Data."""
    said = Jobs(ADDRESS).get("/api/v0/tasks?limit=10000&detail=1")["data"]["result"]["result"]
    return [each for each in said if "_Task" in json.dumps(each)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_the_output_is_that_of_one_machine_to_the_byte(cluster: Any, tmp_path: Path, name: str) -> None:
    path = chats(tmp_path / name, 9000, seed=3)
    words = ("data_prep/prompts", f"raw_path={path}", "split_validation_size=0.1")
    here = outputs(run_of(cluster, *words))
    before = len(tasks())
    run = run_of(cluster, *words, "-r", "data", "--no-cache")
    there = outputs(run)
    assert set(there) == {"prompts.jsonl", "validation.jsonl", "report.json"}
    assert there == here
    assert len(there["prompts.jsonl"]) > 1 << 20
    log = (run / "logs" / "attempt-1.log").read_text()
    assert "Ray Data on 1 node with 8 CPUs" in log
    assert len(tasks()) - before > 1, "workers of the cluster did it"
    plain = run_of(cluster, *words, "-r", "ray", "--no-cache")
    assert "Ray Data" not in (plain / "logs" / "attempt-1.log").read_text()
    assert outputs(plain) == here


def test_an_error_is_told_as_on_one_machine(cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"neither": 1}\n' * 40)
    local = cluster.run("steps", "run", "data_prep/prompts", f"raw_path={path}")
    client = cluster.start(
        "steps", "run", "data_prep/prompts", f"raw_path={path}", "-r", "data", "--no-cache"
    )
    out, err = client.communicate(timeout=240)
    assert client.returncode == 4 and local.code != 0
    logs = [log.read_text() for run in cluster.runs() for log in (run / "logs").glob("attempt-*.log")]
    assert len(logs) == 2 and all("no row is left" in log for log in logs)
    assert not [text for text in (*logs, out, err) if "Traceback" in text]


def test_it_is_the_same_recipe(cluster: Any, tmp_path: Path) -> None:
    path = chats(tmp_path / "rows.jsonl", 50, seed=4)
    words = ("steps", "run", "data_prep/prompts", f"raw_path={path}", "-d", "--json")
    plans = [cluster.run(*words, "-b", name).json for name in ("ray", "data")]
    assert plans[0]["recipe"] == plans[1]["recipe"]
    assert plans[1]["placement"]["options"]["ray_data"] is True


@pytest.mark.slow
@pytest.mark.parametrize("step", ["chat", "gym_rollouts", "preference", "sft_packing"])
def test_every_step_that_maps_blocks_can(cluster: Any, step: str) -> None:
    """A tokenizer, functions of the step's own script, and several outputs go to the workers as well."""
    words = (f"data_prep/{step}", "-c", "tiny")
    here = whole(run_of(cluster, *words))
    run = run_of(cluster, *words, "-r", "data", "--no-cache")
    assert whole(run) == here
    assert "Ray Data on 1 node" in (run / "logs" / "attempt-1.log").read_text()


def whole(run: Path) -> dict[str, Any]:
    """The digests of all outputs of a run."""
    found = json.loads((run / "outputs.json").read_text())
    return {name: each["digest"] for name, each in found.items()}
