"""The records of a busy group: lineage in a million artifacts, an index made anew, 10,000 runs listed cold.

    python benchmarks/lineage.py [ARTIFACTS [RECORDS [RUNS]]]

CPU seconds of whole processes, medians; exit code 1 when one is above its bar. The large index is written
directly, a million record files would fill the disk; the smaller one is read from files.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from measure import NEMOTRON, cost_of

from nemotron.artifacts.index.database import open_index, transaction
from nemotron.artifacts.index.schema import Writer
from nemotron.artifacts.records import ArtifactRecord, AttemptRecord, Record, write_record
from nemotron.artifacts.store import Store

LINEAGE_BAR, REBUILD_BAR, LIST_BAR = 0.15, 5.0, 1.0
INPUTS = 3
PROCESSES = 50


def digest_of(number: int) -> str:
    """A digest as good as any."""
    return "blake3:" + hashlib.sha256(str(number).encode()).hexdigest()


def records(count: int, seed: int = 1) -> Iterator[Record]:
    """The end of each of `count` runs and the artifact it left; each took three of the thousand before it."""
    chance = random.Random(seed)
    for number in range(count):
        at = f"2026-{1 + number * 11 // count:02d}-{1 + number % 28:02d}T10:00:00.000Z"
        earlier = range(max(0, number - 1000), number)
        taken = {
            f"input{n}": {"type": "training_jsonl", "digest": digest_of(before), "path": f"/data/{before}"}
            for n, before in enumerate(chance.sample(earlier, min(INPUTS, number)))
        }
        run = f"run-{number:07d}"
        yield AttemptRecord(
            run_id=run, attempt=1, phase="ended", at=at, step="sft/nemo_rl", engine="embedded", inputs=taken,
            recipe_digest=digest_of(-number), exit_code=0, metrics={"train/loss": 1.0}, user="u", host="h",
        )  # fmt: skip
        yield ArtifactRecord(
            id=f"{run}.policy", type="checkpoint_hf", path=f"/data/{number}", at=at, digest=digest_of(number),
            bytes=1 << 30, facts={"parameters": 1_000_000}, made_by={"run_id": run, "port": "policy"},
        )  # fmt: skip


def lineage(count: int, home: Path) -> list[float]:
    """CPU seconds of `artifacts lineage` for digests all over an index of `count` artifacts."""
    environ = {**os.environ, "NEMOTRON_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    database = open_index(home, environ)
    begun = time.process_time()
    source = records(count)
    while batch := list(itertools.islice(source, 20_000)):
        with transaction(database):
            Writer(database).put(batch)
    edges = database.execute("SELECT count(*) FROM input").fetchone()[0] + count
    database.close()
    print(f"      {count} artifacts and {edges} edges loaded in {time.process_time() - begun:.0f} CPU s")
    chance = random.Random(2)
    taken = []
    for _ in range(11):
        shown = digest_of(chance.randrange(count))
        command = (NEMOTRON, "artifacts", "lineage", shown)
        taken.append(cost_of(command, environ).cpu)
    return taken[1:]


REBUILD = """
import os, sys
from pathlib import Path
from nemotron.artifacts.index.store_index import rebuild_index
from nemotron.artifacts.store import Store
rebuild_index(Store(Path(sys.argv[1])), os.environ)
"""


def rebuild(count: int, home: Path) -> float:
    """CPU seconds of a process that makes an index from `count` record files, the median of three."""
    store = Store(home / "records-of-files")
    for record in records(count // 2):
        write_record(store.records_dir, record)
    environ = {**os.environ, "XDG_CACHE_HOME": str(home / "cache")}
    command = (sys.executable, "-c", REBUILD, str(store.root))
    return statistics.median(cost_of(command, environ).cpu for _ in range(3))


RECORD = """
import sys
from pathlib import Path
from nemotron.artifacts.records import AttemptRecord, write_record
number, count, root = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
for n in range(count):
    minute, second = divmod(n % 3600, 60)
    run = f"s-t-20260101-{number % 24:02d}{minute:02d}{second:02d}-{number * 256 + n % 256:04x}"
    at = f"2026-01-01T{number % 24:02d}:{minute:02d}:{second:02d}.000Z"
    common = {"run_id": run, "attempt": 1, "at": at, "step": "s/t", "engine": "script"}
    write_record(root, AttemptRecord(phase="started", **common))
    write_record(root, AttemptRecord(phase="ended", exit_code=0, **common))
"""


def listing(count: int, home: Path) -> tuple[float, int]:
    """CPU seconds of a first `runs list` of what 50 processes recorded at once, and how many it lists."""
    store = Store(home / "shared")
    each = str(count // PROCESSES)
    words = [sys.executable, "-c", RECORD]
    writers = [subprocess.Popen([*words, str(n), each, str(store.records_dir)]) for n in range(PROCESSES)]
    codes = [writer.wait() for writer in writers]
    if any(codes):
        sys.exit("a recording process failed")
    environ = {**os.environ, "NEMOTRON_HOME": str(store.root), "XDG_CACHE_HOME": str(home / "cold")}
    cost = cost_of((NEMOTRON, "runs", "list", "--limit", str(count), "--json"), environ)
    return cost.cpu, cost.output.count('"run":')


def main() -> int:
    """Measure, print, compare."""
    numbers = [int(word) for word in sys.argv[1:4]]
    artifacts, files, runs = numbers + [1_000_000, 100_000, 10_000][len(numbers) :]
    failed = 0

    def tell(cost: float, bar: float, what: str) -> None:
        nonlocal failed
        failed += cost > bar
        verdict = "FAIL" if cost > bar else "pass"
        print(f"{verdict}  {cost:6.3f} CPU s of at most {bar:.2f}  {what}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        taken = lineage(artifacts, Path(place))
        what = f"artifacts lineage REF among {artifacts} artifacts (slowest {max(taken):.3f})"
        tell(statistics.median(taken), LINEAGE_BAR, what)
        tell(rebuild(files, Path(place)), REBUILD_BAR, f"an index from {files} records")
        cost, listed = listing(runs, Path(place))
        tell(cost, LIST_BAR, f"runs list of {runs} runs recorded by {PROCESSES} processes, cold")
        if listed != runs:
            failed += 1
            print(f"FAIL  {listed} of {runs} runs are listed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
