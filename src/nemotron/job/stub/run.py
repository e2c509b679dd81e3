"""The trainer of a run with `--stub`: writes the smallest valid artifact for every output of the plan.

    python -I RUN/runtime/stub.py          (it calls `main` with the run directory)

Nothing is read but the run's own plan, and no framework is needed: any chain of steps can be tried with it.
What it leaves says that it is a stub, see `stub.mark`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import TEMPORARY_SUFFIX, os_error
from nemotron.artifacts.paths import printable
from nemotron.errors import CheckFailed, Conflict, NemotronError
from nemotron.job.stub.mark import MARK, NOTE, NOTE_FILE
from nemotron.job.stub.types import Content, Wanted, stub_content

_STEP = 1
_MODELS = ("checkpoint_hf", "checkpoint_megatron", "reward_model_hf")
# Far beyond any stub: whoever looks for the mark in a file reads no more of it.
_LONGEST = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Write the stubs of the run directory that is the first argument; returns the exit code."""
    directory = Path(arguments[0]).resolve()
    try:
        plan = _load(directory / "plan.json")
        base = _base_model(_load(directory / "place.json"))
        for output in plan["outputs"]:
            path = _write_output(directory, output, base)
            print(f"stub of {output['type']} in {printable(path)}")
        _write_metrics(directory)
    except NemotronError as problem:
        print(problem.render(), file=sys.stderr)
        return problem.exit_code
    return 0


def _write_output(directory: Path, output: Mapping[str, Any], base: str) -> Path:
    """Write one output; where a trainer would leave several checkpoints, as that of its first step."""
    root = path = directory / str(output["path"])
    if output["select"] is not None:
        step = root / f"step_{_STEP}"
        path = step / (output["inside"] or "")
        inside = Path(output["inside"] or "").as_posix()
        content = stub_content(Wanted(output["type"], path, base))
        assert not isinstance(content, bytes), f"{output['type']} is no directory"
        files = {f"{step.name}/{inside}/{name}": data for name, data in content.items()}
        files[f"{step.name}/training_info.json"] = json.dumps({"step": _STEP, MARK: True}).encode()
        _put(root, {**files, NOTE_FILE: NOTE.encode()})
    else:
        _put(root, stub_content(Wanted(output["type"], path, base)))
    return path


def _put(path: Path, content: Content) -> None:
    """Put a stub at `path`, whole or not at all. Raises Conflict where something else is there already."""
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        if not _is_replaceable(path):
            raise Conflict(
                "something is there already that is no stub, and a stub does not replace it",
                where=printable(path),
                next="move it away, or name another place in the config",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            for name, data in content.items():
                file = temporary / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        _remove(path)
        temporary.rename(path)
    except OSError as problem:
        raise os_error(problem, problem.filename or path) from problem
    finally:
        with contextlib.suppress(OSError):  # what is left of it is told above
            _remove(temporary)


def _is_replaceable(path: Path) -> bool:
    """Whether nothing is at `path`, or an empty directory, or the stub of an earlier attempt."""
    if path.is_dir():
        return (path / NOTE_FILE).is_file() or not any(path.iterdir())
    if not os.path.lexists(path):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(_LONGEST)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _base_model(place: Mapping[str, Any]) -> str:
    """What an adapter of this run would adapt: the path of its first model."""
    for given in place["inputs"].values():
        if given["type"] in _MODELS and given["path"]:
            return str(given["path"])
    return MARK


def _write_metrics(directory: Path) -> None:
    """One step, so that the record of the run says what it was."""
    path = directory / "metrics.jsonl"
    try:
        path.write_text(json.dumps({"step": _STEP, MARK: True}) + "\n", encoding="utf-8")
    except OSError as problem:
        raise os_error(problem, path) from problem


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CheckFailed(f"{path.name} cannot be read: {problem}", where=printable(path)) from problem
    return loaded
