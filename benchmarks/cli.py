"""CPU time of everyday commands as multiples of `python -c pass`, measured in turns in one run.

    python benchmarks/cli.py [ROUNDS]

Medians; exit code 1 when one is above its bar. Machines differ in speed, ratios hardly do.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile

from measure import NEMOTRON, cost_of

FLOOR = (sys.executable, "-c", "pass")
BARS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (8.0, ("--help",)),
    (8.0, ("steps", "list", "--json")),
    (8.0, ("steps", "show", "rl/nemo_rl/rlhf")),
    (30.0, ("steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny", "-d")),
)


def main() -> int:
    """Measure, print, compare."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    commands = [FLOOR, *((NEMOTRON, *words) for _, words in BARS)]
    times: list[list[float]] = [[] for _ in commands]
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "NEMOTRON_HOME": home, "XDG_CACHE_HOME": home}
        for command in commands:  # compiles modules and fills the catalog cache
            cost_of(command, environ)
        for _ in range(rounds):
            for command, taken in zip(commands, times, strict=True):
                taken.append(cost_of(command, environ).cpu)
    floor, *medians = map(statistics.median, times)
    print(f"python -c pass: {floor * 1000:.1f} ms of CPU time, median of {rounds}")
    failed = 0
    for (bar, words), median in zip(BARS, medians, strict=True):
        ratio = median / floor
        failed += ratio > bar
        verdict = "FAIL" if ratio > bar else "pass"
        cost = f"{ratio:5.1f}x of at most {bar:.0f}x  {median * 1000:6.1f} ms"
        print(f"{verdict}  {cost}  nemotron {' '.join(words)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
