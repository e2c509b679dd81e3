"""Each exit code, shown by a command that ends with it; and the error as JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
TINY = ("steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny", "-d")
COUNT = ("steps", "run", "use/count")


def test_0_when_it_is_done(cli: Cli) -> None:
    for words in (
        ("steps", "run", "make/rows"),
        ("steps", "list"),
        ("steps", "show", "make/rows"),
        ("steps", "check"),
        ("runs", "list"),
        ("--help",),
        ("--version",),
        ("steps", "run", "--help"),
        (*COUNT, "-d"),
    ):
        assert cli(*words).code == 0, words


def test_1_when_the_work_failed(cli: Cli) -> None:
    assert cli("steps", "run", "make/rows", "behave=fail").code == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("steps",),
        ("stepz",),
        ("steps", "rnu"),
        ("steps", "run"),
        (*TINY, "grpo.max_num_stesp=1"),
        (*TINY, "stray"),
        (*TINY, "-lr", "1"),
        (*TINY, "--engine", "torch"),
        (*TINY, "-i", "polcy=a/b"),
        ("runs", "list", "--limit", "0"),
        ("runs", "list", "--limit", "many"),
        ("runs", "show"),
    ],
)
def test_2_for_a_wrong_command_line(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli(*words).code == 2


def test_2_for_a_broken_config(world: Any, cli: Cli) -> None:
    for text in ("a: [", "a: 1\na: 2", "a: !!python/object:os.system x", "- a", "a: ${b}", "a: ${nothing:1}"):
        (world.work / "mine.yaml").write_text(text + "\n")
        done = cli("steps", "run", "make/rows", "-c", "mine.yaml", "-d")
        assert done.code == 2, (text, done.err)
        assert "mine.yaml" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("steps", "show", "make/rosw"),
        ("steps", "list", "--produces", "nothing"),
        ("steps", "check", "make/rosw"),
        (*TINY[:3], "-c", "tniy", "-d"),
        (*COUNT, "-i", "rows=nowhere/rows.jsonl"),
        (*COUNT, "-d", "-i", "rows=run://nothing"),
        ("runs", "show", "nothing"),
        ("runs", "logs", "nothing"),
        ("steps", "run", "make/rows", "-r", "cluster"),
    ],
)
def test_3_when_it_is_not_there(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words)
    assert done.code == 3
    assert "error: " in done.err


def test_3_for_a_dry_run_too_which_shows_the_plan_all_the_same(cli: Cli) -> None:
    done = cli(*COUNT, "-d", "-i", "rows=nowhere/rows.jsonl")
    assert done.code == 3
    assert "input.not_found" in done.out
    assert "MISSING" in done.out


def test_4_when_a_contract_is_violated(
    world: Any, cli: Cli, write_rows: Callable[..., Path], write_model: Callable[..., Path]
) -> None:
    broken = world.work / "rows.jsonl"
    broken.write_text("{broken\n")
    prompts = write_rows("p.jsonl", "prompt_jsonl")
    for words in (
        (*COUNT, "-i", f"rows={broken}"),
        (*COUNT, "-d", "-i", f"rows={broken}"),
        (*COUNT, "-d", "-i", f"rows={prompts}"),
        (*TINY, "-i", f"policy={write_model('bare', weights=False)}"),
        (*TINY, "-i", "prompts=step://sft/nemo_rl?config=tiny"),
        (*TINY, "grpo.num_generations_per_prompt=1"),
        ("steps", "run", "make/rows", "behave=nothing"),
        ("steps", "run", "make/rows", "behave=broken"),
    ):
        done = cli(*words)
        assert done.code == 4, (words, done.err)


def test_4_when_an_input_is_bound_to_nothing_and_0_for_a_dry_run(world: Any, cli: Cli) -> None:
    shown = cli(*COUNT, "-d")
    assert shown.code == 0
    assert "rows: UNBOUND" in shown.out
    done = cli(*COUNT)
    assert done.code == 4
    assert "input rows" in done.err
    assert "make/rows" in done.err, "the steps that make it are named"
    assert "data_prep/scratch" in done.err
    assert not world.home.exists()


def test_4_for_a_catalog_with_errors(world: Any, cli: Cli) -> None:
    manifest = world.catalog / "make/rows/step.toml"
    manifest.write_text(manifest.read_text().replace('"output"', '"outptu"'))
    done = cli("steps", "check")
    assert done.code == 4
    assert "outptu" in done.out


def test_4_when_the_engine_cannot_run_here_and_0_for_a_dry_run(cli: Cli) -> None:
    words = ("steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny", "--engine", "nemo_rl")
    assert cli(*words, "-d").code in (0, 4)
    done = cli(*words)
    assert done.code == 4
    assert "cannot run here" in done.err


def test_an_error_as_json_is_one_object_on_stdout(cli: Cli) -> None:
    done = cli(*TINY, "grpo.max_num_stesp=1", "--json")
    assert done.json == {
        "error": {
            "kind": "usage",
            "what": "grpo.max_num_stesp is not a key of this config",
            "where": "command line",
            "nearest": done.json["error"]["nearest"],
            "valid": [],
            "next": "for a new key: +grpo.max_num_stesp=1",
            "exit_code": 2,
            "findings": [],
        }
    }
    assert done.json["error"]["nearest"][0] == "grpo.max_num_steps"
    assert "error: grpo.max_num_stesp" in done.err
    assert cli(*TINY, "grpo.max_num_stesp=1").out == ""


@pytest.mark.parametrize(
    "words",
    [("stepz", "--json"), ("steps", "show", "--json"), ("runs", "show", "x", "--json"), (*COUNT, "--json")],
)
def test_every_error_has_its_json(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words)
    assert done.json["error"]["exit_code"] == done.code != 0


def test_findings_come_with_the_error(cli: Cli) -> None:
    error = cli(*COUNT, "--json").json["error"]
    (finding,) = error["findings"]
    assert (finding["id"], finding["where"]) == ("input.unbound", "rows_path")


def test_a_reader_that_goes_away_is_no_traceback(world: Any) -> None:
    command = " ".join(f"'{word}'" for word in world.command("steps", "show", "rl/nemo_rl/rlhf"))
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1"], env=world.environ, capture_output=True, text=True
    )
    assert done.stdout.startswith("rl/nemo_rl/rlhf")
    assert done.stderr == ""


def test_the_console_script_and_the_module_are_one(world: Any) -> None:
    script = Path(sys.executable).parent / "nemotron"
    if not script.exists():
        pytest.skip("not installed as a script here")
    for words in ((), ("--version",), ("steps", "show", "nothing")):
        said = [
            subprocess.run([*start, *words], env=world.environ, capture_output=True, text=True)
            for start in ([str(script)], [sys.executable, "-m", "nemotron"])
        ]
        assert said[0].returncode == said[1].returncode
        assert (said[0].stdout, said[0].stderr) == (said[1].stdout, said[1].stderr)


def test_output_is_plain_where_it_is_no_terminal(world: Any) -> None:
    for words in (("steps", "list"), ("steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny", "-d"), ("--help",)):
        done = world.run(*words, TERM="xterm-256color", COLUMNS="40")
        assert "\x1b" not in done.out + done.err
    listed = world.run("steps", "list", COLUMNS="40").out
    assert "RLHF with a generative judge (NeMo-RL)" in listed, "nothing is cut off in a pipe"


def test_a_terminal_without_utf_8_gets_escapes_not_a_traceback(world: Any) -> None:
    world.add_step("make/unicode", configs={"default": "text: 模型\nrows: 1\nbehave: write\noutput: o\n"})
    done = subprocess.run(
        world.command("steps", "run", "make/unicode", "-d"),
        env=world.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=world.work,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert os.linesep.encode() in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("steps", "show", "rl/nemo_rl/rlhf"), 141, ""),
        (("steps", "show", "rl/nemo_rl/rlhf", "--json"), 141, ""),
        (("steps", "list"), 141, ""),
        (("--help",), 141, ""),
        (("steps", "show", "no/such/step", "--json"), 3, "no/such/step"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_makes_no_noise(
    world: Any, words: tuple[str, ...], code: int, said: str, unbuffered: str
) -> None:
    """As in `nemotron steps list | true`; an error of the user's is told on stderr all the same."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            world.command(*words),
            env=world.environ | {"PYTHONUNBUFFERED": unbuffered},
            cwd=world.work,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writing)
    assert done.returncode == code and bool(done.stderr) == bool(said)
    assert said in done.stderr and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
