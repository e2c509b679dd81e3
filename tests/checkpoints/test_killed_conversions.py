"""A conversion that is killed, or that meets a full disk, leaves nothing that passes for a checkpoint."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import Made, read_tensors

from nemotron.artifacts.checks import check_artifact
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.errors import WorkFailed

Make = Callable[..., Made]

# Converts once for each number on stdin, in a child that kills itself at that system call, and says how many
# calls there are in all first.
KILLED = """
import os, signal, sys
from pathlib import Path
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf

way, source, place = sys.argv[1:]
convert = {"megatron": hf_to_megatron, "hf": megatron_to_hf}[way]
calls, fatal = 0, -1

def counted(call):
    def run(*given, **named):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **named)
    return run

for name in ("pwrite", "fsync", "mkdir", "replace", "rename"):
    setattr(os, name, counted(getattr(os, name)))
for name in ("mkdir", "replace"):
    setattr(Path, name, counted(getattr(Path, name)))

def target(number):
    Path(place, str(number)).mkdir()
    return Path(place, str(number), "target")

if os.fork() == 0:
    calls = 0
    convert(Path(source), target("whole"))
    Path(place, "calls").write_text(str(calls))
    os._exit(0)
os.wait()
total = int(Path(place, "calls").read_text())
for number in sorted({1, 2, 3, *range(4, total, max(1, total // 20)), *range(total - 12, total + 1)}):
    where = target(number)
    if os.fork() == 0:
        calls, fatal = 0, number
        convert(Path(source), where)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["megatron", "hf"])
def test_killed_at_any_call_nothing_passes_for_a_checkpoint(
    make_model: Make, tmp_path: Path, way: str
) -> None:
    made = make_model("qwen3", tied=True)
    source = made.path
    if way == "hf":
        source = tmp_path / "source"
        hf_to_megatron(made.path, source)
    place = tmp_path / "killed"
    place.mkdir()
    subprocess.run([sys.executable, "-c", KILLED, way, source, place], check=True, timeout=120)
    kind = f"checkpoint_{way}"
    total = int((place / "calls").read_text())
    unfinished = 0
    for tried in sorted(path for path in place.iterdir() if path.is_dir()):
        for found in tried.iterdir():
            whole = check_artifact(found, kind).ok
            assert whole or found.name != "target", f"{tried.name} of {total}"
            unfinished += not whole
            if whole:
                assert holds(found, way, made), f"{tried.name} of {total}"
    assert unfinished > 15
    # The next try clears away what the last one left.
    again = place / "3"
    {"megatron": hf_to_megatron, "hf": megatron_to_hf}[way](source, again / "target")
    assert [path.name for path in again.iterdir()] == ["target"]


def holds(found: Path, way: str, made: Made) -> bool:
    """Whether all tensors of the model are in what was found."""
    if way == "hf":
        return read_tensors(found) == made.tensors
    back = found.parent / "back"
    megatron_to_hf(found, back)
    same = read_tensors(back) == made.tensors
    shutil.rmtree(back)
    return same


@pytest.mark.parametrize("call", [1, 5, 60, 90])
def test_a_disk_that_fills_up_is_said_and_nothing_is_left(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    made, calls, write = make_model(), 0, os.pwrite

    def pwrite(*given: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*given)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(WorkFailed, match="no space left on device"):
        hf_to_megatron(made.path, made.path.with_name("megatron"))
    assert [path.name for path in made.path.parent.iterdir()] == ["model"]


def test_a_disk_that_is_too_small_is_said_at_once(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    made = make_model()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 0, 64 << 20))
    with pytest.raises(WorkFailed, match="are needed, 67 MB are free"):
        hf_to_megatron(made.path, made.path.with_name("megatron"))
    assert [path.name for path in made.path.parent.iterdir()] == ["model"]


def test_a_conversion_that_runs_is_not_cleared_away(make_model: Make) -> None:
    made = make_model()
    target = made.path.with_name("megatron")
    inner: list[Path] = []

    def while_it_runs(done: int, total: int) -> None:
        if not inner:
            inner.append(hf_to_megatron(made.path, target.with_name("meg")).path)
            (running,) = made.path.parent.glob(".megatron.*.tmp")
            inner.append(running)
            megatron_to_hf(inner[0], target.with_name("back"))
            assert running.exists()

    hf_to_megatron(made.path, target, progress=while_it_runs)
    assert check_artifact(target, "checkpoint_megatron").ok
    assert read_tensors(target.with_name("back")) == made.tensors
