"""What converting rollouts costs, beside a bare loop of orjson and the loop that NeMo-Gym's document shows.

    python benchmarks/rollouts.py [MEGABYTES] [ROUNDS]

A file of real rollouts (those of the tests, each with ids and words of its own) is read by

    bare      loads and dumps of every line with orjson, as many processes as there are processors
    default   ours, default options: about a third of the rows reach the threshold
    all       ours, every row kept: no threshold, images kept
    document  one process that holds the file: load all, filter, transform, dump with json; the smaller of
              300 MB and the file, because its memory grows with it

Whole processes, page cache warm, medians. MB/s of input by the clock, CPU seconds of all processes, and the
most memory of the whole tree of processes at one time (PSS: shared pages are counted once). Exit code 1 when
ours are below half the speed of the bare loop, or take 250 MB or more. 5000 MB need 8 GB of disk: TMPDIR.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000
REAL = Path(__file__).parent.parent / "tests" / "data" / "rollouts"
WORKERS = len(os.sched_getaffinity(0))
BAR_SPEED, BAR_MEMORY = 0.5, 250 * MB
DOCUMENT_BYTES = 300 * MB

BARE = """
import os, sys
from multiprocessing import Pool
import orjson
path, place, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
def part(number):
    size = os.path.getsize(path)
    begin, end = size * number // workers, size * (number + 1) // workers
    with open(path, "rb") as file, open(f"{place}.{number}", "wb") as out:
        if begin:
            file.seek(begin - 1)
            file.readline()
        while file.tell() < end:
            out.write(orjson.dumps(orjson.loads(file.readline())) + b"\\n")
if __name__ == "__main__":
    with Pool(workers) as pool:
        pool.map(part, range(workers))
"""
OURS = """
import sys
from pathlib import Path
from nemotron.data.rollouts.convert import convert_rollouts
from nemotron.data.rollouts.options import ExportOptions
path, place, workers, kept = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
options = ExportOptions() if kept == "default" else ExportOptions(reward_threshold=None, media="keep")
if __name__ == "__main__":
    report = convert_rollouts(path, {"chat": Path(place)}, options, workers=workers)
    print(report.outputs["chat"].kept)
"""
# The order of work of the document's script, with the output where real rows have it.
DOCUMENT = """
import json, sys
def texts(items):
    for item in items:
        content = item.get("content", "")
        yield content if isinstance(content, str) else content[0].get("text", "") if content else ""
def transform(row):
    asked = row["responses_create_params"]["input"]
    messages = [{"role": item.get("role", "user"), "content": item.get("content", "")} for item in asked]
    calls = []
    for item in row["response"]["output"]:
        if item.get("type") == "function_call":
            calls.append({"name": item.get("name"), "arguments": json.loads(item.get("arguments", "{}"))})
            continue
        if calls:
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
            calls = []
        if item.get("type") == "function_call_output":
            messages.append({"role": "tool", "content": item.get("output", "")})
        elif item.get("type") == "message":
            messages.append({"role": "assistant", "content": next(texts([item]))})
    return {"messages": messages, "tools": row["responses_create_params"].get("tools", [])}
rows = [json.loads(line) for line in open(sys.argv[1])]
made = []
for row in [row for row in rows if row.get("reward", 0.0) >= 0.95]:
    try:
        made.append(transform(row))
    except (AttributeError, KeyError, TypeError):
        continue
with open(sys.argv[2], "w") as out:
    for row in made:
        out.write(json.dumps(row) + "\\n")
print(len(made))
"""


@dataclass(frozen=True)
class Cost:
    """speed in bytes of input a second; cpu in seconds; memory of the whole tree in bytes."""

    speed: float
    cpu: float
    memory: int
    output: str


def main() -> int:
    """Measure, print, compare."""
    size = int(sys.argv[1]) * MB if len(sys.argv) > 1 else 300 * MB
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory(prefix="rollouts-") as made:
        place = Path(made)
        path, small = place / "rollouts.jsonl", place / "small.jsonl"
        rows = write_rollouts(path, size)
        if size > DOCUMENT_BYTES:
            write_rollouts(small, DOCUMENT_BYTES)
        else:
            small = path
        out, workers = str(place / "out.jsonl"), str(WORKERS)
        commands = {
            "bare": (BARE, str(path), out, workers),
            "default": (OURS, str(path), out, workers, "default"),
            "all": (OURS, str(path), out, workers, "all"),
            "document": (DOCUMENT, str(small), out),
        }
        print(f"{path.stat().st_size / MB:,.0f} MB, {rows:,} rows, {WORKERS} processes, {rounds} rounds")
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, (program, *words) in commands.items():
                costs[name].append(cost_of((sys.executable, "-c", program, *words), Path(words[0])))
                for left in place.glob("out.jsonl*"):
                    left.unlink()
    return report(costs)


def report(costs: dict[str, list[Cost]]) -> int:
    """Print medians beside the bars; 1 when one is not held."""
    median = statistics.median
    failed = 0
    print(f"{'':<16}{'MB/s':>8}{'of bare':>9}{'CPU s':>8}{'memory MB':>11}{'rows':>10}")
    for name, runs in costs.items():
        # Of each round by itself: what else the machine does changes from one to the next.
        ratio = median(cost.speed / bare.speed for cost, bare in zip(runs, costs["bare"], strict=True))
        memory = max(cost.memory for cost in runs)
        ours = name in ("default", "all")
        held = not ours or (ratio >= BAR_SPEED and memory < BAR_MEMORY)
        failed |= not held
        verdict = ("pass" if held else "FAIL") if ours else ""
        speed, cpu = median(cost.speed for cost in runs), median(cost.cpu for cost in runs)
        figures = f"{speed / MB:>8.0f}{ratio:>9.2f}{cpu:>8.1f}{memory / MB:>11.0f}"
        print(f"{verdict:<6}{name:<10}{figures}{runs[-1].output.strip():>10}", flush=True)
    return failed


def write_rollouts(path: Path, size: int) -> int:
    """Real rows in any order until there are `size` bytes, each told apart; returns how many."""
    import orjson

    known = []
    for file in sorted(REAL.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            known += [json.loads(line) for line in lines]
    rng, rows, written = random.Random(0), 0, 0
    with path.open("wb") as out:
        while written < size:
            row = rng.choice(known)
            response = row.get("response")
            if response:
                items = (
                    response["output"][-1] if isinstance(response["output"][0], list) else response["output"]
                )
                changed = [*items, {"type": "message", "role": "assistant", "content": f"Done, {rows}."}]
                row = {**row, "response": {**response, "id": f"resp_{rows}", "output": changed}}
            written += out.write(orjson.dumps(row) + b"\n")
            rows += 1
    return rows


def cost_of(command: Sequence[str], path: Path) -> Cost:
    """Run a command that reads `path` to its end, watching the memory of all its processes."""
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    memory, pid = 0, 0
    while pid == 0:
        time.sleep(0.05)
        memory = max(memory, tree_memory(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    wall = time.monotonic() - begun
    assert process.stdout is not None
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"failed: {' '.join(command[3:])}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(path.stat().st_size / wall, cpu, memory, process.stdout.read())


def tree_memory(pid: int) -> int:
    """The bytes that a process and those it started take, shared pages counted once."""
    total, pending = 0, [pid]
    while pending:
        here = Path("/proc") / str(pending.pop())
        try:
            found = [
                line for line in (here / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:")
            ]
            total += int(found[0].split()[1]) * 1024 if found else 0
            for task in (here / "task").iterdir():
                pending += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue  # ended meanwhile
    return total


if __name__ == "__main__":
    sys.exit(main())
