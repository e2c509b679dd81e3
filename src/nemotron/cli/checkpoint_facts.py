"""What `artifacts show` adds for a checkpoint: what its headers and metadata say, read in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemotron.checkpoints.inspect_checkpoint import CheckpointFacts

# An adapter's files are told by its check; it holds no model.
MODELS = ("checkpoint_hf", "reward_model_hf", "checkpoint_megatron")


def facts_of_places(type_name: str | None, places: Sequence[Mapping[str, Any]]) -> CheckpointFacts | None:
    """The facts of a model where it lies unchanged on this machine; None for anything else."""
    here = [place for place in places if place["state"] == "intact"]
    if type_name not in MODELS or not here:
        return None
    return facts_of(Path(here[0]["path"]))


def model_directory(text: str) -> Path | None:
    """The absolute path of the model that `text` names by its path; None where it names none."""
    from nemotron.artifacts.checks.guess import guess_type

    path = Path(text).expanduser()
    if "://" in text or not path.is_dir() or guess_type(path) not in MODELS:
        return None
    return path.absolute()


def facts_of(path: Path) -> CheckpointFacts:
    """The facts of the model in a directory. Errors: those of `inspect_checkpoint`."""
    from nemotron.checkpoints.inspect_checkpoint import inspect_checkpoint

    return inspect_checkpoint(path)
