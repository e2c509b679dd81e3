"""A store that cannot be written says so, and loses nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
# Room for a bundle and a half, and not for a megabyte.
DISK = 1600 << 10
SCRIPT = "from pathlib import Path\nPath('rows.jsonl').write_bytes(b'x' * {bytes})\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of `DISK` bytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("place", ["", "runs", "claims"])
def test_a_file_in_the_place_of_the_store_is_an_error_that_says_so(world: Any, cli: Cli, place: str) -> None:
    world.home.parent.mkdir(exist_ok=True)
    target = world.home / place
    target.parent.mkdir(exist_ok=True)
    target.write_text("in the way")
    done = cli("steps", "run", "make/rows", "--json")
    assert done.code == 2, done.err
    error = done.json["error"]
    assert "file stands where" in error["what"]
    assert str(target) in error["where"]
    assert error["next"]
    assert target.read_text() == "in the way"


def test_a_file_in_the_place_of_the_records_is_told_by_the_launch(world: Any, cli: Cli) -> None:
    world.home.mkdir()
    (world.home / "records").write_text("in the way")
    done = cli("steps", "run", "make/rows")
    assert done.code == 2, done.err
    assert "file stands where" in done.err
    assert not (world.runs()[0] / "rows.jsonl").exists(), "no work without a record of it"


def test_a_dry_run_needs_no_store(world: Any, cli: Cli) -> None:
    world.home.write_text("in the way")
    assert cli("steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny", "-d").code == 2
    world.home.unlink()
    assert cli("steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny", "-d").code == 0
    assert not world.home.exists(), "and makes none"


def test_a_disk_that_fills_up_while_the_program_writes_is_told(
    world: Any, cli: Cli, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEMOTRON_HOME", str(small_disk / "store"))
    world.add_step("make/much", script=SCRIPT.format(bytes=1 << 20))
    done = cli("steps", "run", "make/much", "--json")
    assert done.code == 1, done.err
    assert "no space left" in done.json["error"]["what"]
    assert "Traceback" not in done.err
    (run,) = (small_disk / "store/runs").iterdir()
    assert not (run / "outputs.json").exists()
    (run / "rows.jsonl").unlink()
    # Room again, and the same recipe: the same run goes on.
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = cli("steps", "run", "make/much", "--json")
    assert again.code == 4, "a megabyte of x is no chat data, but it was written"
    assert (run / "rows.jsonl").stat().st_size == 1 << 20


def test_a_disk_that_is_full_before_the_bundle_is_whole_is_told(
    world: Any, cli: Cli, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEMOTRON_HOME", str(small_disk / "store"))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(DISK - (40 << 10)))
    done = cli("steps", "run", "make/rows", "--json")
    assert done.code == 1, done.err
    error = done.json["error"]
    assert error["what"] == "no space left on device"
    assert str(small_disk) in error["where"]
    assert "NEMOTRON_HOME" in error["next"]
    filler.unlink()
    again = cli("steps", "run", "make/rows", "--json")
    assert again.code == 0, again.err
    assert again.json["outcome"] == "ran", "half a bundle is no run"
