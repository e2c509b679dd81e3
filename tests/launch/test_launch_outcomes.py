"""What a launch leaves: a record of what went in and out, and reasons to run again or not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def launched(cli: Cli, *words: str) -> dict[str, Any]:
    done = cli("steps", "run", *words, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = done.json
    return found


def steps_of(world: Any) -> list[str]:
    """The steps that ran, in order."""
    return [json.loads((run / "plan.json").read_text())["recipe"]["step"] for run in world.runs()]


def starts(run: dict[str, Any]) -> int:
    """How often the run's program was started."""
    return len((Path(run["directory"]) / "starts").read_text().split())


def test_a_run_leaves_its_output_and_its_records(world: Any, cli: Cli) -> None:
    run = launched(cli, "make/rows", "rows=5")
    assert run["outcome"] == "ran"
    directory = Path(run["directory"])
    assert directory.parent == world.home / "runs"
    (output,) = run["outputs"].values()
    assert output["type"] == "training_jsonl"
    assert output["facts"]["rows"] == 5
    assert Path(output["path"]).read_text().count("\n") == 5
    records = {(r["kind"], r.get("phase")): r for r in world.records()}
    assert set(records) == {("attempt", "started"), ("attempt", "ended"), ("artifact", None)}
    ended, artifact = records["attempt", "ended"], records["artifact", None]
    assert (ended["exit_code"], ended["attempt"], ended["run_id"]) == (0, 1, run["run"])
    assert ended["outputs"]["rows"]["path"] == output["path"]
    assert artifact["digest"] == output["digest"]
    assert artifact["made_by"] == {"run_id": run["run"], "attempt": 1, "port": "rows"}
    assert json.loads((directory / "record.json").read_text()) == ended
    plan = json.loads((directory / "plan.json").read_text())
    assert plan["recipe_digest"] == ended["recipe_digest"]
    assert (directory / "logs/attempt-1.log").read_text().splitlines()[-1] == "written"


def test_the_inputs_of_a_run_are_recorded_with_their_maker(world: Any, cli: Cli) -> None:
    run = launched(cli, "use/count", "-c", "built")
    made = next(r for r in world.records() if r["kind"] == "artifact" and r["type"] == "training_jsonl")
    ended = json.loads((Path(run["directory"]) / "record.json").read_text())
    assert ended["inputs"]["rows"] == {
        "type": "training_jsonl",
        "reference": "step://make/rows?config=default",
        "path": made["path"],
        "digest": made["digest"],
        "made_by": made["made_by"]["run_id"],
    }
    assert json.loads(Path(run["outputs"]["count"]["path"]).read_text()) == {"rows": 3}


def test_the_same_again_runs_nothing(world: Any, cli: Cli) -> None:
    first = launched(cli, "use/count", "-c", "built")
    before = [p.stat().st_mtime_ns for p in sorted(world.home.rglob("*")) if "claims" not in p.parts]
    second = launched(cli, "use/count", "-c", "built")
    assert (second["run"], second["outcome"]) == (first["run"], "reused")
    assert second["outputs"] == first["outputs"]
    assert [p.stat().st_mtime_ns for p in sorted(world.home.rglob("*")) if "claims" not in p.parts] == before
    assert starts(second) == 1
    plan = cli("steps", "run", "use/count", "-c", "built", "-d", "--json").json
    assert plan["done_by"] == first["run"]


def test_no_cache_runs_again_but_reuses_what_it_needs(world: Any, cli: Cli) -> None:
    first = launched(cli, "use/count", "-c", "built")
    second = launched(cli, "use/count", "-c", "built", "--no-cache")
    assert second["outcome"] == "ran"
    assert second["run"] != first["run"]
    assert len(world.runs()) == 3
    shown = cli("steps", "run", "use/count", "-c", "built", "-d", "--no-cache", "--json").json
    assert shown["done_by"] is None, "a dry run shows what would happen"


def test_another_value_is_another_run_and_an_input_built_twice_is_built_once(world: Any, cli: Cli) -> None:
    launched(cli, "use/count", "-c", "built")
    launched(cli, "use/count", "-c", "built", "text=other")
    assert steps_of(world) == ["make/rows", "use/count", "use/count"]


@pytest.mark.parametrize("damage", ["deleted", "modified"])
def test_a_damaged_output_is_built_again(world: Any, cli: Cli, damage: str) -> None:
    first = launched(cli, "use/count", "-c", "built")
    rows = Path(world.runs()[0]) / "rows.jsonl"
    if damage == "deleted":
        rows.unlink()
    else:
        rows.write_text(rows.read_text().replace("yes", "no"))
    plan = cli("steps", "run", "use/count", "-c", "built", "-d", "--json").json
    assert [b["key"] for b in plan["builds"]] == ["step://make/rows?config=default"]
    again = launched(cli, "use/count", "-c", "built")
    assert steps_of(world) == ["make/rows", "use/count", "make/rows"]
    assert (again["run"], again["outcome"]) == (first["run"], "reused"), "the same content came out"


def test_a_touched_output_is_still_the_same(world: Any, cli: Cli) -> None:
    first = launched(cli, "make/rows")
    Path(first["outputs"]["rows"]["path"]).touch()
    assert launched(cli, "make/rows")["outcome"] == "reused"


def test_a_run_that_was_moved_away_runs_again(world: Any, cli: Cli) -> None:
    first = launched(cli, "make/rows")
    shutil.rmtree(first["directory"])
    assert launched(cli, "make/rows")["outcome"] == "ran"


def test_a_failing_program_is_exit_1_and_its_log_is_named(world: Any, cli: Cli) -> None:
    done = cli("steps", "run", "make/rows", "behave=fail")
    assert done.code == 1
    (run,) = world.runs()
    log = run / "logs/attempt-1.log"
    assert "exit code 7" in done.err
    assert str(log) in done.err
    assert "the reason is in this line" in log.read_text()
    assert not (run / "outputs.json").exists()
    ended = next(r for r in world.records() if r.get("phase") == "ended")
    assert (ended["exit_code"], ended["reason"]) == (7, "trainer failed")
    assert not [r for r in world.records() if r["kind"] == "artifact"]


@pytest.mark.parametrize("code", [2, 3, 4, 5, 130])
def test_a_programs_own_exit_code_is_not_taken_for_ours(world: Any, cli: Cli, code: int) -> None:
    world.add_step("make/exit", script=f"import sys; sys.exit({code})")
    done = cli("steps", "run", "make/exit")
    assert done.code == 1, done.err
    assert f"exit code {code}" in done.err


def test_the_word_of_a_program_on_its_failure_is_told(world: Any, cli: Cli) -> None:
    said = {"what": "row 7 has no answer", "where": "rows.jsonl:7", "next": "mend it", "exit_code": 4}
    script = f"import json, sys; open('failure.json', 'w').write(json.dumps({said!r})); sys.exit(4)"
    world.add_step("make/word", script=script)
    done = cli("steps", "run", "make/word", "--json")
    assert done.code == 4
    error = done.json["error"]
    assert "row 7 has no answer" in error["what"]
    assert (error["where"], error["next"]) == ("rows.jsonl:7", "mend it")


def test_a_failed_run_goes_on_in_its_own_directory(world: Any, cli: Cli) -> None:
    assert cli("steps", "run", "make/rows", "behave=fail_once").code == 1
    again = launched(cli, "make/rows", "behave=fail_once")
    assert again["outcome"] == "resumed"
    assert starts(again) == 2
    assert len(world.runs()) == 1
    attempts = sorted((r["attempt"], r["phase"]) for r in world.records() if r["kind"] == "attempt")
    assert attempts == [(1, "ended"), (1, "started"), (2, "ended"), (2, "started")]


def test_a_program_that_writes_nothing_is_exit_4(world: Any, cli: Cli) -> None:
    done = cli("steps", "run", "make/rows", "behave=nothing")
    assert done.code == 4
    (run,) = world.runs()
    assert str(run / "rows.jsonl") in done.err
    assert "output rows" in done.err
    assert not (run / "outputs.json").exists()
    assert cli("runs", "show", run.name, "--json").json["state"] == "failed"


def test_a_broken_output_is_exit_4_and_never_an_artifact(world: Any, cli: Cli) -> None:
    for _ in range(2):
        done = cli("steps", "run", "make/rows", "behave=broken")
        assert done.code == 4
        assert "data.broken_json" in done.err
        assert "rows.jsonl:1" in done.err
        assert re.search(r"next: .*--no-cache", done.err), "the way out is told"
    assert not [r for r in world.records() if r["kind"] == "artifact"]
    assert cli("steps", "run", "use/count", "-i", f"rows=run://{world.runs()[0].name}").code == 4
    assert cli("steps", "run", "make/rows", "behave=broken", "--no-cache").code == 4
    assert len(world.runs()) == 2


def test_a_run_reference_takes_what_the_run_left(world: Any, cli: Cli) -> None:
    first = launched(cli, "make/rows", "rows=4")
    for reference in (f"run://{first['run']}", f"run://{first['run']}/rows", f"run://{first['run'][:-2]}"):
        run = launched(cli, "use/count", "-i", f"rows={reference}")
        assert json.loads(Path(run["outputs"]["count"]["path"]).read_text()) == {"rows": 4}
    assert cli("steps", "run", "use/count", "-d", "-i", f"rows=run://{first['run']}/rosw").code == 3
    assert cli("steps", "run", "use/count", "-d", "-i", f"prompts=run://{first['run']}").code == 4


@pytest.mark.parametrize("damage", ["deleted", "modified"])
def test_a_run_reference_to_what_changed_since_is_refused(world: Any, cli: Cli, damage: str) -> None:
    """Its digest would be a lie in the record of whatever is made from it."""
    first = launched(cli, "make/rows")
    path = Path(first["outputs"]["rows"]["path"])
    path.unlink() if damage == "deleted" else path.write_text(path.read_text() * 2)
    done = cli("steps", "run", "use/count", "-i", f"rows=run://{first['run']}")
    assert done.code == 4
    assert str(path) in done.err


def test_a_step_without_outputs_has_nothing_to_reuse_and_runs_again(world: Any, cli: Cli) -> None:
    toml = '[step]\nid = "say/hello"\ndescription = "Says hello."\n[run]\nengines = ["script"]\n'
    world.add_step("say/hello", toml, configs={"default": "word: hello\n"}, script="print('hello')\n")
    assert launched(cli, "say/hello")["outcome"] == "ran"
    assert launched(cli, "say/hello")["outcome"] == "ran", "there is nothing that could be reused"


def test_words_that_look_like_placeholders_reach_the_program(world: Any, cli: Cli) -> None:
    """`in://PORT` stands for an input's path where the plan put it, and is plain text elsewhere."""
    script = "import sys, shutil; shutil.copy(sys.argv[2], 'seen.yaml'); open('rows.jsonl', 'w').write('')"
    toml = '[step]\nid = "say/it"\ndescription = "Says it."\n[run]\nengines = ["script"]\n'
    text = "a: builtin://thing\nb: plugin://x\nc: 'out://nothing'\nd: 'in://nothing'\ne: '{run_dir}/x'\n"
    world.add_step("say/it", toml, configs={"default": text}, script=script)
    run = launched(cli, "say/it")
    import yaml

    assert yaml.safe_load((Path(run["directory"]) / "seen.yaml").read_text()) == yaml.safe_load(text)


def test_an_input_and_what_is_derived_from_it_become_real_paths(
    world: Any, cli: Cli, write_rows: Callable[..., Path]
) -> None:
    rows = write_rows("chat rows.jsonl", "training_jsonl", 2)
    text = f"defaults: {world.catalog}/use/count/config/default.yaml\nindex: 'at ${{rows_path}}.idx'\n"
    (world.work / "c.yaml").write_text(text)
    run = launched(cli, "use/count", "-c", "c.yaml", "-i", f"rows={rows}")
    import yaml

    config = yaml.safe_load((Path(run["directory"]) / "config.yaml").read_text())
    assert (config["rows_path"], config["index"]) == (str(rows), f"at {rows}.idx")
    assert config["output"] == "count.json"


@pytest.mark.parametrize(
    "files",
    [
        {"metrics.jsonl": b'[1]\n"text"\nnot json\n{"train/loss": NaN, "step": 1}\n{"train/reward": "x"}\n'},
        {"metrics.jsonl": b"\xff\xfe\n", "timings.jsonl": b"5\n{}\nnot json\n\xff\n"},
        {"timings.jsonl": b'{"event": "start"}\n{"event": "step"}\n{"seconds": 1}\n'},
        {"summary.json": b'{"first": 1, "last": 2, "comparison": "none", "metric": 3}'},
        {"summary.json": b"[]", "metrics.jsonl": b""},
    ],
    ids=["odd metrics", "binary", "odd timings", "odd summary", "list summary"],
)
def test_files_of_a_program_that_happen_to_have_our_names_do_no_harm(
    world: Any, cli: Cli, files: dict[str, bytes]
) -> None:
    script = f"import pathlib\nfor n, b in {files!r}.items():\n    pathlib.Path(n).write_bytes(b)\n"
    world.add_step("make/odd", script=script + "import time; time.sleep(0.4)\n" + world_script(world))
    done = cli("steps", "run", "make/odd")
    assert done.code == 0, done.err
    assert cli("runs", "list").code == 0
    assert cli("runs", "show", world.runs()[0].name).code == 0


def world_script(world: Any) -> str:
    text: str = (world.catalog / "make/rows/step.py").read_text()
    return text


KNOWN = """
    [step]
    id = "make/known"
    description = "Fails as its manifest foresees."
    [[errors]]
    name = "the reason"
    recovery = "Do the other thing."
    match = 'reason is in (this|that) line'
    [[errors]]
    name = "something else"
    recovery = "Not this."
    match = 'never written'
    [[errors]]
    name = "no pattern"
    recovery = "For readers."
    [run]
    engines = ["script"]
"""


def test_a_failure_that_the_manifest_knows_is_told_with_its_cure(world: Any, cli: Cli) -> None:
    world.add_step("make/known", KNOWN)
    done = cli("steps", "run", "make/known", "behave=fail")
    assert done.code == 1
    assert "known error: the reason\n  Do the other thing." in done.err
    assert "Not this" not in done.err
    assert "For readers" not in done.err


def test_a_step_that_vanished_or_broke_meanwhile_hides_no_failure(world: Any, cli: Cli) -> None:
    """The program's own failure is what the user has to read."""
    directory = world.add_step("make/known", KNOWN)
    script = directory / "step.py"
    script.write_text(f"open({str(directory / 'step.toml')!r}, 'w').write('[step')\n" + script.read_text())
    done = cli("steps", "run", "make/known", "behave=fail")
    assert done.code == 1, done.err
    assert "exit code 7" in done.err


def test_on_a_terminal_a_bar_is_drawn_and_the_lines_stay(world: Any) -> None:
    import os
    import pty
    import subprocess

    leader, follower = pty.openpty()
    client = subprocess.Popen(
        world.command("steps", "run", "use/count", "-c", "built", "--json"),
        env=world.environ | {"TERM": "xterm"},
        cwd=world.work,
        stdout=subprocess.PIPE,
        stderr=follower,
    )
    os.close(follower)
    out, _ = client.communicate(timeout=60)
    said = b""
    try:
        while chunk := os.read(leader, 4096):
            said += chunk
    except OSError:  # the other end is closed and all is read
        pass
    finally:
        os.close(leader)
    assert client.returncode == 0
    assert json.loads(out)["outcome"] == "ran"
    assert b"[1/2] make/rows: run" in said
    assert b"[2/2] use/count: done" in said
