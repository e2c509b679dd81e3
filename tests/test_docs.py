"""What the documentation says is what happens: its commands are run, its tables compared with the code.

In a `console` block a line after `$ ` is a command and the rest is what it prints; `...` stands for anything,
on a line of its own for any lines. A command may fail only where the block shows its error. A `bash` block is
run whole. Every page is read in a working directory and a store of its own, from top to bottom.

Two things are not done as written in the fast tests: `INSTEAD` names what takes the place of commands that
train or install, `AFTER_DEMO` what is left out because it looks at the demo's runs. The slow test follows the
README in a copy of the checkout, `make demo` included.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from nemotron import errors
from nemotron.catalog.discover import load_catalog
from nemotron.catalog.manifest import MANIFEST_KEYS
from nemotron.cli.app import build_app
from nemotron.config.resolvers import NAMES, is_secret

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
RLHF = "nemotron steps run rl/nemo_rl/rlhf -c tiny"
INSTEAD = {
    "make demo": f"make -C {ROOT} -n demo",
    "make test": f"make -C {ROOT} -n test",
    "source .venv/bin/activate": "true",
    RLHF: f"{RLHF} -d",
    f"{RLHF} grpo.max_num_steps=8": f"{RLHF} grpo.max_num_steps=8 -d",
}
AFTER_DEMO = (
    "nemotron runs show rl-rlhf",
    "nemotron runs logs rl-rlhf",
    "nemotron artifacts lineage rl-rlhf",
    "nemotron artifacts alias rl-rlhf policies/warm:best -m 'the judge prefers nine answers in ten'",
    "nemotron steps run rl/nemo_rl/dpo -c tiny -d -i policy=run://sft-nemo_rl/model",
    "nemotron steps run rl/nemo_rl/dpo -c tiny -d -i policy=art://policies/warm:best",
    "nemotron steps run rl/nemo_rl/dpo -c tiny -d -i policy=run://sft-nemo_rl/model@latest",
    "nemotron runs diff run://sft-nemo_rl/model art://policies/warm:best",
)


@dataclass(frozen=True)
class Command:
    """One command of a page: its line, the text, and what it should print (None: anything)."""

    line: int
    text: str
    prints: tuple[str, ...] | None = None


def commands_of(page: str) -> Iterator[Command]:
    """The commands of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.finditer(r"^```(console|bash)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, block.start()) + 2
        if block[1] == "bash":
            yield Command(line, block[2].strip())
            continue
        found: list[tuple[int, str, list[str]]] = []
        for number, row in enumerate(block[2].splitlines(), line):
            if row.startswith("$ "):
                found.append((number, row[2:], []))
            else:
                assert found, f"{page}:{number}: output before any command"
                found[-1][2].append(row)
        yield from (Command(number, command, tuple(rows) or None) for number, command, rows in found)


def follow(page: str, where: Path, environ: Mapping[str, str], instead: Mapping[str, str]) -> None:
    """Run the commands of a page, in `where`; fails with the page's line."""
    for command in commands_of(page):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", instead.get(command.text, command.text)],
            cwd=where,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        place = f"{page}:{command.line}: {command.text}\n{done.stdout}"
        assert (done.returncode != 0) is shows_error(command.prints), place
        if command.prints is not None and command.text not in instead:
            assert shows(command.prints, done.stdout.splitlines()), place


def shows_error(rows: Sequence[str] | None) -> bool:
    """Whether a page says that a command fails, or that a check finds an error."""
    return any(row.lstrip().startswith("error: ") for row in rows or ())


def shows(rows: Sequence[str], lines: Sequence[str]) -> bool:
    """Whether `lines` are what a page shows, `...` standing for anything."""
    if not rows:
        return not lines
    if rows[0] == "...":
        return any(shows(rows[1:], lines[skipped:]) for skipped in range(len(lines) + 1))
    wanted = ".*".join(map(re.escape, rows[0].split("...")))
    return bool(lines) and bool(re.fullmatch(wanted, lines[0])) and shows(rows[1:], lines[1:])


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment with this interpreter's `nemotron` and an empty store."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "nemotron"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nemotron "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "NEMOTRON_HOME": str(tmp_path / "store"),
    }


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_do_what_it_says(page: str, tmp_path: Path, environ: dict[str, str]) -> None:
    work = tmp_path / "work"
    work.mkdir()
    follow(page, work, environ, {**INSTEAD, **dict.fromkeys(AFTER_DEMO, "true")})


def test_python_in_the_readme_runs(tmp_path: Path, environ: dict[str, str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "what runs, in this order" in done.stdout


@pytest.mark.slow
def test_readme_can_be_followed_from_top_to_bottom(tmp_path: Path) -> None:
    """In a copy of the checkout, with nothing installed; `make test` is what runs this very test."""
    checkout = tmp_path / "checkout"
    leave = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=leave)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("NEMOTRON_", "MAKE", "MFLAGS"))}
    environ["PYTHON"] = os.path.realpath(sys.executable)
    environ["PATH"] = f"{checkout / '.venv/bin'}{os.pathsep}{environ['PATH']}"
    follow("README.md", checkout, environ, {"make test": "make -n test"})
    assert len(list((checkout / ".nemotron" / "runs").iterdir())) >= 6


def test_stand_ins_stand_for_something_a_page_says() -> None:
    said = {command.text for page in PAGES for command in commands_of(page)}
    assert set(INSTEAD) | set(AFTER_DEMO) <= said


@pytest.mark.parametrize(
    ("rows", "lines", "fits"),
    [
        (("a", "..."), ("a", "b", "c"), True),
        (("a", "..."), ("a",), True),
        (("...", "c"), ("a", "b", "c"), True),
        (("...", "b"), ("a", "b", "c"), False),
        (("a...z",), ("a to z",), True),
        (("a...z",), ("a to y",), False),
        (("a",), ("a", "b"), False),
        (("a", "b"), ("a",), False),
        (("(1)",), ("1",), False),
    ],
)
def test_dots_stand_for_anything(rows: tuple[str, ...], lines: tuple[str, ...], fits: bool) -> None:
    assert shows(rows, lines) is fits


def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate_docs.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, f"run tools/generate_docs.py: {done.stdout}{done.stderr}"


def test_every_command_has_an_example_and_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    found = list(all_commands())
    assert len(found) >= 7
    for name, command in found:
        assert "\n\nExample: nemotron " in inspect.cleandoc(command.help or ""), name
        assert f"### {name}\n" in page
        section = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("-"):
                    assert re.search(rf"[`, ]{re.escape(option)}[`, ]", section), f"{name} {option}"
            assert parameter.help, f"{name} {parameter.name}"


def test_every_example_in_a_help_text_is_a_command_line_we_accept() -> None:
    """Its words are parsed, nothing is run."""
    for name, command in all_commands():
        example = inspect.cleandoc(command.help or "").rpartition("Example: ")[2].split()
        words = len(name.split())
        assert " ".join(example[:words]) == name
        command.make_context(name, list(example[words:]))


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command of the command line, by its full name."""
    root: Any = typer.main.get_command(build_app(""))
    for noun, group in root.commands.items():
        if not hasattr(group, "commands"):
            yield f"nemotron {noun}", group
            continue
        for verb, command in group.commands.items():
            yield f"nemotron {noun} {verb}", command


def test_exit_codes_are_those_of_the_errors() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.NemotronError)]
    assert told == {0, 130, 141, *(kind.exit_code for kind in kinds)}


def test_catalog_page_has_every_key_of_a_manifest() -> None:
    page = (ROOT / "docs" / "catalog.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "[" in line.split("|")[1]]
    for table, keys in MANIFEST_KEYS.items():
        row = next(line for line in rows if re.search(rf"\[{table}\]", line.split("|")[1]))
        assert set(re.findall(r"`([a-z_]+)`", row.split("|")[2])) == keys, table


def test_config_page_has_every_resolver_and_says_what_a_secret_is() -> None:
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert {name for name in NAMES if f"${{{name}:" not in page} == set()
    listed = re.search(r"has one of these words in it: (.*?) \(", page, re.DOTALL)
    assert listed is not None
    words = re.findall(r"[A-Z]+", listed[1])
    assert all(is_secret(f"MY_{word}") for word in words)
    assert len(words) == 8


@pytest.mark.parametrize("page", (*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"))
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("step", [step.id for step in load_catalog({}).steps])
def test_every_step_has_a_readme_with_its_ports_and_a_command(step: str) -> None:
    found = load_catalog({}).get(step)
    text = (found.directory / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {step}\n")
    for port in (*found.consumes, *found.produces):
        assert re.search(rf"^\| (?:out: )?`{port.name}` \|", text, re.MULTILINE), port.name
    assert f"    nemotron steps run {step} " in text


def test_design_names_what_is_there() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^    ([a-z_]+/[a-z_/]+\.py) +(.+)$", page, re.MULTILINE)
    assert len(rows) > 30
    for file, names in rows:
        source = (ROOT / "src" / "nemotron" / file).read_text(encoding="utf-8")
        for name in names.split(", "):
            assert re.search(rf"^(?:class |def )?{name}\b", source, re.MULTILINE), f"{file}: {name}"
