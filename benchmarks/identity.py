"""What identity costs: CPU seconds to fingerprint 2 GiB in 8 files and 20,000 small ones, DVC beside it.

    [DVC=PATH/TO/dvc] python benchmarks/identity.py [ROUNDS]

Whole processes, all their threads counted, page cache warm; medians. "first" starts with an empty cache,
"again" with nothing changed since. Raw BLAKE3 reads and hashes the same bytes in one thread. DVC is what its
users type, `dvc add` once and then `dvc status`; without the variable DVC it is installed for this run. Exit
code 1 when one of our figures is above its bar. It makes 4 GiB of temporary files, TMPDIR says where.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from measure import cost_of

MIB, GIB = 1 << 20, 1 << 30
DISK_BYTES = 6 * GIB
# A file younger than this is not remembered by the digest cache; see `digest_cache`.
AGE_SECONDS = 3

RAW = """
import os, sys
from blake3 import blake3
buffer = memoryview(bytearray(1 << 20))
for directory, _, names in os.walk(sys.argv[1]):
    for name in names:
        file, hasher = os.open(os.path.join(directory, name), os.O_RDONLY), blake3()
        while count := os.readv(file, [buffer]):
            hasher.update(buffer[:count])
        os.close(file)
        hasher.digest()
"""
OURS = """
import sys
from pathlib import Path
from nemotron.artifacts.digest import digest_path
from nemotron.artifacts.digest_cache import DigestCache
with DigestCache(Path(sys.argv[2])) as cache:
    print(digest_path(Path(sys.argv[1]), cache=cache).value)
    assert cache.problem is None, cache.problem
"""


@dataclass(frozen=True)
class Shape:
    """Files to fingerprint. first_ratio: bar as a multiple of raw BLAKE3; the others in CPU seconds."""

    name: str
    files: int
    size: int
    again: float
    first: float | None = None
    first_ratio: float | None = None


SHAPES = (
    Shape("2 GiB, 8 files", 8, 256 * MIB, again=0.1, first_ratio=1.3),
    Shape("20,000 files of 4 KiB", 20_000, 4096, again=0.25, first=0.8),
)


@dataclass(frozen=True)
class Costs:
    """CPU seconds for one shape."""

    raw: float
    first: float
    again: float
    dvc_first: float | None
    dvc_again: float | None


def main() -> int:
    """Measure, print, compare."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="identity-") as made:
        place = Path(made)
        free = shutil.disk_usage(place).free
        if free < DISK_BYTES:
            sys.exit(f"{place.parent}: {free / GIB:.1f} GiB are free, 6 are needed; TMPDIR=DIR names another")
        dvc = _dvc(place)
        print(f"{'CPU seconds':<35}{'raw':>8}{'nemotron':>10}{'at most':>9}{'DVC':>8}")
        held = [_compared(shape, _costs(shape, place, dvc, rounds)) for shape in SHAPES]
    return 0 if all(held) else 1


def _costs(shape: Shape, place: Path, dvc: str | None, rounds: int) -> Costs:
    root = place / f"{shape.files}"
    data = _written(shape, root / "data")
    # Other modules are compiled once, as where nemotron is installed.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    raw, first, again = (sys.executable, "-c", RAW, str(data)), list[float](), list[float]()
    ours = (sys.executable, "-c", OURS, str(data))
    cost_of((*ours, str(place / "warm.sqlite")), environ)
    floor = []
    for number in range(rounds):
        cache = str(place / f"{shape.files}-{number}.sqlite")
        floor.append(cost_of(raw, environ).cpu)
        begun, ended = cost_of((*ours, cache), environ), cost_of((*ours, cache), environ)
        if begun.output != ended.output:
            sys.exit(f"{shape.name}: two digests of the same files, {begun.output} and {ended.output}")
        first.append(begun.cpu)
        again.append(ended.cpu)
    # Last, because it puts copies in the place of the files.
    added, status = _dvc_costs(dvc, root, environ, rounds) if dvc else (None, None)
    shutil.rmtree(root)
    median = statistics.median
    return Costs(median(floor), median(first), median(again), added, status)


def _written(shape: Shape, root: Path) -> Path:
    for number in range(shape.files):
        path = root / f"{number // 1000:03d}" / f"{number:05d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for done in range(0, shape.size, MIB):
                file.write(os.urandom(min(MIB, shape.size - done)))
    os.sync()
    time.sleep(AGE_SECONDS)
    return root


def _dvc_costs(dvc: str, root: Path, environ: Mapping[str, str], rounds: int) -> tuple[float, float]:
    own = {
        name: str(root / "dvc") for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "XDG_CACHE_HOME")
    }
    environ = {**environ, **own, "DVC_NO_ANALYTICS": "1", "PWD": str(root)}

    def cpu(*words: str) -> float:
        return cost_of((dvc, "--cd", str(root), *words), environ).cpu

    cpu("init", "--no-scm", "--quiet")
    cpu("config", "core.check_update", "false")
    added = cpu("add", "--quiet", "data")
    return added, statistics.median(cpu("status", "--quiet") for _ in range(rounds))


def _dvc(place: Path) -> str | None:
    """The `dvc` command that the environment names, else one that is installed into `place`."""
    if named := os.environ.get("DVC"):
        return named
    print("the variable DVC names no dvc, so one is installed for this run", file=sys.stderr)
    venv = place / "venv"
    for command in (
        (sys.executable, "-m", "venv", str(venv)),
        (str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "dvc"),
    ):
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"no DVC beside it, it cannot be installed: {said}", file=sys.stderr)
            return None
    return str(venv / "bin" / "dvc")


def _compared(shape: Shape, costs: Costs) -> bool:
    first = shape.first if shape.first_ratio is None else shape.first_ratio * costs.raw
    assert first is not None
    held = [
        _row(f"{shape.name}, first", costs.raw, costs.first, first, costs.dvc_first),
        _row(f"{shape.name}, again", costs.raw, costs.again, shape.again, costs.dvc_again),
    ]
    return all(held)


def _row(name: str, raw: float, ours: float, bar: float, dvc: float | None) -> bool:
    beside = f"{dvc:>8.2f}" if dvc is not None else f"{'-':>8}"
    ratios = f"{ours / raw:>5.2f}x raw" + (f", {ours / dvc:.3f}x DVC" if dvc is not None else "")
    verdict = "pass" if ours <= bar else "FAIL"
    print(f"{verdict}  {name:<29}{raw:>8.3f}{ours:>10.3f}{bar:>9.3f}{beside}  {ratios}", flush=True)
    return ours <= bar


if __name__ == "__main__":
    sys.exit(main())
