"""`python -m nemotron.engines.embedded RUN_DIR`: train what the run's `config.yaml` says."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemotron.engines.embedded.training import Run
    from nemotron.errors import NemotronError

EXIT_STOPPED = 143
# With less than this free, whatever failed while writing failed for want of space.
FULL_BYTES = 1 << 20


def main(arguments: list[str]) -> int:
    """Run one training; returns the exit code. The cause of a failure goes to `failure.json`."""
    from nemotron.engines.embedded.lifeline import die_with_parent
    from nemotron.errors import NemotronError, UsageError

    directory = Path(arguments[0]).resolve()
    die_with_parent()
    try:
        if arguments[1:]:
            words = " ".join(arguments[1:])
            raise UsageError(f"the embedded trainer takes no arguments: {words}", where="after --")
        return _train(directory)
    except NemotronError as problem:
        _leave_word(directory, problem, problem.render())
        return problem.exit_code
    except Exception as problem:  # noqa: BLE001 - the last stop: traceback to the log, cause to the run
        foreseen = _foreseen(problem, directory)
        _leave_word(directory, foreseen, traceback.format_exc())
        return foreseen.exit_code


def _leave_word(directory: Path, problem: NemotronError, text: str) -> None:
    """Text to the log and the cause to `failure.json`, on a full disk too: scratch space is freed first."""
    from nemotron.artifacts.atomic import write_json
    from nemotron.errors import NemotronError

    shutil.rmtree(directory / "work", ignore_errors=True)
    try:
        write_json(directory / "failure.json", problem.as_dict())
        print(text, file=sys.stderr, flush=True)
    except (OSError, NemotronError):
        # Nothing can be written any more; the exit code is all that is left to say.
        sys.stderr = None


def _foreseen(problem: Exception, directory: Path) -> NemotronError:
    """The error for a failure of a library: the disk's word where it was the disk, else the library's.

    torch says `unexpected pos` when a checkpoint does not fit, so the disk is looked at too.
    """
    from nemotron.errors import WorkFailed

    full = os.strerror(errno.ENOSPC)
    chain = (problem, problem.__cause__, problem.__context__)
    said = any(full in str(link) or getattr(link, "errno", None) == errno.ENOSPC for link in chain)
    if said or shutil.disk_usage(directory).free < FULL_BYTES:
        return WorkFailed("no space left on device", next="free some space; the same command resumes")
    text = str(problem).strip().splitlines()[0] if str(problem).strip() else ""
    return WorkFailed(f"{type(problem).__name__}: {text}" if text else type(problem).__name__)


def _train(directory: Path) -> int:
    from nemotron.engines.embedded.bridge_config import is_bridge, translated

    config = _load_config(directory / "config.yaml")
    bridge = is_bridge(config)
    config = translated(config) if bridge else config
    _quiet(config)
    from nemotron.engines.embedded.reading import algorithm_of, reward_model_kind
    from nemotron.engines.embedded.training import Run, Stopped

    algorithm = algorithm_of(config)
    run = Run.in_directory(directory, config)
    run.metrics.phase("importing")
    comparison = None
    try:
        if bridge:
            from nemotron.engines.embedded.bridge_training import run_packed

            run_packed(run)
        elif algorithm == "grpo":
            from nemotron.engines.embedded.grpo import run_grpo
            from nemotron.engines.embedded.summary import compare_policies

            judge = run_grpo(run)
            comparison = compare_policies(run, judge)
        else:
            _supervised(algorithm, reward_model_kind(config))(run)
    except Stopped:
        print("stopped; the state is saved and the same command resumes", flush=True)
        return EXIT_STOPPED
    from nemotron.engines.embedded.summary import write_summary

    write_summary(run, str(algorithm), comparison)
    return 0


def _supervised(algorithm: str | None, kind: str) -> Callable[[Run], None]:
    if algorithm == "sft" or (algorithm == "rm" and kind == "generative"):
        from nemotron.engines.embedded.supervised import run_judge, run_sft

        return run_sft if algorithm == "sft" else run_judge
    from nemotron.engines.embedded.preference import run_bradley_terry, run_dpo

    return run_bradley_terry if algorithm == "rm" else run_dpo


def _load_config(path: Path) -> dict[str, Any]:
    import yaml

    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def _quiet(config: dict[str, Any]) -> None:
    """One line of our own for each step is enough; libraries keep their warnings."""
    from nemotron.engines.embedded.reading import lookup

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # transformers 5.23 tells trl, not the user, to call an argument by its new name.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or lookup(config, "embedded.threads", 1)))
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
