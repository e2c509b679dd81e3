"""References as `nemotron artifacts` takes them: one of several checkpoints is looked up first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron.artifacts.references import Reference, parse_reference
from nemotron.artifacts.store import find_store
from nemotron.errors import NotFound, UsageError

if TYPE_CHECKING:
    from nemotron.artifacts.collection import Artifacts


def selected(ref: str) -> str | None:
    """The path of the checkpoint that `DIR@SELECTION` or `run://RUN/PORT@SELECTION` means now; None without.

    Errors: those of `selected_path`.
    """
    reference = _with_selection(ref)
    if reference is None:
        return None
    from nemotron.planning.selecting import selected_path

    return str(selected_path(reference, find_store(os.environ, Path.cwd())))


def meant(ref: str, artifacts: Artifacts) -> str:
    """The reference, a selection in it looked up. Raises NotFound for a checkpoint that no record names."""
    path = selected(ref)
    if path is None:
        return ref
    if not artifacts.index.idents_at(path):
        # What it lies in may be on record as a whole; that is not what was asked for.
        raise NotFound(f"{path} is not on record by itself", next=f"nemotron artifacts add {path}")
    return path


def _with_selection(ref: str) -> Reference | None:
    if "@" not in ref:
        return None
    try:
        reference = parse_reference(ref, cwd=Path.cwd())
    except UsageError:
        return None  # a digest, or a name with one: told by whoever looks it up
    return reference if reference.selection is not None else None
