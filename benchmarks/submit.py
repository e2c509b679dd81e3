"""CPU time of handing a finished plan to Slurm, over that of a bare sbatch of the same script.

    python benchmarks/submit.py [ROUNDS]

Where no Slurm is in reach, one of the tests is started for it: as root, in a network namespace of its own.
Medians of turns in one run; exit code 1 when the difference is above its bar. Both are counted with every
process that they start.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from nemotron.artifacts.submissions import Submission
from nemotron.launch.slurm.backend import BACKEND, submit_command
from nemotron.planning.plan import Placement, Plan, Recipe

BAR = 0.050
CLUSTER = Path(__file__).parent.parent / "tests" / "slurm" / "slurm_cluster.py"


def main() -> int:
    """Measure, print, compare."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    if not shutil.which("sbatch") or subprocess.run(["sinfo"], capture_output=True).returncode != 0:
        return subprocess.run([sys.executable, CLUSTER, sys.executable, __file__, str(rounds)]).returncode
    with tempfile.TemporaryDirectory() as home:
        run = Path(home) / "rl-rlhf-20260101-000000-0000"
        run.mkdir()
        (run / "launch.sh").write_text("true\n")
        plan, part = _plan(), Submission("slurm", "", run.name)
        BACKEND.submit(run, plan, part, ())  # writes the script, and compiles modules
        command = submit_command(run.resolve(), plan, part, ())

        def bare() -> None:
            subprocess.run(command, cwd=run, check=True, capture_output=True)

        def ours() -> None:
            BACKEND.submit(run, plan, part, ())

        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for call, taken in zip((bare, ours), times, strict=True):
                taken.append(_cpu_of(call))
    subprocess.run(["scancel", f"--jobname={part.name}"], check=False, capture_output=True)
    floor, submit = map(statistics.median, times)
    more = submit - floor
    print(f"bare sbatch: {floor * 1000:.1f} ms of CPU time, median of {rounds}")
    verdict = "FAIL" if more > BAR else "pass"
    print(f"{verdict}  {more * 1000:.1f} ms more of at most {BAR * 1000:.0f} ms  submit of a finished plan")
    return 1 if more > BAR else 0


def _plan() -> Plan:
    recipe = Recipe("rl/nemo_rl/rlhf", "nemo_rl", "v0.6.0", {}, {}, {}, {})
    # Held: what it would run is of no interest.
    options = {"sbatch": {"hold": True}}
    placement = Placement("slurm", "ours", "ray", 2, 0, ("true",), {}, options=options, save_before=900)
    return Plan(recipe, placement, (), (), "tiny", "tiny.yaml")


def _cpu_of(call: Callable[[], None]) -> float:
    begun = _cpu()
    call()
    return _cpu() - begun


def _cpu() -> float:
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in spent)


if __name__ == "__main__":
    sys.exit(main())
