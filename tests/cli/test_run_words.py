"""What a command line of `steps run` means: options, keys, stray words and what follows `--`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

Cli = Callable[..., Any]
RUN = ("steps", "run", "make/rows")
HOSTILE = [
    "",
    " ",
    "--",
    "-r",
    "-lr",
    "--config=other",
    "key=value",
    "it's",
    'say "hi"',
    "$(touch HACKED)",
    "`touch HACKED`",
    "${HOME}",
    "${oc.env:HOME}",
    "{run_dir}",
    "{script}",
    "in://rows",
    "a;b&&c|d>e",
    "new\nline\ttab\r",
    "*?[x]~",
    "\\ back \\n",
    "%s %(x)s",
    "päth-模型-🙂",
    "\x01\x1b[31m",
    "x" * 5000,
]


def refused(done: Any, code: int, *said: str) -> None:
    assert done.code == code, done.out + done.err
    for words in said:
        assert words in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_an_unknown_key_is_refused_with_the_nearest(cli: Cli) -> None:
    done = cli(*RUN, "-d", "rosw=5")
    refused(done, 2, "rosw is not a key of this config (command line)", "nearest: rows", "+rosw=5")


def test_all_bad_keys_are_told_at_once(cli: Cli) -> None:
    refused(cli(*RUN, "-d", "rosw=5", "txet=a", "layers.9=1"), 2, "rosw", "txet", "layers")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+layers.3=1", None),
        ("layers.4=1", "list of 3"),
        ("layers.-4=1", "list of 3"),
        ("layers.x=1", "list of 3"),
        ("rows={a: 1}", "cannot replace the number 3"),
        ("rows=many", "cannot replace the number 3"),
        ("rows=2.5", "cannot replace the number 3"),
        ("layers=5", "cannot replace a list"),
        ("rows.a=1", "has no keys"),
        ("+rows=5", "exists already"),
        ("rows=", "no value"),
        ("=5", "no key"),
        ("~rows=1", "not supported"),
        ("++rows=1", "not supported"),
        ("lay[0]=1", "written with dots"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(cli: Cli, word: str, said: str | None) -> None:
    done = cli(*RUN, "-d", word)
    if said is None:
        assert done.code == 0, done.err
    else:
        refused(done, 2, said)


def test_keys_set_values_and_the_later_one_wins(cli: Cli) -> None:
    done = cli(*RUN, "-d", "--json", "rows=5", "text=a=b c", "layers.0=9", "+new.key=[1,{a: b}]", "rows=6")
    config = done.json["recipe"]["config"]
    assert config["rows"] == 6
    assert config["text"] == "a=b c"
    assert config["layers"] == [9, 2, 3]
    assert config["new"] == {"key": [1, {"a": "b"}]}


@pytest.mark.parametrize("word", ["stray", "rl/nemo_rl/rlhf", "5", "tiny"])
def test_a_stray_word_is_refused(cli: Cli, word: str) -> None:
    refused(cli(*RUN, "-d", word), 2, f"stray word '{word}'", f"-- {word}")


@pytest.mark.parametrize(
    "words", [("-lr", "1"), ("--lr", "1"), ("-x",), ("--dry",), ("-cd",), ("--learning-rate=1",), ("-dz",)]
)
def test_an_unknown_option_is_refused_and_never_taken_for_another(cli: Cli, words: tuple[str, ...]) -> None:
    """`-lr 1` is no `-r 1`, and `--dry` no `--dry-run`."""
    done = cli(*RUN, *words)
    assert done.code in (2, 3), done.err
    if words != ("-cd",):  # a config of the name `d`
        refused(done, 2, "o such option")


@pytest.mark.parametrize(
    "words",
    [
        ("-d", "--json", "make/rows", "rows=5", "--waive", "x"),
        ("make/rows", "-d", "rows=5", "--json", "--waive", "x"),
        ("make/rows", "rows=5", "--waive=x", "--dry-run", "--json"),
        ("--waive", "x", "-d", "make/rows", "--json", "rows=5"),
    ],
)
def test_options_stand_before_and_after_the_step(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli("steps", "run", *words)
    assert done.code == 3
    assert "nothing to waive" in done.json["error"]["what"]
    words = tuple(w for w in words if w not in ("--waive", "x", "--waive=x"))
    assert cli("steps", "run", *words).json["recipe"]["config"]["rows"] == 5


def test_two_places_at_once_are_refused(cli: Cli) -> None:
    refused(cli(*RUN, "-r", "a", "-b", "b"), 2, "-r and -b exclude each other")
    assert cli(*RUN, "-r", "a").code == 3
    assert cli(*RUN, "-b", "a").code == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "plan.json"), "go with --dry-run"),
        (("--explain", "rows"), "go with --dry-run"),
        (("-d", "--explain", "rows", "-o", "plan.json"), "--explain"),
        (("-d", "-i", "rows"), "PORT=REF"),
        (("-d", "-i", "=x"), "PORT=REF"),
        (("-d", "-i", "rows="), "PORT=REF"),
        (("-d", "-i", "rows=a", "-i", "rows=b"), "given twice"),
        (("-d", "--engine", "embeded"), "does not run on"),
        (("--force-squash",), "--force-squash"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    world: Any, cli: Cli, words: tuple[str, ...], said: str
) -> None:
    refused(cli(*RUN, *words), 2, said)
    assert not (world.work / "plan.json").exists()


def test_an_unknown_config_or_step_is_told_with_the_nearest(world: Any, cli: Cli) -> None:
    refused(cli(*RUN, "-d", "-c", "defalt"), 3, "no config 'defalt'", "nearest: default")
    refused(cli(*RUN, "-d", "-c", "./none.yaml"), 3, "none.yaml")
    refused(cli("steps", "run", "make/rosw", "-d"), 3, "no step 'make/rosw'", "nearest: make/rows")
    refused(cli("steps", "run", "rlhf", "-d"), 3, "nearest: rl/nemo_rl/rlhf")
    refused(cli("steps", "run", "other:make/rows", "-d"), 3, "other")
    assert cli("steps", "run", "small:make/rows", "-d").code == 0


def test_explain_says_where_a_value_came_from(world: Any, cli: Cli) -> None:
    (world.work / "mine.yaml").write_text(
        f"defaults: {world.catalog}/make/rows/config/default.yaml\nrows: 4\n"
    )
    done = cli(*RUN, "-c", "mine.yaml", "-d", "--explain", "rows", "rows=5")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["rows", "=", "5"]
    assert [line[0] for line in lines[1:]] == [
        f"{world.catalog}/make/rows/config/default.yaml:3",
        f"{world.work}/mine.yaml:2" if lines[2][0].startswith("/") else "mine.yaml:2",
        "*",
    ]
    found = cli(*RUN, "-d", "--explain", "rows", "rows=5", "--json").json
    assert [s["winner"] for s in found["sources"]] == [False, True]
    refused(cli(*RUN, "-d", "--explain", "rosw"), 3, "rosw", "nearest: rows")


def test_explain_knows_bound_inputs(world: Any, cli: Cli) -> None:
    done = cli("steps", "run", "use/count", "-d", "--explain", "rows_path", "-i", "rows=run://x")
    assert done.code == 0, done.err
    assert 'rows_path = "run://x"' in done.out
    assert "-i rows" in done.out


def test_a_plan_is_written_to_a_file(world: Any, cli: Cli) -> None:
    done = cli(*RUN, "-d", "-o", "plan.json")
    assert done.code == 0
    written = (world.work / "plan.json").read_text()
    assert written == cli(*RUN, "-d", "--json").out
    both = cli(*RUN, "-d", "-o", "again.json", "--json")
    assert both.out == (world.work / "again.json").read_text() == written
    refused(cli(*RUN, "-d", "-o", "no/such/plan.json"), 3, "no such file or directory")
    (world.work / "directory").mkdir()
    refused(cli(*RUN, "-d", "-o", "directory"), 2, "a directory stands where")


def test_what_follows_two_dashes_is_shown_in_the_plan(cli: Cli) -> None:
    shown = cli(*RUN, "-d", "--", "--lr", "1e-3", "two words").out
    assert "--lr 1e-3 'two words'" in shown


@pytest.mark.parametrize(
    "words", [("steps", "list"), ("steps", "show", "make/rows"), ("runs", "list"), ("steps", "check")]
)
def test_two_dashes_elsewhere_are_refused_not_dropped(cli: Cli, words: tuple[str, ...]) -> None:
    refused(cli(*words, "--", "x"), 2, "after --")


def test_the_embedded_trainer_takes_no_arguments(cli: Cli) -> None:
    """It would not read them, and what is given must do something or be refused."""
    refused(cli("steps", "run", "sft/nemo_rl", "-c", "tiny", "-d", "--", "--lr"), 2, "--")


def test_hostile_words_reach_the_program_as_they_are(world: Any) -> None:
    words: list[str | bytes] = [*HOSTILE, b"\xff not utf-8"]
    done = world.run(*RUN, "--json", "--", *words)
    assert done.code == 0, done.err
    run = Path(done.json["directory"])
    assert json.loads((run / "argv.json").read_text()) == [os.fsdecode(w) for w in words]
    assert not list(world.root.rglob("HACKED"))
    again = world.run(*RUN, "--json", "--", *words)
    assert again.json["outcome"] == "reused"
    shown = world.run(*RUN, "-d", "--", *words)
    assert shown.code == 0, shown.err
    assert world.run("runs", "show", run.name).code == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20), max_size=5
    )
)
@example(["--", "--", "-d"])
@example(["--json", "--help"])
def test_any_words_come_through_the_plan_untouched(cli: Cli, words: list[str]) -> None:
    plan = cli(*RUN, "-d", "--json", "--", *words).json
    assert plan["recipe"]["arguments"] == words
    argv = plan["placement"]["argv"]
    assert argv[len(argv) - len(words) :] == words


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=20))
@example("a\0b")
@example("\ud800")
@example("- a")
@example("&a *b")
@example("!!python/object:os.system")
@example("${oc.env:NO_SUCH_VARIABLE}")
@example("${rows}")
@example("[" * 30)
def test_any_value_is_taken_or_refused_with_a_word(cli: Cli, text: str) -> None:
    done = cli(*RUN, "-d", "--json", f"text={text}")
    assert done.code in (0, 2)
    assert "Traceback" not in done.err
    if done.code == 2:
        assert done.json["error"]["kind"] == "usage"


def test_a_path_that_is_not_utf_8_can_be_bound_and_printed(world: Any) -> None:
    raw = os.fsencode(world.work) + b"/ro\xffws.jsonl"
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    with open(raw, "w", encoding="utf-8") as file:  # noqa: PTH123 - the name is bytes
        file.write(row)
    binding = b"rows=" + raw
    for words in (("-d",), ("-d", "--json"), ("--json",)):
        done = subprocess.run(
            world.command("steps", "run", "use/count", "-i", binding, *words),
            env=world.environ,
            cwd=world.work,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert json.loads(Path(found["outputs"]["count"]["path"]).read_text()) == {"rows": 1}
