"""Runs on a real Ray cluster, through its Jobs API: followed, failing, cancelled, waited for, lost, found."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray_server import ADDRESS, PROFILES, RayServer

from nemotron.artifacts.submissions import Journal, Submission
from nemotron.errors import UsageError
from nemotron.launch.bundle import launch_script
from nemotron.launch.ray_jobs.api import Jobs, api_address
from nemotron.launch.ray_jobs.backend import BACKEND, job_payload
from nemotron.launch.ray_jobs.waiter import ENDED, request
from nemotron.planning.plan import Placement, Plan, Recipe
from nemotron.planning.words import shell_words

pytestmark = pytest.mark.ray

TOKEN = "hf_verySecret1234567890"


DUMP = """\
import json, os, sys
with open("seen.json", "w") as file:
    env = {os.fsdecode(k): os.fsencode(v).hex() for k, v in os.environ.items()}
    json.dump({"env": env, "argv": [os.fsencode(a).hex() for a in sys.argv[1:]]}, file)
"""
SHARP = (
    *(
        "$({run})",
        "`{run}`",
        "; {run};",
        "| {run}",
        "&& {run}",
        "\n{run}\n",
        "$$",
        "${macro}",
        "$HOME",
        "'",
        '"',
    ),
    *(
        "'; {run}; '",
        '"; {run}; "',
        "\\",
        " ",
        "\t",
        "#",
        "%j",
        "!!",
        "*",
        "{a,b}",
        "~",
        "-x",
        "--",
        "=",
        ",",
    ),
    *(
        ":",
        "\r",
        "\x07",
        "\x1b[31m",
        "\x7f",
        "é",
        "漢字",
        "\u202e",
        "\U0001f600",
        "<<EOF",
        "{run_dir}",
        "${RAY}",
    ),
)


def hostile(place: Path) -> list[str]:
    """200 texts, each of some sharp ones, 4 KB among them; the same in every run."""
    run = f"touch {place}/canary"
    picked = random.Random(7)
    texts = [*SHARP, "", *((each * 4096)[:4096] for each in SHARP[:6])]
    texts += ["".join(picked.choices(SHARP, k=picked.randint(2, 5))) for _ in range(400)]
    return list(dict.fromkeys(text.replace("{run}", run) for text in texts))[:200]


def make_plan(environment: dict[str, str]) -> Plan:
    recipe = Recipe("make/rows", "script", "1", {}, {}, {}, {})
    placement = Placement(
        *("ray", "ours", "python", 1, 0, ("true",), environment), profile="ray", options={"address": ADDRESS}
    )
    return Plan(recipe, placement, (), (), "tiny", "tiny.yaml")


def handed_over(directory: Path, launch: str, plan: Plan) -> str:
    """The job of a run whose `launch.sh` is this."""
    directory.mkdir(parents=True)
    (directory / "launch.sh").write_text(launch)
    return BACKEND.submit(directory, plan, Submission("ray", "", directory.name), ()).job


def submitted(world: Any, *words: str, **environ: str) -> str:
    done = world.run("steps", "run", *words, "-b", "ray", **environ)
    assert done.code == 0, done.err
    return str(done.out.strip())


def test_a_run_succeeds_and_is_used_again(place: Any) -> None:
    run = submitted(place, "make/rows", HF_TOKEN=TOKEN)
    waited = place.run("runs", "wait", run)
    assert waited.code == 0, waited.err
    directory = place.home / "runs" / run
    assert (directory / "rows.jsonl").is_file() and not (directory / ".secrets").exists()
    assert "started hf_ve" in place.run("runs", "logs", run).out
    again = place.run("steps", "run", "make/rows", "-b", "ray", "--json")
    assert (again.json["outcome"], again.json["run"]) == ("reused", run)


def test_attached_it_ends_with_the_trainers_exit_code(place: Any) -> None:
    done = place.run("steps", "run", "make/rows", "behave=fail", "-r", "ray")
    assert done.code == 7
    assert "the reason is in this line" in done.out


def test_a_log_is_followed_while_it_grows(place: Any, wait_for: Callable[..., Any]) -> None:
    gate = place.work / "open"
    run = submitted(place, "make/rows", "behave=gate", f"text={gate}")
    follower = place.start("runs", "logs", run, "-f")
    log = place.home / "runs" / run / "logs" / "attempt-1.log"
    wait_for(lambda: log.is_file() and b"started" in log.read_bytes())
    gate.touch()
    out, err = follower.communicate(timeout=60)
    assert follower.returncode == 0, err
    assert out.startswith("started") and out.endswith("written\n")


def test_a_cancelled_trainer_gets_time_to_save(place: Any, wait_for: Callable[..., Any]) -> None:
    """Ray's own patience is 3 s."""
    script = place.catalog / "make/rows/step.py"
    leave = "        sys.exit(0)\n"
    saves = "        time.sleep(5)\n        place.with_name('saved').touch()\n"
    slow = script.read_text().replace(leave, saves + leave)
    assert slow != script.read_text()
    script.write_text(slow)
    run = submitted(place, "make/rows", "behave=polite")
    directory = place.home / "runs" / run
    wait_for(lambda: (directory / "rows.jsonl").exists())
    done = place.run("runs", "cancel", run)
    assert done.code == 0, done.err
    assert (directory / "saved").exists()
    assert "interrupted" in done.out
    record = json.loads((directory / "record.json").read_text())
    assert (record["exit_code"], record["reason"]) == (130, "interrupted")


def test_a_run_waits_for_its_inputs_without_holding_anything(
    place: Any, wait_for: Callable[..., Any]
) -> None:
    gate = place.work / "open"
    (place.catalog / "use/count/config/gated.yaml").write_text(
        "defaults: default\ninputs:\n  rows: step://make/rows?config=gated\n"
    )
    (place.catalog / "make/rows/config/gated.yaml").write_text(
        f"defaults: default\nbehave: gate\ntext: {gate}\n"
    )
    done = place.run("steps", "run", "use/count", "-c", "gated", "-b", "ray", "--json")
    assert done.code == 0, done.err
    run, (before,) = done.json["run"], done.json["before"]
    api = Jobs(ADDRESS)
    wait_for(lambda: (api.job(f"{run}.wait") or {}).get("status") == "RUNNING")
    assert api.job(run) is None
    shown = place.run("runs", "list", "--json").json["runs"]
    assert {each["run"]: each["state"] for each in shown} == {run: "queued", before: "running"}
    gate.touch()
    waited = place.run("runs", "wait", run)
    assert waited.code == 0, waited.err
    record = json.loads((place.home / "runs" / run / "record.json").read_text())
    assert record["inputs"]["rows"]["made_by"] == before


def test_a_run_whose_input_failed_never_begins(place: Any) -> None:
    (place.catalog / "use/count/config/bad.yaml").write_text(
        "defaults: default\ninputs:\n  rows: step://make/rows?config=bad\n"
    )
    (place.catalog / "make/rows/config/bad.yaml").write_text("defaults: default\nbehave: fail\n")
    done = place.run("steps", "run", "use/count", "-c", "bad", "-b", "ray", "--json")
    run, (before,) = done.json["run"], done.json["before"]
    waited = place.run("runs", "wait", run)
    assert waited.code != 0
    assert f"run {before}, which it waits for, did not succeed" in waited.err
    assert not (place.home / "runs" / run / "starts").exists()


def test_a_client_that_was_killed_while_it_submitted_loses_no_job(
    place: Any, wait_for: Callable[..., Any]
) -> None:
    """It left a `submitting` in the journal and nothing else."""
    gate = place.work / "open"
    run = submitted(place, "make/rows", "behave=gate", f"text={gate}")
    directory = place.home / "runs" / run
    wait_for(lambda: (directory / "starts").exists())
    lines = (directory / "submissions.jsonl").read_text().splitlines()
    (directory / "submissions.jsonl").write_text(lines[0] + "\n")
    (directory / "scheduler.json").unlink(missing_ok=True)
    (listed,) = place.run("runs", "list", "--json").json["runs"]
    assert listed["job"] == run
    assert [job.job for job in Journal(directory).submitted()] == [run]
    assert place.run("steps", "run", "make/rows", "behave=gate", f"text={gate}", "-b", "ray").code == 5
    gate.touch()
    assert place.run("runs", "wait", run).code == 0
    connection = json.loads(lines[0])["connection"]
    assert BACKEND.find([Submission("ray", "", run + "x", connection=connection)]) == {}


def test_a_client_killed_while_it_follows_changes_nothing(place: Any, wait_for: Callable[..., Any]) -> None:
    gate = place.work / "open"
    client = place.start("steps", "run", "make/rows", "behave=gate", f"text={gate}", "-r", "ray")
    wait_for(lambda: place.runs() and (place.runs()[0] / "starts").exists())
    client.send_signal(signal.SIGKILL)
    client.wait()
    run = place.runs()[0].name
    (listed,) = place.run("runs", "list", "--json").json["runs"]
    assert (listed["run"], listed["state"]) == (run, "running")
    gate.touch()
    assert place.run("runs", "wait", run).code == 0


# All that the dashboard shows of jobs is from these.
SHOWN = (
    "/api/jobs/",
    *(
        f"/api/v0/{kind}?detail=1&limit=1000"
        for kind in ("jobs", "actors", "tasks", "workers", "runtime_envs")
    ),
    "/api/v0/cluster_events?limit=1000",
    "/nodes?view=details",
    "/logical/actors",
)


def test_no_secret_is_in_a_file_the_api_or_a_command_line(place: Any, running_ray: RayServer) -> None:
    """Data steps that use Ray Data too, whose workers are told of an environment."""
    (place.work / "env.toml").write_text(PROFILES + '\n[data]\nextends = "ray"\nray_data = true\n')
    rows = place.work / "rows.jsonl"
    rows.write_text('{"prompt": "2+2?"}\n' * 3 + '{"prompt": "3+3?"}\n')
    data = place.run("steps", "run", "data_prep/prompts", f"raw_path={rows}", "-b", "data", HF_TOKEN=TOKEN)
    assert data.code == 0, data.err
    runs = [submitted(place, "make/rows", "behave=sleep", "seconds=4.0", HF_TOKEN=TOKEN), data.out.strip()]
    seen: set[str] = set()
    said = b""

    def going_on() -> bool:
        listed = place.run("runs", "list", "--json").json["runs"]
        return any(each["state"] in ("queued", "running") for each in listed)

    while going_on():
        for path in (*SHOWN, *(f"/api/jobs/{run}/logs" for run in runs)):
            said += request(ADDRESS, "GET", path)[1]
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if TOKEN.encode() in entry.read_bytes():
                    seen.add(str(entry))
            except OSError:
                continue
    assert all(run.encode() in said for run in runs)
    assert TOKEN.encode() not in said and not seen
    held = subprocess.run(
        ["grep", "-rlF", TOKEN, place.home, place.work, running_ray.root], capture_output=True, text=True
    ).stdout.split()
    assert held == [] and not list(place.home.rglob(".secrets"))
    assert {place.run("runs", "show", run, "--json").json["state"] for run in runs} == {"succeeded"}


def test_profiles_check_asks_the_cluster(place: Any) -> None:
    done = place.run("profiles", "check", "ray", "--json")
    assert done.code == 0, done.out + done.err
    assert done.json["scheduler_asked"]
    (place.work / "env.toml").write_text(PROFILES.replace("[ray]", "[ray]\ngpus_per_node = 9"))
    done = place.run("profiles", "check", "ray")
    assert done.code == 4 and "9 GPUs" in done.out
    (place.work / "env.toml").write_text(PROFILES.replace("8265", "8299"))
    done = place.run("profiles", "check", "ray")
    assert "does not answer" in done.out and "8299" in done.out


def test_hostile_strings_arrive_and_none_is_executed(
    place: Any, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    """In the environment and in arguments, of one job; in the path of its run, of a job each."""
    texts = hostile(tmp_path)
    assert len(texts) == 200
    place_of_code = tmp_path / "dump.py"
    place_of_code.write_text(DUMP)
    words = shell_words([sys.executable, str(place_of_code), *texts])
    environment = {f"HOSTILE_{n}": text for n, text in enumerate(texts)}
    plan = make_plan(environment)
    head = launch_script(plan).rpartition("exec ")[0]
    begun = {
        handed_over(tmp_path / "one" / "run-x", f"{head}exec {words}\n", plan): tmp_path / "one" / "run-x"
    }
    for number, text in enumerate(texts[::8]):
        name = text.replace("/", "_").encode()[:180].decode(errors="ignore")
        if name.strip(".") == "":
            continue
        run = tmp_path / f"{number}" / name / f"run-{number}"
        try:
            begun[handed_over(run, 'echo here > "$PWD/ran"\n', plan)] = run
        except UsageError as problem:
            assert "no text" in problem.what
    api = Jobs(ADDRESS)
    wait_for(lambda: all((api.job(job) or {}).get("status") in ENDED for job in begun), seconds=300)
    seen = json.loads((tmp_path / "one" / "run-x" / "seen.json").read_text())
    assert seen["argv"] == [os.fsencode(text).hex() for text in texts]
    assert {n: seen["env"][n] for n in environment} == {
        n: os.fsencode(t).hex() for n, t in environment.items()
    }
    assert all((run / "ran").is_file() or run.name == "run-x" for run in begun.values())
    assert len(begun) > 10
    assert not list(tmp_path.rglob("canary"))


def test_every_directory_is_one_word_of_the_entrypoint(tmp_path: Path) -> None:
    """As Ray starts it: `bash -c ENTRYPOINT`."""
    placement = make_plan({}).placement
    texts = hostile(tmp_path)
    for number, text in enumerate(texts):
        name = text.replace("/", "_").encode()[:180].decode(errors="ignore").replace("\0", "_") or "empty"
        run = tmp_path / f"{number}" / f"{name}." / f"run-{number}"
        run.mkdir(parents=True)
        (run / "submit.sh").write_text('echo "$1" > "$(dirname -- "${BASH_SOURCE[0]}")/ran"\n')
        payload = job_payload(run, placement, run.name, run.name)
        done = subprocess.run(["bash", "-c", payload["entrypoint"]], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert (run / "ran").read_text() == f"run-{number}\n"
    assert len(texts) == 200 and not list(tmp_path.rglob("canary"))


def test_hostile_addresses_are_refused_or_stay_what_they_are(tmp_path: Path) -> None:
    for text in hostile(tmp_path):
        for given in (text, f"http://{text}", f"http://host:8265/{text}"):
            try:
                address = api_address(given)
            except UsageError as problem:
                assert problem.where == "address"
                continue
            assert address.isascii() and not any(c.isspace() or not c.isprintable() for c in address)


@pytest.mark.parametrize(
    "address", ["", "auto", "ray://h:10001", "ftp://h", "http://me:pw@h:8265", "h h", "h:x"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        api_address(address)
    assert caught.value.where == "address"
    assert "pw" not in caught.value.render()
