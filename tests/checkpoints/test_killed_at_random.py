"""Conversions killed at moments nobody chose, on disks that fill up, and in places that cannot be written."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_models import Made, Tensors, read_tensors

from nemotron.artifacts.checks import check_artifact
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.checkpoints.inspect_checkpoint import inspect_checkpoint
from nemotron.errors import NemotronError, WorkFailed

Make = Callable[..., Made]
KILLS = int(os.environ.get("NEMOTRON_TEST_KILLS", "10"))
# Says when it begins, and converts.
CONVERT = """
import sys
from pathlib import Path
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf

way, source, target = sys.argv[1:]
print("begin", flush=True)
{"megatron": hf_to_megatron, "hf": megatron_to_hf}[way](Path(source), Path(target), shard_bytes=1 << 20)
"""
# Converts on a disk of 4 MB, the rest of which somebody else takes when the conversion is half-way.
ON_A_SMALL_DISK = """
import sys
from pathlib import Path
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints import whole
from nemotron.errors import NemotronError

source, disk = map(Path, sys.argv[1:])
whole._SPARE = 0

def fill(done, total):
    if done * 2 > total and not (disk / "other").exists():
        with (disk / "other").open("wb", 0) as file:
            try:
                while True:
                    file.write(bytes(1 << 14))
            except OSError:
                pass

try:
    hf_to_megatron(source, disk / "megatron", progress=fill)
except NemotronError as problem:
    print(problem.render())
print(sorted(path.name for path in disk.iterdir()))
"""


@pytest.fixture
def large(make_model: Make) -> Made:
    """A model that takes some moments to convert: 24 MB."""

    def grow(tensors: Tensors) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            dtype, (_, hidden), _ = tensors[name]
            rows = 200_000
            tensors[name] = (dtype, (rows, hidden), random.Random(name).randbytes(rows * hidden * 2))

    return make_model("llama", config={"vocab_size": 200_000}, change=grow)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["megatron", "hf"])
def test_killed_at_random_moments_nothing_passes_for_a_checkpoint(
    large: Made, tmp_path: Path, way: str
) -> None:
    source = large.path
    if way == "hf":
        source = tmp_path / "source"
        hf_to_megatron(large.path, source)
    place = tmp_path / "killed"
    place.mkdir()
    target = place / "target"
    whole = _seconds(way, source, tmp_path / "first")
    drawn = random.Random(way)
    for number in range(KILLS):
        child = _start(way, source, target)
        time.sleep(drawn.uniform(0, whole * 1.1))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        for found in place.iterdir():
            passes = check_artifact(found, f"checkpoint_{way}").ok and _inspected(found)
            assert passes or found != target, f"kill {number}: the target is there and is not whole"
            assert not passes or _holds(found, way, large), f"kill {number}: {found.name} lacks something"
        shutil.rmtree(target, ignore_errors=True)
    convert = {"megatron": hf_to_megatron, "hf": megatron_to_hf}[way]
    convert(source, target)
    assert [path.name for path in place.iterdir()] == ["target"]
    assert _holds(target, way, large)


def _start(way: str, source: Path, target: Path) -> subprocess.Popen[str]:
    """A conversion that has begun."""
    child = subprocess.Popen(
        [sys.executable, "-c", CONVERT, way, source, target], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begin\n"
    return child


def _seconds(way: str, source: Path, target: Path) -> float:
    child = _start(way, source, target)
    begun = time.monotonic()
    assert child.wait(timeout=120) == 0
    shutil.rmtree(target)
    return time.monotonic() - begun


def _inspected(found: Path) -> bool:
    try:
        return inspect_checkpoint(found).ok
    except NemotronError:
        return False


def _holds(found: Path, way: str, made: Made) -> bool:
    if way == "hf":
        return read_tensors(found) == made.tensors
    back = made.path.with_name("back")
    megatron_to_hf(found, back)
    same = read_tensors(back) == made.tensors
    shutil.rmtree(back)
    return same


@pytest.mark.slow
def test_a_real_disk_that_fills_up_is_said_and_nothing_is_left(make_model: Make, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = make_model("llama")
    script = 'mount -t tmpfs -o size=4m none "$1" && exec "$2" -c "$3" "$4" "$1"'
    words = ["unshare", "-Urm", "sh", "-c", script, "sh", disk, sys.executable, ON_A_SMALL_DISK, made.path]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "no space left on device" in done.stdout
    assert done.stdout.splitlines()[-1] == "['other']"


def test_a_place_that_cannot_be_written_is_said(make_model: Make, tmp_path: Path) -> None:
    made = make_model()
    # What no user may write to, root included.
    with pytest.raises(NemotronError) as refused:
        hf_to_megatron(made.path, Path("/proc/self/fd/converted"))
    assert refused.value.where is not None and "/proc" in refused.value.where
    assert not isinstance(refused.value, WorkFailed) or refused.value.what


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_directory_without_write_permission_is_said(make_model: Make, tmp_path: Path) -> None:
    made, closed = make_model(), tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(NemotronError, match="permission denied"):
        hf_to_megatron(made.path, closed / "megatron")
    assert not list(closed.iterdir())


def test_a_model_in_a_directory_that_is_only_read_is_converted(make_model: Make, tmp_path: Path) -> None:
    made = make_model()
    for path in (*made.path.iterdir(), made.path):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        hf_to_megatron(made.path, tmp_path / "megatron")
        megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    finally:
        made.path.chmod(0o755)
    assert read_tensors(tmp_path / "back") == made.tensors
