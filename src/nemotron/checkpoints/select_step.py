"""Which of several checkpoints a selection means: `latest`, `step:N`, `best`, `best:METRIC`."""

from __future__ import annotations

from pathlib import Path

from nemotron.artifacts.checks.saved_steps import best_step, inside_step
from nemotron.artifacts.paths import printable
from nemotron.artifacts.references import SELECTION, SELECTIONS
from nemotron.checkpoints.hf_files import require_directory
from nemotron.checkpoints.places import iteration_name, iterations, steps, tracked_iteration
from nemotron.errors import NotFound, UsageError, nearest


def resolve_step(root: Path, selection: str) -> int:
    """The number N of the `step_N`, or of the `iter_N`, that `selection` means in a checkpoint directory.

    `best` takes the metric that the run ranked by; with a METRIC of another name, `min:` or `max:` before it
    says which is better. Of equals the highest step is taken. Raises UsageError for a selection that is none
    or that cannot be decided, NotFound when there is no such checkpoint.
    """
    require_directory(root)
    kind, _, rest = selection.partition(":")
    if not SELECTION.fullmatch(selection):
        raise UsageError(
            f"{selection!r} selects no checkpoint", nearest=nearest(kind, SELECTIONS), valid=SELECTIONS
        )
    numbered = steps(root)
    numbers = numbered or iterations(root)
    if not numbers:
        raise NotFound("no finished checkpoint", where=printable(root), valid=("step_N", "iter_N"))
    if kind == "step":
        return _named(int(rest), numbers, root)
    if kind == "latest":
        tracked = None if numbered else tracked_iteration(root)
        return tracked if tracked in numbers and tracked is not None else numbers[-1]
    if not numbered:
        what = "directories of iterations keep no metrics: the best of them is not known"
        raise UsageError(what, where=printable(root), valid=("latest", *(f"step:{n}" for n in numbers[-3:])))
    return best_step(root, rest, numbers)


def _named(number: int, numbers: list[int], root: Path) -> int:
    if number in numbers:
        return number
    close = sorted(numbers, key=lambda each: abs(each - number))[:3]
    what = f"no checkpoint of step {number}"
    raise NotFound(what, where=printable(root), nearest=[f"step:{n}" for n in close])


def selected_checkpoint(root: Path, selection: str, inside: str | None = None) -> Path:
    """The directory of the model that `selection` means in `root`; errors as `resolve_step`.

    inside: where in a `step_N` the model lies; None tries the places that trainers use.
    """
    number = resolve_step(root, selection)
    if not steps(root):
        return root / iteration_name(number)
    return inside_step(root / f"step_{number}", inside)
