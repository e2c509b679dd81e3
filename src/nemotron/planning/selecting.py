"""Which checkpoint a reference with a selection means: looked up once, and pinned by what it holds."""

from __future__ import annotations

from pathlib import Path

from nemotron.artifacts.paths import printable
from nemotron.artifacts.references import Reference
from nemotron.artifacts.run_list import find_run
from nemotron.artifacts.store import Store
from nemotron.checkpoints.select_step import selected_checkpoint
from nemotron.errors import NotFound, UsageError


def selected_path(reference: Reference, store: Store) -> Path:
    """The directory of the checkpoint; of a run that is going on, what it has saved until now.

    Raises NotFound where there is no such checkpoint here, UsageError where nothing says which one is meant.
    """
    assert reference.selection is not None
    if reference.kind == "path":
        if not reference.path.is_dir():
            named = Path(str(reference)).exists()
            raise NotFound(
                "no directory of checkpoints to choose from here",
                where=printable(reference.path),
                next=f"for what is called so: {printable(str(reference))}/"
                if named
                else "name the checkpoint's own directory where it cannot be seen from here",
            )
        return selected_checkpoint(reference.path, reference.selection)
    run = find_run(store, reference.name)
    planned = [o for o in run.plan.get("outputs") or () if isinstance(o, dict) and o.get("select")]
    ports = {str(output["port"]): output for output in planned}
    port = reference.port or (next(iter(ports)) if len(ports) == 1 else None)
    if port is None or port not in ports:
        what = (
            f"run {run.id} has {'several outputs' if ports else 'no output'} with checkpoints to choose from"
        )
        if reference.port is not None:
            what = f"output {reference.port} of run {run.id} has no checkpoints to choose from"
        where = [f"run://{run.id}/{name}@{reference.selection}" for name in ports]
        raise (UsageError if ports and port is None else NotFound)(what, valid=where)
    output = ports[port]
    return selected_checkpoint(run.directory / str(output["path"]), reference.selection, output.get("inside"))
