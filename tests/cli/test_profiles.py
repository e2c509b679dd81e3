"""`nemotron profiles`, as it is typed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

TOKEN = "hf_abcdefghijklmnopqrstuvwx"
FILE = f"""
[base]
executor = "slurm"
partition = "batch"
description = "the base"

[good]
extends = "base"
time = "${{oc.env:LIMIT,01:00:00}}"
secrets = ["NGC_API_KEY"]

[good.env_vars]
HF_TOKEN = "${{oc.env:HF_TOKEN,}}"
OTHER = "{TOKEN}"

[bad]
extends = "base"
nods = 2
"""


@pytest.fixture(autouse=True)
def file(world: Any) -> Path:
    path: Path = world.work / "env.toml"
    path.write_text(FILE)
    return path


def test_list_shows_each_profile_with_its_place(cli: Cli) -> None:
    done = cli("profiles", "list")
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[1] == ["base", "slurm", "env.toml:2", "the", "base"]
    assert [row[0] for row in rows] == ["NAME", "base", "good", "bad"]
    assert done.err == ""


def test_list_tells_of_files_that_cannot_be_read(cli: Cli, file: Path) -> None:
    file.write_text("[a\n")
    done = cli("profiles", "list")
    assert (done.code, done.out) == (0, "none\n")
    assert "env.toml:1) [profiles.unreadable]" in done.err
    assert cli("profiles", "list", "--json").json["findings"][0]["id"] == "profiles.unreadable"


def test_list_without_a_file_says_where_one_could_be(cli: Cli, file: Path) -> None:
    file.unlink()
    done = cli("profiles", "list")
    assert done.out == "none\n"
    assert "NEMOTRON_ENV_FILE" in done.err


def test_show_has_every_value_with_its_place_and_no_secret(cli: Cli, world: Any) -> None:
    done = cli("profiles", "show", "good")
    assert done.code == 0
    assert "partition  batch     env.toml:4 (base)" in done.out
    assert "time       01:00:00  env.toml:9\n" in done.out
    assert "from HF_TOKEN, if set" in done.out
    assert "OTHER        written in the file" in done.out
    assert "looks like a secret" in done.err
    whole = cli("profiles", "show", "good", "--json")
    assert TOKEN not in done.out + done.err + whole.out + whole.err


def test_check_finds_errors_and_says_that_nobody_was_asked(cli: Cli) -> None:
    done = cli("profiles", "check", "bad")
    assert done.code == 4
    assert 'did you mean "nodes"?' in done.out
    assert "bad: 1 error\n" in done.out
    assert "the scheduler was not asked" in done.out
    good = cli("profiles", "check", "good", "--json")
    assert good.code == 0
    assert good.json["scheduler_asked"] is False
    assert {f["severity"] for f in good.json["findings"]} == {"warning"}
    missing = cli("profiles", "check", "god")
    assert missing.code == 3
    assert "nearest: good" in missing.err


def test_a_list_imports_neither_the_checks_nor_a_grammar(world: Any) -> None:
    code = (
        "import sys; from nemotron.cli.app import command_line as run; run(sys.argv[1:]); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "profiles", "list"],
        env=world.environ,
        cwd=world.work,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "nemotron.profiles.load" in loaded
    assert not loaded & {
        "nemotron.profiles.validate",
        "nemotron.config.grammar",
        "omegaconf",
        "pydantic",
        "yaml",
    }
