"""A run directory starts by itself: no package of ours, no site-packages, any name of the store."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nemotron
from nemotron.artifacts.store import Store
from nemotron.errors import UsageError
from nemotron.launch.bundle import RUNTIME_MODULES, write_bundle
from nemotron.planning.build import plan_step
from nemotron.planning.request import Request
from nemotron.planning.words import shell_words

Bundle = Callable[..., Path]
SHELL = dict(os.environ, PATH="/usr/bin:/bin")


@pytest.fixture
def bundle(world: Any) -> Bundle:
    """Writes the bundle of make/rows into a run directory of a store of any name."""

    def write(store: Path, *overrides: str, arguments: tuple[str, ...] = ()) -> Path:
        plan = plan_step(Request("make/rows", overrides=overrides, arguments=arguments))
        directory = store / "runs" / "rows-20261121-101010-abcd"
        directory.mkdir(parents=True)
        write_bundle(directory, plan, Store(store))
        return directory

    return write


def records(store: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted((store / "records").rglob("*.json"))]


def test_the_runtime_needs_nothing_but_the_standard_library(bundle: Bundle, tmp_path: Path) -> None:
    run = bundle(tmp_path / "store")
    probe = (
        "import sys; sys.path.insert(0, 'runtime'); import nemotron.job.runtime as r; "
        "print(r.__file__); print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", probe], cwd=run, env={}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    file, modules = done.stdout.splitlines()
    assert Path(file) == Path("runtime/nemotron/job/runtime.py") or str(run) in file
    outside = [
        m
        for m in modules.split()
        if m.split(".")[0] not in sys.stdlib_module_names | {"nemotron", "__main__"}
    ]
    assert outside == []
    assert not {
        m for m in modules.split() if m.startswith(("nemotron.planning", "nemotron.config", "nemotron.cli"))
    }


def test_every_file_of_the_runtime_can_be_imported_alone(bundle: Bundle, tmp_path: Path) -> None:
    run = bundle(tmp_path / "store")
    names = [n.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for n in RUNTIME_MODULES]
    probe = "import importlib, sys; sys.path.insert(0, 'runtime')\n" + "".join(
        f"importlib.import_module('nemotron.{name}')\n" for name in names
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", probe], cwd=run, env={}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_the_runtime_imports_at_any_time_is_shipped(bundle: Bundle, tmp_path: Path) -> None:
    """Also what is imported in the middle of a job only: nobody would see before that it is missing."""
    shipped = modules_of(bundle(tmp_path / "store") / "runtime" / "nemotron")
    assert {f"nemotron.job.{name}" for name in ("runtime", "nodes.helper", "stub.run")} <= set(shipped)
    imported = {name for file in shipped.values() for name in imported_names(file)}
    assert {"nemotron.job.nodes.helper", "nemotron.job.following.nemo_rl"} <= imported
    ours = modules_of(Path(nemotron.__file__).parent)
    assert (imported & set(ours)) - set(shipped) == set()


def modules_of(package: Path) -> dict[str, Path]:
    """The files of a package by the dotted names of their modules."""
    names = {file: file.relative_to(package.parent).with_suffix("").parts for file in package.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): file for file, parts in names.items()}


def imported_names(file: Path) -> set[str]:
    """What may be a module in the imports of a file: of `from A import b`, `A` and `A.b`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{each.name}" for each in node.names)}
    return found


def test_the_job_runs_from_the_bundle_alone(bundle: Bundle, tmp_path: Path) -> None:
    run = bundle(tmp_path / "store")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "runtime/start.py"],
        cwd=run,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (run / "rows.jsonl").read_text().count("\n") == 3
    assert [(r["phase"], r.get("exit_code")) for r in records(tmp_path / "store")] == [
        ("ended", 0),
        ("started", None),
    ]


NAMES = [
    "plain",
    "with spaces",
    'it\'s "quoted"',
    "$(touch HACKED)`touch HACKED`",
    "a;touch HACKED;b",
    "new\nline",
    "-rf",
    "päth-模型-🙂",
    "back\\slash*?[x]",
    "in://rows",
    "{run_dir}",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_store_may_have_any_name(bundle: Bundle, tmp_path: Path, name: str) -> None:
    store = tmp_path / name.replace("/", "_")
    run = bundle(store)
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    done = subprocess.run(
        ["bash", str(run / "launch.sh")], cwd=cwd, env=SHELL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (run / "rows.jsonl").exists()
    assert not list(tmp_path.rglob("HACKED*"))
    assert json.loads((run / "record.json").read_text())["outputs"]["rows"]["path"] == str(run / "rows.jsonl")


def test_launch_sh_starts_from_its_own_directory_too(bundle: Bundle, tmp_path: Path) -> None:
    run = bundle(tmp_path / "-store")
    done = subprocess.run(["bash", "launch.sh"], cwd=run, env=SHELL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    relative = f"./-store/runs/{run.name}/launch.sh"
    again = subprocess.run(["bash", relative], cwd=tmp_path, env=SHELL, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len((run / "starts").read_text().split()) == 2


def test_launch_sh_holds_nothing_a_user_typed(bundle: Bundle, tmp_path: Path) -> None:
    first = bundle(tmp_path / "a", "text=typed by hand", arguments=("--note", "also typed"))
    second = bundle(tmp_path / "b b")
    assert (first / "launch.sh").read_text() == (second / "launch.sh").read_text()
    assert "typed" not in (first / "launch.sh").read_text()


def test_two_jobs_never_run_in_one_directory(
    bundle: Bundle, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    run = bundle(tmp_path / "store", "behave=sleep", "seconds=1")
    first = subprocess.Popen(["bash", "launch.sh"], cwd=run, env=SHELL)
    try:
        wait_for(lambda: (run / "starts").exists())
        second = subprocess.run(["bash", "launch.sh"], cwd=run, env=SHELL, capture_output=True, text=True)
        assert second.returncode == 5
        assert "running already" in second.stderr
        assert first.wait(10) == 0
        assert len((run / "starts").read_text().split()) == 1
    finally:
        first.kill()
        first.wait()


def test_asking_for_a_runs_state_does_not_keep_its_job_from_starting(bundle: Bundle, tmp_path: Path) -> None:
    """Asking locks the run for an instant; a job that starts in it waits a little."""
    run = bundle(tmp_path / "store")
    handle = os.open(run / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        job = subprocess.Popen(["bash", "launch.sh"], cwd=run, env=SHELL)
        time.sleep(0.3)
        assert not (run / "starts").exists()
    finally:
        os.close(handle)
    assert job.wait(20) == 0


def test_a_job_begins_no_other_attempt_than_the_one_that_was_meant(bundle: Bundle, tmp_path: Path) -> None:
    """Of two launches that mean to begin the first attempt, the later one must not begin a second."""
    run = bundle(tmp_path / "store")
    first = SHELL | {"NEMOTRON_ATTEMPT": "1"}
    done = [
        subprocess.run(["bash", "launch.sh"], cwd=run, env=first, capture_output=True, text=True)
        for _ in "ab"
    ]
    assert [d.returncode for d in done] == [0, 5]
    assert "somebody else" in done[1].stderr
    assert len((run / "starts").read_text().split()) == 1
    second = SHELL | {"NEMOTRON_ATTEMPT": "2"}
    assert subprocess.run(["bash", "launch.sh"], cwd=run, env=second).returncode == 0
    assert json.loads((run / "record.json").read_text())["attempt"] == 2


def test_a_job_without_a_starter_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    """`bash launch.sh` is all that a scheduler has; nobody holds a lifeline there."""
    run = bundle(tmp_path / "store", "behave=sleep", "seconds=0.5")
    starter = "bash launch.sh & echo $!"
    done = subprocess.run(
        ["bash", "-c", starter], cwd=run, env=SHELL, stdout=subprocess.PIPE, text=True, timeout=20
    )
    assert done.returncode == 0
    assert json.loads((run / "record.json").read_text())["exit_code"] == 0


def test_a_program_that_cannot_be_started_is_a_failure_with_a_word(bundle: Bundle, tmp_path: Path) -> None:
    run = bundle(tmp_path / "store")
    plan = json.loads((run / "plan.json").read_text())
    plan["placement"]["argv"][0] = "/nowhere/python"
    (run / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run(["bash", "launch.sh"], cwd=run, env=SHELL, capture_output=True, text=True)
    assert done.returncode == 127
    assert "/nowhere/python cannot be started" in json.loads((run / "failure.json").read_text())["what"]
    assert json.loads((run / "record.json").read_text())["exit_code"] == 127


@pytest.mark.parametrize("damage", ["{", "[]", "{}"])
def test_a_damaged_plan_is_no_traceback(bundle: Bundle, tmp_path: Path, damage: str) -> None:
    run = bundle(tmp_path / "store")
    (run / "plan.json").write_text(damage)
    done = subprocess.run(["bash", "launch.sh"], cwd=run, env=SHELL, capture_output=True, text=True)
    assert done.returncode == 4
    assert "plan.json" in done.stderr
    assert "Traceback" not in done.stderr


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12), max_size=4
    )
)
@example(["$(touch HACKED)", "`id`", "a'b\"c", "", "--", "-n", "\n", "~", "*", "!!", "\\"])
def test_each_word_stays_one_literal_word_in_the_shell(words: list[str]) -> None:
    script = f"for word in {shell_words(words)}; do printf '%s\\0' \"$word\"; done"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def test_a_nul_cannot_be_quoted() -> None:
    with pytest.raises(UsageError):
        shell_words(["a\0b"])
