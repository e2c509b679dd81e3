"""A data set by the name that a config gives it, and its rows in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nemotron.data.hub import CHUNK, Hub, objects_done
from nemotron.data.rowwise import RowWork, Split, convert_files, write_rows
from nemotron.data.stream.parallel import written_here
from nemotron.errors import UsageError, nearest

from .datasets import (
    TYPE,
    ChatDataset,
    GeneralConversationsJsonlDataset,
    OasstDataset,
    OpenAIFormatDataset,
    OpenMathInstruct2Dataset,
    ResponseDataset,
    SquadDataset,
    Tulu3SftMixtureDataset,
    asked,
)

_CLASSES: Mapping[str, type[Any]] = MappingProxyType(
    {
        "squad": SquadDataset,
        "open_assistant": OasstDataset,
        "OpenMathInstruct-2": OpenMathInstruct2Dataset,
        "openmathinstruct2": OpenMathInstruct2Dataset,
        "tulu3_sft_mixture": Tulu3SftMixtureDataset,
        "ResponseDataset": ResponseDataset,
        "openai_format": OpenAIFormatDataset,
        "general-conversation-jsonl": GeneralConversationsJsonlDataset,
    }
)
# As older configs call them.
_FORMER: Mapping[str, str] = MappingProxyType({"train_data_path": "data_path", "train_split": "split"})


def dataset_names() -> tuple[str, ...]:
    """The names of the data sets; a class of the user's is named by its dotted path."""
    return tuple(_CLASSES)


def load_chats(name: str, keys: Mapping[str, Any], *, hub: Hub | None = None) -> Any:
    """The data set `name`, made with the keys of a config: a `ChatDataset`, or an object of the user's class.

    keys: null is as good as absent. Raises `UsageError` for a name or a key that does not exist, and for a
    class without `formatted_ds` and `task_spec`.
    """
    given = {_FORMER.get(key, key): value for key, value in keys.items() if value is not None}
    if name not in _CLASSES:
        return _of_user(name, given)
    known = _parameters(_CLASSES[name])
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        near, valid = nearest(unknown[0], known), sorted(known.keys() - {"hub"})
        what = f"the data set {name} has no key {unknown[0]}"
        raise UsageError(what, where=unknown[0], nearest=near, valid=valid)
    if "hub" in known:
        given["hub"] = hub
    missing = sorted(key for key, required in known.items() if required and key not in given)
    if missing:
        raise UsageError(f"the data set {name} needs a {missing[0]}", where=missing[0])
    return _CLASSES[name](**given)


def _parameters(of: type[Any]) -> dict[str, bool]:
    """The parameters of a class, and whether each has to be given."""
    import inspect

    parameters = inspect.signature(of).parameters
    return {name: parameter.default is parameter.empty for name, parameter in parameters.items()}


def _of_user(name: str, keys: Mapping[str, Any]) -> Any:
    import importlib

    module, _, attribute = name.rpartition(".")
    if not module:
        near = nearest(name, _CLASSES)
        raise UsageError(f"no data set {name}", where="dataset_name", nearest=near, valid=dataset_names())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        fix = "name a class by its dotted path, with its module on PYTHONPATH"
        raise UsageError(f"no class {name}: {exc}", where="dataset_name", next=fix) from exc
    made = found(**keys)
    for wanted in ("formatted_ds", "task_spec"):
        if not hasattr(made, wanted):
            what = f"{name} has no {wanted}"
            fix = "a data set has formatted_ds (train and validation) and task_spec"
            raise UsageError(what, where="dataset_name", next=fix)
    return made


def write_chats(
    dataset: Any,
    places: Mapping[str, Path],
    *,
    dedupe: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the rows of a data set to files, and return the report: see `rowwise.convert_files`.

    places: of `rows`, and of `validation` where the data set has one. Rows that are no conversation that
    can be trained on are left out and counted.
    """
    if not isinstance(dataset, ChatDataset):
        return _write_of_user(dataset, places, dedupe)
    held_out = dataset.validation
    split = Split(0.0 if held_out else dataset.share, dataset.seed, dedupe)
    work = RowWork(dataset.work.convert, TYPE, asked, keyed=split.share > 0, dedupe=dedupe)
    if dataset.is_local:
        validation = (held_out.path,) if held_out else ()
        path = dataset.train.path
        return convert_files(path, work, places, split=split, validation=validation, workers=workers)
    names = [place.path for place in (dataset.train, held_out) if place]
    train = written_here(dataset.done(dataset.train, work))
    apart = written_here(dataset.done(held_out, work)) if held_out else ()
    return write_rows(train, apart, places, split, names)


def _write_of_user(dataset: Any, places: Mapping[str, Path], dedupe: bool) -> dict[str, Any]:
    work = RowWork(_as_is, TYPE, asked, keyed=False, dedupe=dedupe)
    splits: Mapping[str, Any] = dataset.formatted_ds
    name = str(getattr(dataset.task_spec, "task_name", None) or type(dataset).__name__)
    held_out = splits.get("validation") if "validation" in places else None
    train = written_here(objects_done(_chunks(splits["train"]), work, name))
    apart = _chunks(held_out) if held_out is not None else ()
    validation = written_here(objects_done(apart, work, f"{name} (validation)"))
    return write_rows(train, validation, places, Split(dedupe=dedupe), [name])


def _as_is(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return (row,)


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(rows)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
