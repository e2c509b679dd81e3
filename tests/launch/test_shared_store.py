"""One store or one directory of records for several people: read by all, written by those who may."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
NOBODY = "65534"
# Another user may not find the way to this interpreter, so this one may read everything, and write nothing.
COLLEAGUE = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


@pytest.fixture
def colleague(world: Any) -> Iterator[Cli]:
    """Runs a command as somebody who may read the store and not write it, for root as another user."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        prefix = COLLEAGUE
        if not shutil.which("setpriv") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
            pytest.skip("no other user to be had here")
    locked: list[Path] = []

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        if not prefix and not locked:
            locked.extend([world.home, *world.home.rglob("*")])
            for path in reversed(locked):
                path.chmod(0o555 if path.is_dir() else 0o444)
        return subprocess.run(
            [*prefix, *world.command(*words)],
            cwd=world.work,
            env=world.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    yield call
    for path in locked:
        path.chmod(0o755)


@pytest.fixture
def other_store(world: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Changes to a store of its own that shares the directory of records."""

    def change() -> None:
        records = world.home / "records"
        other = world.root / "other"
        other.mkdir()
        (other / "records").symlink_to(records)
        monkeypatch.setenv("NEMOTRON_HOME", str(other))

    return change


def launched(cli: Cli, *words: str) -> dict[str, Any]:
    done = cli("steps", "run", *words, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = done.json
    return found


def state_of(home: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in home.rglob("*")}


def test_who_may_only_read_lists_shows_plans_and_reuses(world: Any, cli: Cli, colleague: Cli) -> None:
    run = launched(cli, "make/rows")["run"]
    before = state_of(world.home)
    for words, wanted in (
        (("runs", "list"), run),
        (("runs", "list", "--json"), '"state": "succeeded"'),
        (("runs", "show", run), "succeeded"),
        (("runs", "logs", run), "written"),
        (("steps", "run", "make/rows", "-d"), f"as run {run}: nothing changed"),
        (("steps", "run", "make/rows", "lr=0.6", "-d"), f"lr: 0.5 -> 0.6, unlike run {run}"),
        (("steps", "run", "make/rows", "--json"), '"outcome": "reused"'),
    ):
        done = colleague(*words)
        assert done.returncode == 0, done.stderr
        assert wanted in done.stdout
    assert state_of(world.home) == before


def test_who_may_only_read_and_starts_something_new_is_told_what_lacks(
    world: Any, cli: Cli, colleague: Cli
) -> None:
    launched(cli, "make/rows")
    done = colleague("steps", "run", "make/rows", "lr=0.6")
    assert done.returncode == 1, done.stderr
    assert "error: permission denied" in done.stderr
    assert str(world.home) in done.stderr
    assert "NEMOTRON_HOME=DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(world.runs()) == 1


def test_who_may_only_read_cannot_go_on_with_the_run_of_another(world: Any, cli: Cli, colleague: Cli) -> None:
    assert cli("steps", "run", "make/rows", "behave=fail_once").code == 1
    done = colleague("steps", "run", "make/rows", "behave=fail_once")
    assert done.returncode == 1, done.stderr
    assert "error: permission denied" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
def test_what_the_group_may_do_is_what_the_umask_says(world: Any, umask: int) -> None:
    done = subprocess.run(
        world.command("steps", "run", "use/count", "-c", "built"),
        cwd=world.work,
        env=world.environ,
        capture_output=True,
        umask=umask,
    )
    assert done.returncode == 0, done.stderr
    wrong = {
        str(path.relative_to(world.home)): oct(mode)
        for path in world.home.rglob("*")
        for mode in [stat.S_IMODE(path.stat().st_mode)]
        if mode not in ((0o777, 0o666)[path.is_file()] & ~umask, 0o777 & ~umask)
    }
    assert wrong == {}


def test_a_run_of_another_store_that_shares_the_records_is_reused(
    world: Any, cli: Cli, other_store: Callable[[], None]
) -> None:
    first = launched(cli, "use/count", "-c", "built")
    other_store()
    plan = cli("steps", "run", "use/count", "-c", "built", "-d", "--json").json
    assert (plan["done_by"], plan["done_at"]) == (first["run"], first["directory"])
    assert plan["inputs"][0]["path"].startswith(str(world.home)), "its input too was found there"
    again = launched(cli, "use/count", "-c", "built")
    assert (again["outcome"], again["directory"]) == ("reused", first["directory"])
    assert again["outputs"] == first["outputs"]
    assert len(world.runs()) == 2
    changed = launched(cli, "use/count", "-c", "built", "text=other")
    assert changed["outcome"] == "ran"
    assert Path(changed["directory"]).parent == world.root / "other/runs"
    assert len(list((world.root / "other/runs").iterdir())) == 1, "its input was not made again"


def test_a_run_of_another_store_is_listed_and_found(
    world: Any, cli: Cli, other_store: Callable[[], None]
) -> None:
    first = launched(cli, "make/rows")
    other_store()
    (listed,) = cli("runs", "list", "--json").json["runs"]
    assert (listed["run"], listed["state"], listed["step"]) == (first["run"], "succeeded", "make/rows")
    assert (listed["directory"], listed["config"]) == (first["directory"], "default")
    assert cli("runs", "show", first["run"][:-2], "--json").json["outputs"] == first["outputs"]
    assert cli("runs", "logs", first["run"]).out.endswith("written\n")


@pytest.mark.parametrize("damage", ["outputs", "directory"])
def test_a_run_elsewhere_that_is_not_whole_any_more_is_not_reused(
    world: Any, cli: Cli, other_store: Callable[[], None], damage: str
) -> None:
    first = launched(cli, "make/rows")
    other_store()
    place = Path(first["directory"])
    (place / "rows.jsonl").unlink() if damage == "outputs" else shutil.rmtree(place)
    assert launched(cli, "make/rows")["outcome"] == "ran"
    done = cli("runs", "show", first["run"])
    if damage == "directory":
        assert done.code == 3
        assert first["directory"] in done.err
    assert {r["state"] for r in cli("runs", "list", "--json").json["runs"]} == {"succeeded"}


def test_a_run_whose_directory_stands_on_another_disk_is_reused(world: Any, cli: Cli) -> None:
    big = world.root / "big"
    big.mkdir()
    world.home.mkdir()
    (world.home / "runs").symlink_to(big)
    first = launched(cli, "make/rows")
    (world.home / "runs").unlink()
    again = launched(cli, "make/rows")
    assert (again["outcome"], again["directory"]) == ("reused", str(big / first["run"]))
    assert not (world.home / "runs").exists()


def test_a_finished_run_here_is_taken_without_a_look_elsewhere(
    world: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(cli, "make/rows")
    from nemotron.planning import earlier

    def refuse(*_: object) -> None:
        raise AssertionError("looked elsewhere")

    monkeypatch.setattr(earlier, "finished_elsewhere", refuse)
    assert launched(cli, "make/rows")["outcome"] == "reused"
