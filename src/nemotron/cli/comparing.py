"""What `runs diff` says of two runs, or of two checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron.artifacts.references import Reference, parse_reference
from nemotron.artifacts.store import Store
from nemotron.cli import output
from nemotron.cli.checkpoint_facts import MODELS
from nemotron.errors import NotFound, UsageError

if TYPE_CHECKING:
    from nemotron.artifacts.runs import Run
    from nemotron.checkpoints.compare_tensors import Comparison

CHECKPOINTS = (*MODELS, "checkpoint_lora")
_SHOWN = 20


def is_checkpoint(text: str) -> bool:
    """Whether a word names a checkpoint rather than a run: by a reference or a path with a slash in it."""
    return "/" in text or Path(text).is_dir()


def diff_checkpoints(store: Store, first: str, second: str, *, as_json: bool) -> None:
    """Compare two checkpoints tensor by tensor, each read once; of two formats in Hugging Face's names.

    Raises NotFound where one is not there, UsageError where one is no checkpoint.
    """
    from nemotron.checkpoints.compare_tensors import compare

    old, new = (_checkpoint(store, text) for text in (first, second))
    found = compare(old, new)
    if as_json:
        output.print_json({"checkpoints": [str(old), str(new)], "equal": found.equal, **asdict(found)})
        return
    print(f"{output.plain(str(old))} -> {output.plain(str(new))}")
    print("\n".join(_lines(found)))


def diff_runs(old: Run, new: Run, *, as_json: bool) -> None:
    """Compare what was asked for, and what was left by its content."""
    from nemotron.launch.compare import compare, compared_lines

    differences = compare(old, new)
    if as_json:
        rows = [
            {"kind": d.kind, "key": d.key, "change": d.change, "old": d.old, "new": d.new}
            for d in differences
        ]
        runs = [{"run": run.id, "state": run.state()} for run in (old, new)]
        output.print_json({"runs": runs, "differences": rows})
        return
    print(f"{old.id} ({old.state()}) -> {new.id} ({new.state()})")
    for title, lines in compared_lines(differences):
        print("\n".join([title, *(f"  {output.plain(line)}" for line in lines)]))
    if not any(d.kind != "outputs" for d in differences):
        print("no difference in what was asked for")
    for each in differences:
        if each.kind == "outputs" and each.change == "changed" and each.new.get("type") in CHECKPOINTS:
            print(f"tensor by tensor: nemotron runs diff run://{old.id}/{each.key} run://{new.id}/{each.key}")


def _lines(found: Comparison) -> list[str]:
    if found.equal:
        return [f"the same {found.same} tensors"]
    kinds = (
        ("only in the first", found.only_first),
        ("only in the second", found.only_second),
        ("another shape", found.shape),
        ("another dtype", found.dtype),
        ("other numbers", found.numbers),
    )
    lines = [f"{found.same} tensors are the same"]
    for title, names in kinds:
        if names:
            lines += [f"{title}: {len(names)}", *(f"  {output.plain(name)}" for name in names[:_SHOWN])]
            lines += [f"  and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return lines


def _checkpoint(store: Store, text: str) -> Path:
    from nemotron.planning.selecting import selected_path

    reference = parse_reference(text, cwd=Path.cwd())
    if reference.selection is not None:
        return selected_path(reference, store)
    if reference.kind == "path":
        return reference.path
    if reference.kind == "run":
        return _output(store, reference)
    if reference.kind == "art":
        return _named(text)
    raise UsageError(
        f"{text} is no checkpoint that is here", valid=("a path", "run://RUN/PORT", "art://NAME")
    )


def _output(store: Store, reference: Reference) -> Path:
    from nemotron.artifacts.run_list import find_run

    run = find_run(store, reference.name)
    outputs = {port: each for port, each in run.outputs.items() if each["type"] in CHECKPOINTS}
    if reference.port is None and len(outputs) == 1:
        return Path(str(next(iter(outputs.values()))["path"]))
    if reference.port not in outputs:
        what = f"run {run.id} left {'several checkpoints' if outputs else 'no checkpoint'}"
        if reference.port is not None:
            what = f"run {run.id} left no checkpoint {reference.port}"
        raise NotFound(what, valid=[f"run://{run.id}/{port}" for port in outputs])
    return Path(str(outputs[reference.port]["path"]))


def _named(text: str) -> Path:
    from nemotron.artifacts.collection import Artifacts
    from nemotron.artifacts.verify import place_state

    places = [place for each in Artifacts(warn=output.warn).show(text) for place in each.locations]
    for place in places:
        if place_state(place) == "intact":
            return Path(place.path)
    raise NotFound(f"{text} does not lie on this machine", valid=[place.path for place in places])
