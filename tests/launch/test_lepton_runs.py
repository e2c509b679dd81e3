"""Runs on Lepton, from submission to record: real processes behind a stand-in for its interface.

A client contract test: it shows that our side does what it should, and says nothing of the real service.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lepton_stand_in import TOKEN
from lepton_worlds import PROFILES, Place, lepton_place, needs_namespaces

pytestmark = needs_namespaces

SHIPPED = Path(__file__).parents[2] / "profiles" / "lepton.toml"
# As the reference documentation of the step has it.
RLHF = (
    *("steps", "run", "rl/nemo_rl/rlhf", "-c", "default", "-r", "lepton_rl_nemo_rl_rlhf"),
    "env.nemo_gym.genrm_model.responses_api_models.vllm_model.model=nvidia/Nemotron-Reward-Model",
    "grpo.num_generations_per_prompt=16",
)


@pytest.fixture
def place(world: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with lepton_place(world, monkeypatch) as made:
        yield made


def submitted(place: Place, *words: str, **environ: str) -> str:
    done = place.run("steps", "run", "make/rows", "-b", "lep", *words, **environ)
    assert done.code == 0, done.err
    return str(done.out.strip())


def shown(place: Place, run: str) -> Any:
    return place.run("runs", "show", run, "--json").json


@pytest.mark.slow
def test_the_documented_command_compiles_as_written_and_runs(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lepton_place(world, monkeypatch, SHIPPED.read_text(encoding="utf-8")) as place:
        place.lepton.shapes = ["cpu.small", "gpu.8xh100-80gb"]
        dry = place.run(*RLHF, "-d", "--json", LEPTON_NODE_GROUP="h100-a")
        assert dry.code == 0, dry.err
        found = [f for f in dry.json["findings"] if f["id"].startswith(("lepton", "scheduler", "mount"))]
        assert [f["id"] for f in found] == ["lepton.own_ray"]
        assert not any(method != "GET" for method, _, _ in place.lepton.calls), "a dry run asks, no more"
        done = place.run(*RLHF, "--stub", LEPTON_NODE_GROUP="h100-a")
        assert done.code == 0, done.err + done.out
        (job,) = place.posted()
        run = job["metadata"]["id"]
        assert job["spec"]["container"] == {
            "image": "nvcr.io/nvidia/nemo-rl:v0.6.0",
            "command": ["bash", f"/mnt/shared/nemo_run/{run}/lepton.sh"],
        }
        assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (2, 2)
        config = (place.runs / run / "config.yaml").read_text()
        assert "num_generations_per_prompt: 16" in config and "nvidia/Nemotron-Reward-Model" in config
        assert str(world.root) not in config
        assert (place.runs / run / "checkpoints" / "step_1").is_dir()
        assert shown(place, run)["state"] == "succeeded"
        assert not Path("/mnt/shared").exists(), "the client has no part in the storage"


@pytest.mark.slow
def test_a_detached_run_is_followed_by_its_files_and_records(place: Place) -> None:
    run = submitted(place)
    waited = place.run("runs", "wait", run)
    assert waited.code == 0, waited.err
    assert "storage that this machine does not see" in waited.err
    local = place.world.home / "runs" / run
    assert (local / "record.json").read_bytes() == (place.runs / run / "record.json").read_bytes()
    log = place.run("runs", "logs", run)
    assert log.out.encode() == (place.runs / run / "logs" / "attempt-1.log").read_bytes()
    assert "written" in log.out
    kinds = {record["phase"] for record in place.world.records() if record.get("run_id") == run}
    assert kinds == {"submitted", "started", "ended"}
    assert (place.runs / run / "rows.jsonl").is_file() and not (local / "rows.jsonl").exists()
    assert place.run("runs", "list", "--json").json["runs"][0]["state"] == "succeeded"


@pytest.mark.slow
def test_what_would_have_to_wait_is_refused_with_what_to_type(place: Place) -> None:
    """Lepton's jobs know of no other job's end."""
    done = place.run("steps", "run", "use/count", "-c", "built", "-b", "lep")
    assert done.code == 4 and "lepton.waits" in done.err and "nemotron runs wait RUN" in done.err
    chained = place.run("steps", "run", "make/rows", "-b", "lep", "--chain", "3")
    assert chained.code == 4 and "lepton.chain" in chained.err
    assert place.lepton.jobs == {}
    before = submitted(place)
    assert place.run("runs", "wait", before).code == 0
    path = f"/mnt/shared/nemo_run/{before}/rows.jsonl"
    assert path.rpartition("/")[0] in place.run("runs", "show", before).out
    after = place.run("steps", "run", "use/count", "-i", f"rows={path}", "-b", "lep").out.strip()
    assert place.run("runs", "wait", after).code == 0
    assert json.loads((place.runs / after / "count.json").read_text()) == {"rows": 3}


@pytest.mark.slow
def test_an_attached_run_ends_with_the_result_of_its_job(place: Place) -> None:
    done = place.run("steps", "run", "make/rows", "-r", "lep", "behave=fail")
    assert done.code == 7
    assert "the reason is in this line" in done.out
    run = place.posted()[0]["metadata"]["id"]
    assert shown(place, run)["state"] == "failed"
    assert json.loads((place.world.home / "runs" / run / "record.json").read_text())["exit_code"] == 7


@pytest.mark.slow
def test_a_run_is_cancelled_and_its_trainer_told(place: Place, wait_for: Callable[..., Any]) -> None:
    run = submitted(place, "behave=polite")
    log = place.runs / run / "logs" / "attempt-1.log"
    wait_for(lambda: log.is_file() and b"started" in log.read_bytes(), "until the trainer runs")
    cancelled = place.run("runs", "cancel", run)
    assert cancelled.code == 0, cancelled.err
    assert shown(place, run)["state"] == "interrupted"
    assert json.loads((place.runs / run / "record.json").read_text())["reason"] == "interrupted"
    assert ("PATCH", f"/jobs/{run}", {"spec": {"stopped": True}}) in place.lepton.calls


@pytest.mark.slow
def test_a_run_that_waits_in_the_queue_is_cancelled(place: Place) -> None:
    run = submitted_while_held(place)
    listed = place.run("runs", "list", "--json").json["runs"][0]
    assert (listed["run"], listed["state"]) == (run, "queued")
    assert "Queueing" in place.run("runs", "show", run).out
    assert place.run("runs", "cancel", run).code == 0
    assert shown(place, run)["state"] == "interrupted"


def submitted_while_held(place: Place) -> str:
    """Submit while only movers are let through."""
    start = place.lepton.start

    def held(spec: dict[str, Any], name: str) -> Any:
        place.lepton.hold = not spec["container"]["image"].startswith("busybox")
        return start(spec, name)

    place.lepton.start = held  # type: ignore[method-assign]
    return submitted(place)


@pytest.mark.slow
def test_what_was_cut_off_goes_on_as_the_same_run_in_another_job(
    place: Place, wait_for: Callable[..., Any]
) -> None:
    run = submitted(place, "behave=sleep_once")
    starts = place.runs / run / "starts"
    wait_for(starts.is_file, "until the trainer runs")
    assert place.run("runs", "cancel", run).code == 0
    assert submitted(place, "behave=sleep_once") == run
    waited = place.run("runs", "wait", run)
    assert waited.code == 0, waited.err
    first, second = (job["metadata"]["id"] for job in place.posted())
    assert first == run and second != run
    assert len(starts.read_text().split()) == 2
    assert len(list((place.world.home / "runs" / run / "logs").glob("attempt-*.log"))) == 2


@pytest.mark.slow
def test_a_killed_client_finds_its_job_again(place: Place, wait_for: Callable[..., Any]) -> None:
    """Killed between the call that creates the job and the line that says so."""
    script = (
        "import os, sys\n"
        "from nemotron.launch.lepton.api import Lepton\n"
        "create = Lepton.create_job\n"
        "def killed(self, job):\n"
        "    made = create(self, job)\n"
        "    if 'busybox' in job['spec']['container']['image']: return made\n"
        "    os._exit(9)\n"
        "Lepton.create_job = killed\n"
        "from nemotron.cli.app import command_line\n"
        "command_line(['steps', 'run', 'make/rows', '-b', 'lep'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=place.world.work, env=place.world.environ)
    assert done.returncode == 9
    (job,) = place.posted()
    run = job["metadata"]["id"]

    def found() -> bool:
        rows = {row["run"]: row["state"] for row in place.run("runs", "list", "--json").json["runs"]}
        return rows[run] == "succeeded"

    wait_for(found, "until the job is adopted", 40)
    assert len(place.posted()) == 1, "none was submitted twice"
    assert (place.world.home / "runs" / run / "logs" / "attempt-1.log").is_file()


def test_a_job_without_an_id_in_a_list_is_not_passed_over(place: Place) -> None:
    place.lepton.odd_jobs = [{"metadata": {}, "spec": {}}]
    run = submitted(place)
    journal = place.world.home / "runs" / run / "submissions.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines if line["event"] == "submitting"))
    listed = place.run("runs", "list")
    assert "a job without an id" in listed.err


def test_a_node_group_that_cannot_be_read_is_told(place: Place) -> None:
    place.lepton.groups = [{"metadata": {"id": "ng-9"}}]
    done = place.run("steps", "run", "make/rows", "-b", "lep")
    assert done.code == 6
    assert "item 0: no metadata.name" in done.err
    assert place.posted() == []


@pytest.mark.parametrize(
    ("change", "id_", "said"),
    [
        (('"h100-a"', '"h100a"'), "lepton.node_group", 'did you mean "h100-a"?'),
        (('"cpu.large"', '"cpu.lrage"'), "lepton.shape", 'did you mean "cpu.large"?'),
        (('"hf-token"', '"hf-tokn"'), "lepton.secret", 'did you mean "hf-token"?'),
        (("[[lep", "nodes = 9\n[[lep"), "lepton.nodes", "4 at most"),
        (("[[lep", 'existing_ray_cluster = "no"\n[[lep'), "lepton.ray", "no Ray cluster no"),
    ],
)
def test_what_the_workspace_does_not_have_is_told_before_it_costs_anything(
    place: Place, change: tuple[str, str], id_: str, said: str
) -> None:
    place.lepton.shapes = ["cpu.small", "cpu.large"]
    (place.world.work / "env.toml").write_text(PROFILES.replace(*change, 1))
    checked = place.run("profiles", "check", "lep", "--json")
    assert checked.code == 4, checked.err
    (found,) = [f for f in checked.json["findings"] if f["id"] == id_ and f["severity"] == "error"]
    assert said in json.dumps(found, ensure_ascii=False).replace('\\"', '"')
    assert "env.toml" in found["where"]
    done = place.run("steps", "run", "make/rows", "-b", "lep")
    assert done.code in (2, 4) and place.posted() == []


def test_a_good_profile_is_checked_with_the_workspace(place: Place) -> None:
    checked = place.run("profiles", "check", "lep", "--json")
    assert checked.code == 0 and checked.json["scheduler_asked"] is True
    assert checked.json["findings"] == []


@pytest.mark.slow
def test_a_secret_goes_by_its_name_and_its_value_stays_here(place: Place) -> None:
    value = "hf_ThisValueMustStayHere"
    run = submitted(place, HF_TOKEN=value)
    assert place.run("runs", "wait", run).code == 0
    (job,) = place.posted()
    assert {"name": "HF_TOKEN", "value_from": {"secret_name_ref": "hf-token"}} in job["spec"]["envs"]
    assert value not in json.dumps(place.lepton.calls)
    # The trainer got the one that Lepton holds.
    assert "started hf_va" in (place.runs / run / "logs" / "attempt-1.log").read_text()
    for root in (place.world.root, place.lepton.storage):
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                assert value.encode() not in content, path
                assert TOKEN.encode() not in content, path


def test_a_secret_that_lepton_holds_no_name_of_stops_it(place: Place) -> None:
    text = PROFILES.replace('HF_TOKEN = "hf-token"', "")
    (place.world.work / "env.toml").write_text(text)
    done = place.run("steps", "run", "make/rows", "-b", "lep", HF_TOKEN="hf_secret_value")
    assert done.code == 4
    assert "lepton.secret" in done.err and 'secret_vars = { HF_TOKEN = "hf-token" }' in done.err
    assert "hf_secret_value" not in done.err + done.out + json.dumps(place.lepton.calls)
    assert place.lepton.jobs == {}
    unset = place.run("steps", "run", "make/rows", "-b", "lep", "-d")
    assert unset.code == 0, "it is optional, and not set"


def test_a_refusal_tells_what_the_service_said_and_no_token(place: Place) -> None:
    place.lepton.refuse[("POST", "/jobs")] = (403, {"message": f"no quota for {TOKEN}"})
    done = place.run("steps", "run", "make/rows", "-b", "lep")
    assert done.code == 6
    assert "no quota for (token)" in done.err and TOKEN not in done.err
    runs = place.world.runs()
    assert len(runs) == 1 and not (runs[0] / ".secrets").exists()
    assert place.run("runs", "list", "--json").json["runs"][0]["state"] == "prepared"


def test_files_that_cannot_be_carried_over_stop_it(place: Place) -> None:
    (place.lepton.storage).mkdir()
    (place.lepton.storage / "nemo_run").write_text("a file in the way")
    done = place.run("steps", "run", "make/rows", "-b", "lep")
    assert done.code == 6
    assert "the files of the run did not arrive" in done.err and "nemo_run" in done.err
    assert place.posted() == [] and place.lepton.jobs == {}


@pytest.mark.slow
def test_a_run_on_a_ray_cluster_of_its_own(place: Place) -> None:
    (place.world.work / "env.toml").write_text(PROFILES.replace("[[lep", 'ray_version = "2.49.2"\n[[lep', 1))
    directory = place.world.add_step("ray/rows")
    toml = directory / "step.toml"
    toml.write_text(toml.read_text().replace('launch = "python"', 'launch = "ray"'))
    done = place.run("steps", "run", "ray/rows", "-r", "lep", "run.env.nodes=2")
    assert done.code == 0, done.err
    ((cluster),) = [b for m, p, b in place.lepton.calls if (m, p) == ("POST", "/rayclusters")]
    spec = cluster["spec"]
    assert (spec["ray_version"], spec["image"]) == ("2.49.2", "registry.example.com/image:1")
    assert spec["worker_group_specs"][0]["min_replicas"] == 1, "the head is a node as well"
    run = cluster["metadata"]["id"]
    (asked,) = [b for m, p, b in place.lepton.calls if m == "POST" and p.endswith("/api/jobs/")]
    assert asked["entrypoint"] == f"bash /mnt/shared/nemo_run/{run}/lepton.sh"
    assert place.lepton.clusters == {}, "it is removed when the run is over"
    assert shown(place, run)["state"] == "succeeded"
    assert "written" in place.run("runs", "logs", run).out


@pytest.mark.slow
def test_a_cancelled_run_takes_its_ray_cluster_with_it(place: Place, wait_for: Callable[..., Any]) -> None:
    (place.world.work / "env.toml").write_text(PROFILES.replace("[[lep", 'ray_version = "2.49.2"\n[[lep', 1))
    directory = place.world.add_step("ray/rows")
    toml = directory / "step.toml"
    toml.write_text(toml.read_text().replace('launch = "python"', 'launch = "ray"'))
    done = place.run("steps", "run", "ray/rows", "-b", "lep", "behave=polite")
    assert done.code == 0, done.err
    dry = place.run("steps", "run", "ray/rows", "-b", "lep", "behave=polite", "rows=4", "-d")
    assert "lepton.cluster_stays" in dry.out
    run = done.out.strip()
    log = place.runs / run / "logs" / "attempt-1.log"
    wait_for(lambda: log.is_file() and b"started" in log.read_bytes(), "until the trainer runs")
    cancelled = place.run("runs", "cancel", run)
    assert cancelled.code == 0, cancelled.err
    assert place.lepton.clusters == {}
    assert shown(place, run)["state"] == "interrupted"


def test_a_login_of_the_lepton_client_is_enough(place: Place) -> None:
    cache = place.world.root / "cache-of-lep"
    cache.mkdir()
    known = {"id": "workspace1", "url": place.lepton.url, "auth_token": TOKEN}
    record = {"current_workspace": "workspace1", "workspaces": {"workspace1": known}}
    (cache / "workspace_info.yaml").write_text(json.dumps(record))
    for name in ("LEPTON_WORKSPACE_ID", "LEPTON_WORKSPACE_TOKEN", "LEPTON_WORKSPACE_URL"):
        del place.world.environ[name]
    place.world.environ["LEPTON_CACHE_DIR"] = str(cache)
    assert place.run("profiles", "check", "lep", "--json").json["scheduler_asked"] is True
    shutil.rmtree(cache)
    done = place.run("steps", "run", "make/rows", "-b", "lep")
    assert done.code == 2 and "lep login" in done.err


@pytest.mark.slow
def test_code_of_more_than_one_job_of_movers_arrives_whole(place: Place) -> None:
    directory = place.world.add_step("big/rows")
    noise = random.Random(1)
    text = "".join(f"{noise.getrandbits(256):064x}\n" for _ in range(30000))
    (directory / "table.txt").write_text(text)
    done = place.run("steps", "run", "big/rows", "-b", "lep")
    assert done.code == 0, done.err
    movers = [
        body
        for method, path, body in place.lepton.calls
        if (method, path) == ("POST", "/jobs") and body["spec"]["container"]["image"].startswith("busybox")
    ]
    assert len(movers) > 1
    assert all(len(word) < 1 << 17 for body in movers for word in body["spec"]["container"]["command"])
    (found,) = (place.runs / done.out.strip() / "code").rglob("table.txt")
    assert found.read_text() == text
    assert not list((place.runs / done.out.strip()).glob(".part-*"))
