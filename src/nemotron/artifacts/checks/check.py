"""The checks by type name, and the choice among several types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nemotron.errors import NotFound, nearest

from ..paths import printable  # noqa: TID252 - the rooms that jobs carry import each other relatively
from .files import read_json_object
from .guess import guess_type
from .lines import check_rows
from .megatron import check_megatron
from .model import check_adapter, check_model, check_reward_model
from .parquet import check_packed
from .report import Checked, Problem, Report, clipped
from .rows import ROW_TYPES

_RESULTS_LIMIT = 32 << 20
_KEYS = 200
_SIBLINGS = 2000

Check = Callable[[Path, Report], Mapping[str, Any]]


def _check_results(path: Path, report: Report) -> Mapping[str, Any]:
    """Results of an evaluation: one JSON object."""
    found = read_json_object(path, limit=_RESULTS_LIMIT, finite=True)
    if isinstance(found, Problem):
        report.add(found)
        return {}
    return {"keys": [clipped(key) for key in sorted(found)[:_KEYS]]}


_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        **{name: partial(check_rows, shapes=shapes) for name, shapes in ROW_TYPES.items()},
        "checkpoint_hf": check_model,
        "reward_model_hf": check_reward_model,
        "checkpoint_lora": check_adapter,
        "checkpoint_megatron": check_megatron,
        "packed_parquet": check_packed,
        "eval_results": _check_results,
    }
)


def known_types() -> tuple[str, ...]:
    """The artifact types whose content can be checked."""
    return tuple(_CHECKS)


def check_artifact(path: Path, types: str | Sequence[str], *, limit: int = 20) -> Checked:
    """Check that `path` holds an artifact of the type, or of the first of several types that fits.

    When none of several fits, the findings are those of the type that comes closest. `limit` findings of
    each severity are listed, all are counted in the facts. A type that no check knows gives a note.
    Raises `NotFound` when nothing is at `path`; whatever is wrong with what is there is a finding.
    """
    names = (types,) if isinstance(types, str) else tuple(types)
    assert names
    _require(path)
    results = []
    for name in names:
        if name in _CHECKS:
            result = _check(path, name, limit)
            if result.ok:
                return result
            results.append(result)
    unknown = [name for name in names if name not in _CHECKS]
    guess = guess_type(path) if len(names) > 1 else None
    closest = next((result for result in results if result.type == guess), None)
    if closest is None and unknown:
        return _unchecked(path, unknown[0], limit)
    return closest or min(results, key=lambda result: result.facts["errors"])


def _check(path: Path, name: str, limit: int) -> Checked:
    report = Report(path, limit)
    return report.checked(name, _CHECKS[name](path, report))


def _unchecked(path: Path, name: str, limit: int) -> Checked:
    report = Report(path, limit)
    what = f"the content of the type {name} is not checked"
    report.add(Problem("artifact.not_checked", what, "note", valid=", ".join(_CHECKS)))
    return report.checked(name, {})


def _require(path: Path) -> None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as exc:
        dangling = path.is_symlink()
        what = "a symbolic link points at nothing" if dangling else "no such file or directory"
        raise NotFound(what, where=printable(path), nearest=_like(path)) from exc
    except OSError:
        return  # the check says why it cannot be read


def _like(path: Path) -> tuple[str, ...]:
    try:
        siblings = [
            entry.name for entry in islice(path.parent.iterdir(), _SIBLINGS) if entry.name != path.name
        ]
    except OSError:
        return ()
    return tuple(printable(path.parent / name) for name in nearest(path.name, siblings))
