"""Whether the tiny RLHF step works for other seeds than the one it was tuned with.

    python benchmarks/seeds.py [SEED...] [--store DIR]

Each seed trains the policy anew (`grpo.seed`), its inputs are built once. For every seed: how often the judge
it was trained on prefers the new answer, how often the score that was not trained on does, and the share of
right answers before and after, all on held-out prompts. Exit code 1 when a win rate is below its bar.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile

from measure import NEMOTRON, cost_of

SEEDS = (11, 12, 13, 14, 15)
WIN_RATE = 0.75
SHOWN = ("judge_win_rate", "monitor_win_rate", "right_before", "right_after")


def main() -> int:
    """Train, print, compare."""
    parser = argparse.ArgumentParser(description="Train the tiny RLHF step with several seeds.")
    parser.add_argument("seeds", nargs="*", type=int, default=SEEDS, help="default: 11 to 15")
    parser.add_argument("--store", help="a store to use; default: a new one, removed afterwards")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "NEMOTRON_HOME": asked.store or home}
        rows = [(seed, _compared(seed, environ)) for seed in asked.seeds]
    print(f"{'seed':>6}  " + "  ".join(f"{name:>16}" for name in SHOWN))
    for seed, found in rows:
        print(f"{seed:>6}  " + "  ".join(f"{found[name]:>16.3f}" for name in SHOWN))
    failed = [seed for seed, found in rows if min(found[name] for name in SHOWN[:2]) < WIN_RATE]
    said = (
        f"seeds {', '.join(map(str, failed))} are below {WIN_RATE}" if failed else f"all at least {WIN_RATE}"
    )
    print(f"{'FAIL' if failed else 'pass'}  win rates: {said}")
    return 1 if failed else 0


def _compared(seed: int, environ: dict[str, str]) -> dict[str, float]:
    words = ("steps", "run", "rl/nemo_rl/rlhf", "-c", "tiny", f"grpo.seed={seed}", "--json")
    comparison: dict[str, float] = json.loads(cost_of((NEMOTRON, *words), environ, show=True).output)[
        "summary"
    ]["comparison"]
    return comparison


if __name__ == "__main__":
    sys.exit(main())
