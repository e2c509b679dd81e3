"""`nemotron runs`: any run, by any beginning of its id, while it runs and after."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def ran(world: Any, cli: Cli) -> str:
    """The id of a finished run."""
    done = cli("steps", "run", "make/rows", "--json")
    assert done.code == 0, done.err
    return str(done.json["run"])


def copied(world: Any, run: str, name: str) -> None:
    """A second run, as another second would have named it."""
    shutil.copytree(
        world.home / "runs" / run, world.home / "runs" / name, ignore=shutil.ignore_patterns("lock")
    )


def test_an_empty_store_has_no_runs(cli: Cli) -> None:
    assert cli("runs", "list").out == "none\n"
    assert cli("runs", "list", "--json").json == {"runs": []}


def test_runs_are_listed_newest_first_with_their_state(world: Any, cli: Cli, ran: str) -> None:
    cli("steps", "run", "make/rows", "behave=fail")
    time.sleep(1.1)  # ids hold seconds
    cli("steps", "run", "use/count", "-c", "built")
    listed = cli("runs", "list", "--json").json["runs"]
    assert (listed[0]["step"], listed[0]["state"]) == ("use/count", "succeeded")
    assert sorted(r["state"] for r in listed[1:]) == ["failed", "succeeded"]
    assert listed[0]["run"] == world.runs()[-1].name
    assert len(cli("runs", "list", "--limit", "2", "--json").json["runs"]) == 2
    text = cli("runs", "list").out.splitlines()
    assert text[0].split() == ["RUN", "STEP", "ENGINE", "STATE", "JOB", "WHERE", "LAST", "METRICS"]
    assert text[1].split()[:6] == [listed[0]["run"], "use/count", "script", "succeeded", "-", "local"]


def test_a_run_is_shown_by_any_unambiguous_beginning(world: Any, cli: Cli, ran: str) -> None:
    shown = [cli("runs", "show", ran[:n], "--json").json for n in (4, 12, len(ran))]
    assert [s["run"] for s in shown] == [ran] * 3
    text = cli("runs", "show", ran).out
    for part in (ran, "succeeded", "make/rows with default on script", "rows.jsonl", "blake3:"):
        assert part in text


def test_an_ambiguous_beginning_lists_the_runs(world: Any, cli: Cli, ran: str) -> None:
    other = ran[:-4] + ("0000" if ran[-4:] != "0000" else "0001")
    copied(world, ran, other)
    for command in ("show", "logs"):
        done = cli("runs", command, ran[:8])
        assert done.code == 2
        assert ran in done.err
        assert other in done.err
    assert cli("runs", "show", other).code == 0


def test_an_unknown_run_gets_the_nearest(cli: Cli, ran: str) -> None:
    for command in ("show", "logs"):
        done = cli("runs", command, ran[:-1] + "x")
        assert done.code == 3
        assert f"nearest: {ran}" in done.err
        assert "nemotron runs list" in done.err


@pytest.mark.parametrize("prefix", ["..", "../..", "/etc", ".", ""])
def test_a_beginning_never_leads_out_of_the_store(cli: Cli, ran: str, prefix: str) -> None:
    assert cli("runs", "show", prefix).code in (2, 3)
    assert cli("runs", "logs", prefix).code in (2, 3)


def test_the_log_is_that_of_the_latest_attempt(world: Any, cli: Cli) -> None:
    cli("steps", "run", "make/rows", "behave=fail_once")
    (run,) = world.runs()
    assert cli("runs", "logs", run.name).out.splitlines()[-1] == "the reason is in this line"
    cli("steps", "run", "make/rows", "behave=fail_once")
    assert cli("runs", "logs", run.name).out.splitlines()[-1] == "written"
    found = cli("runs", "logs", run.name, "--json").json
    assert found["lines"][-1] == "written"
    assert found["log"] == str(run / "logs/attempt-2.log")


def test_the_tenth_attempt_is_later_than_the_ninth(world: Any, cli: Cli, ran: str) -> None:
    logs = world.home / "runs" / ran / "logs"
    for number in range(2, 12):
        (logs / f"attempt-{number}.log").write_text(f"attempt {number}\n")
    assert cli("runs", "logs", ran).out == "attempt 11\n"


def test_a_log_is_printed_whatever_bytes_it_holds(world: Any, cli: Cli, ran: str) -> None:
    (world.home / "runs" / ran / "logs/attempt-1.log").write_bytes("模型".encode() + b"\xff\x00\r\x1b[31m\n")
    done = cli("runs", "logs", ran)
    assert done.code == 0
    assert done.out.startswith("模型�")
    assert cli("runs", "logs", ran, "--json").code == 0


def test_following_a_log_ends_when_the_run_does(world: Any, cli: Cli, wait_for: Callable[..., Any]) -> None:
    gate = world.root / "gate"
    client = world.start("steps", "run", "make/rows", "behave=gate", f"text={gate}")
    run = wait_for(lambda: next((r for r in world.runs() if (r / "starts").exists()), None))
    follower = world.start("runs", "logs", run.name[:9], "-f")
    assert follower.stdout is not None
    assert follower.stdout.readline().startswith("started"), "what is there is printed at once"
    gate.touch()
    out, err = follower.communicate(timeout=40)
    assert follower.returncode == 0, err
    assert out.splitlines()[-1] == "written", "nothing at the end is lost"
    assert client.wait(40) == 0


def test_following_ends_when_the_run_is_killed(world: Any, wait_for: Callable[..., Any]) -> None:
    client = world.start("steps", "run", "make/rows", "behave=sleep")
    run = wait_for(lambda: next((r for r in world.runs() if (r / "starts").exists()), None))
    follower = world.start("runs", "logs", run.name, "-f")
    assert follower.stdout is not None
    assert follower.stdout.readline().startswith("started")
    assert follower.poll() is None
    client.kill()
    follower.communicate(timeout=40)
    assert follower.returncode == 0


def test_following_a_finished_run_prints_it_and_ends(cli: Cli, ran: str) -> None:
    assert cli("runs", "logs", ran, "-f").out == cli("runs", "logs", ran).out
    assert cli("runs", "logs", ran, "-f", "--json").code == 2, "one of them would be dropped"


def test_a_run_that_has_not_begun_has_no_log(world: Any, cli: Cli, ran: str) -> None:
    other = ran[:-4] + "ffff"
    (world.home / "runs" / other).mkdir()
    done = cli("runs", "logs", other)
    assert done.code == 3
    assert "no log yet" in done.err
    shown = cli("runs", "show", other, "--json").json
    assert shown["state"] == "prepared"
    assert cli("runs", "list").code == 0


@pytest.mark.parametrize(
    "name", ["plan.json", "record.json", "outputs.json", "summary.json", "failure.json", "recipe"]
)
def test_a_damaged_file_of_a_run_is_no_traceback(world: Any, cli: Cli, ran: str, name: str) -> None:
    for damage in (b"", b"{", b"[]", b"\xff\xfe", b"null"):
        (world.home / "runs" / ran / name).write_bytes(damage)
        assert cli("runs", "list").code == 0
        assert cli("runs", "show", ran).code == 0
        assert cli("runs", "show", ran, "--json").json["run"] == ran
        assert cli("steps", "run", "make/rows", "-d").code == 0


def test_metrics_that_are_no_numbers_are_listed_without_harm(world: Any, cli: Cli, ran: str) -> None:
    (told,) = world.home.glob("records/*/attempt-*.ended.json")
    metrics = {"train/loss": "NaN", "train/reward": 2.5, "validation/accuracy": None}
    for record in (told, world.home / "runs" / ran / "record.json"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"metrics": metrics}))
    (listed,) = cli("runs", "list", "--json").json["runs"]
    assert listed["metrics"] == "train/reward 2.5"
    assert cli("runs", "show", ran, "--json").json["metrics"] == "train/reward 2.5"


def test_runs_are_listed_by_their_records_when_their_directories_are_gone(
    world: Any, cli: Cli, ran: str
) -> None:
    (before,) = cli("runs", "list", "--json").json["runs"]
    shutil.rmtree(world.home / "runs" / ran)
    assert cli("runs", "list", "--json").json["runs"] == [before]
    done = cli("runs", "show", ran)
    assert done.code == 3
    assert str(world.home / "runs" / ran) in done.err


def test_a_record_that_cannot_be_read_is_told_beside_the_list(world: Any, cli: Cli, ran: str) -> None:
    (told,) = world.home.glob("records/*/attempt-*.ended.json")
    told.write_text("{")
    done = cli("runs", "list", "--json")
    assert (done.code, done.json["runs"][0]["state"]) == (0, "succeeded"), "its directory still tells"
    assert str(told) in done.err


def test_runs_of_another_store_are_not_seen(
    world: Any, cli: Cli, ran: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEMOTRON_HOME")
    (world.work / "pyproject.toml").touch()
    assert cli("runs", "list", "--json").json == {"runs": []}
    assert cli("steps", "run", "make/rows", "--json").json["outcome"] == "ran"
    assert Path(world.work / ".nemotron/runs").is_dir()


def test_why_a_run_failed_is_shown_and_told_to_who_waits(world: Any, cli: Cli) -> None:
    said = {"what": "row 7 has no answer", "where": "rows.jsonl:7", "next": "mend it", "exit_code": 4}
    script = f"import json, sys; open('failure.json', 'w').write(json.dumps({said!r})); sys.exit(4)"
    world.add_step("make/word", script=script)
    assert cli("steps", "run", "make/word").code == 4
    run = world.runs()[-1].name
    shown = cli("runs", "show", run).out.splitlines()
    at = shown.index("  failure  row 7 has no answer")
    assert shown[at + 1 : at + 3] == ["           at rows.jsonl:7", "           next: mend it"]
    waited = cli("runs", "wait", run)
    assert (waited.code, waited.out) == (4, f"{run} failed: trainer failed\n")
    assert waited.err.splitlines()[-2:] == [
        f"error: run {run} failed: row 7 has no answer (rows.jsonl:7)",
        "  next: mend it",
    ]
    assert cli("runs", "wait", run, "--json").json["runs"][0]["exit_code"] == 4


def test_a_run_that_failed_without_a_word_points_to_its_log(world: Any, cli: Cli) -> None:
    world.add_step("make/silent", script="import sys; sys.exit(7)")
    assert cli("steps", "run", "make/silent").code == 1
    run = world.runs()[-1]
    shown = cli("runs", "show", run.name).out
    assert "  failure  trainer failed (exit code 7)" in shown
    assert f"           at {run}/logs/attempt-1.log" in shown
    assert f"           next: nemotron runs logs {run.name}" in shown
