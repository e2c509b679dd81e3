"""What the tiny RLHF chain costs: from an empty store, and the RLHF step alone with its inputs built.

    python benchmarks/chain.py

CPU seconds of all processes together, wall seconds, and the resident memory of the largest process. Exit code
1 when one is above its bar. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import os
import sys
import tempfile

from measure import NEMOTRON, Cost, cost_of

CHAIN = (NEMOTRON, "steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny")
CHAIN_CPU_SECONDS, STEP_CPU_SECONDS = 150.0, 40.0
PEAK_BYTES = 2_000_000_000


def main() -> int:
    """Measure, print, compare."""
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "NEMOTRON_HOME": home}
        whole = cost_of(CHAIN, environ, show=True)
        step = cost_of((*CHAIN, "--no-cache"), environ, show=True)
    held = [
        _report("whole chain, empty store", whole, CHAIN_CPU_SECONDS),
        _report("RLHF step, inputs built", step, STEP_CPU_SECONDS),
    ]
    return 0 if all(held) else 1


def _report(name: str, cost: Cost, bar: float) -> bool:
    held = cost.cpu <= bar and cost.peak <= PEAK_BYTES
    print(
        f"{'pass' if held else 'FAIL'}  {name}: {cost.cpu:.1f} CPU s (at most {bar:.0f}), {cost.wall:.1f} s, "
        f"peak {cost.peak / 1e9:.2f} GB (at most {PEAK_BYTES / 1e9:.0f})"
    )
    return held


if __name__ == "__main__":
    sys.exit(main())
