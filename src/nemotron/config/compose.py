"""From a config file, the files it builds on and the command line to one Config."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nemotron.config.config import Config, Origin, describe
from nemotron.config.keys import leaves
from nemotron.config.overrides import apply_overrides
from nemotron.config.tree import is_file, load_yaml, yaml_names
from nemotron.errors import NotFound, UsageError, nearest

NO_CONFIGS: Mapping[str, Path] = MappingProxyType({})
# A chain of includes that each include two more doubles with every level.
MAX_INCLUDES = 200

_REFERENCE = re.compile(r"\$\{\s*(\.*)([A-Za-z_][\w-]*(?:\.[\w-]+)*)\s*\}")


def compose(path: Path, overrides: Sequence[str] = (), *, configs: Mapping[str, Path] = NO_CONFIGS) -> Config:
    """One config from a file, its `defaults:` and `key=value` overrides, in that order.

    `defaults:` is a file or a list of files, relative to the file that names them, or the name of a
    config in `configs`. Later files win over earlier ones, the file itself over all of them; maps
    merge, lists are replaced, `???` never replaces a value, and `_override_: true` in a top-level
    section drops what earlier files said in it.

    Raises
    ------
    NotFound: a file or a base of it does not exist.
    UsageError: a file is not a valid config, a cycle of `defaults:`, or an override that does not
        fit; all bad overrides in one error.
    """
    composed = _Layered()
    _merge(composed, _Composer(configs).compose(path, []))
    present = {key: tuple(composed.history[key]) for key, _ in leaves(composed.data)}
    top = max((o[-1].layer for o in composed.history.values()), default=0)
    return apply_overrides(Config(composed.data, present, layers=top), overrides)


def resolve_config_path(spec: str, configs: Mapping[str, Path], cwd: Path) -> Path:
    """The file that `-c SPEC` names: a path when it has a `/` or ends in .yaml or .yml, else a name.

    Raises NotFound with the names there are, nearest first, and UsageError for a directory.
    """
    if "/" not in spec and not spec.endswith((".yaml", ".yml")):
        if spec in configs:
            return configs[spec]
        close = nearest(spec, configs)
        valid = (*close, *(name for name in sorted(configs) if name not in close))
        raise NotFound(f"there is no config {spec!r}", nearest=close, valid=valid, next=_other_way(cwd, spec))
    path = cwd / spec
    if is_file(path):
        return path
    files = yaml_names(path)
    if files:
        raise UsageError(f"the config {spec} is a directory", next=f"name a file in it: {', '.join(files)}")
    close = nearest(path.name, yaml_names(path.parent))
    stem = spec.removesuffix(".yaml").removesuffix(".yml")
    hint = f"for the config of that name write {stem}" if stem in configs else None
    raise NotFound(f"there is no config file {spec}", where=str(path), nearest=close, next=hint)


def _other_way(cwd: Path, spec: str) -> str | None:
    found = next((name for name in (spec, f"{spec}.yaml", f"{spec}.yml") if is_file(cwd / name)), None)
    return f"for the file in this directory write ./{found}" if found else None


@dataclass
class _Layered:
    """A partly composed config: data, and the sources of every key that was ever set."""

    data: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[Origin]] = field(default_factory=dict)


class _Composer:
    """One composition: the includes seen so far and the number of the next layer."""

    def __init__(self, configs: Mapping[str, Path]) -> None:
        self.configs = configs
        self.layers = count(1)
        self.includes = 0

    def compose(self, path: Path, chain: list[Path]) -> _Layered:
        self._refuse_loops(path, chain)
        data, lines = load_yaml(path)
        bases = _base_entries(data.pop("defaults", None), path, lines)
        if not bases:
            # `_override_` markers stay, for the file that includes this one after another.
            return self._own(data, path, lines)
        composed = _Layered()
        for entry, line in bases:
            _merge(composed, self.compose(self._find(entry, path, line), [*chain, path]))
        _merge(composed, self._own(data, path, lines))
        return composed

    def _refuse_loops(self, path: Path, chain: list[Path]) -> None:
        self.includes += 1
        here = path.resolve()
        if any(here == other.resolve() for other in chain):
            names = " -> ".join(str(p) for p in (*chain, path))
            raise UsageError(f"`defaults:` goes in a circle: {names}", where=str(chain[-1]))
        if self.includes > MAX_INCLUDES:
            raise UsageError(
                f"more than {MAX_INCLUDES} files are included through `defaults:`", where=str(path)
            )

    def _own(self, data: dict[str, Any], path: Path, lines: Mapping[str, int]) -> _Layered:
        layer, shown = next(self.layers), os.path.normpath(path)
        history = {
            key: [Origin("file", shown, lines.get(key), json.dumps(value, ensure_ascii=False), layer)]
            for key, value in leaves(data)
        }
        return _Layered(data, history)

    def _find(self, entry: str, including: Path, line: int | None) -> Path:
        beside = including.parent / entry
        for candidate in (beside, Path(f"{beside}.yaml"), Path(f"{beside}.yml")):
            if is_file(candidate):
                return candidate
        if entry in self.configs:
            return self.configs[entry]
        raise NotFound(
            f"`defaults:` names {entry!r}, there is no such file or config",
            where=f"{including}:{line}" if line else str(including),
            nearest=nearest(beside.name, [*yaml_names(beside.parent), *self.configs]),
            next=f"bases are found relative to {including.parent}",
        )


def _base_entries(defaults: Any, path: Path, lines: Mapping[str, int]) -> list[tuple[str, int | None]]:
    """The bases a file names, with the line of each; `_self_` is always last and needs no entry."""
    if defaults is None:
        return []
    listed = [(defaults, lines.get("defaults"))]
    if isinstance(defaults, list):
        listed = [(entry, lines.get(f"defaults.{i}")) for i, entry in enumerate(defaults)]
    for entry, line in listed:
        if not isinstance(entry, str) or not entry.strip():
            raise UsageError(
                f"`defaults:` takes file names, {json.dumps(entry, ensure_ascii=False)} is none",
                where=f"{path}:{line}" if line else str(path),
                next="write the path of the file; config groups are not supported",
            )
    return [(entry, line) for entry, line in listed if entry != "_self_"]


def _merge(base: _Layered, child: _Layered) -> None:
    """Lay `child` over `base`, in place."""
    for name, section in child.data.items():
        if isinstance(section, dict) and "_override_" in section:
            if section.pop("_override_"):
                base.data.pop(name, None)
            marker = child.history.pop(f"{name}._override_")
            if not section:
                # Nothing but the marker: an empty section, which is a leaf.
                child.history[name] = marker
    _merge_maps(base, child, base.data, child.data, "")
    present = {key for key, _ in leaves(child.data)}
    for key in child.history.keys() - present:
        # Set once and gone since: it may come back, and then all that set it are its history.
        base.history.setdefault(key, []).extend(child.history[key])


def _merge_maps(base: _Layered, child: _Layered, into: dict[str, Any], new: dict[str, Any], at: str) -> None:
    for name, value in new.items():
        key = f"{at}.{name}" if at else name
        old = into.get(name)
        if isinstance(value, dict) and isinstance(old, str):
            old = into[name] = _expanded(base, old, key)
        if isinstance(value, dict) and isinstance(old, dict):
            _merge_maps(base, child, old, value, key)
        elif _kinds_clash(old, value):
            raise _kinds_differ(base, child, key, old, value)
        elif value == "???" and name in into:
            continue
        else:
            into[name] = value
            for leaf, _ in leaves(value, key):
                base.history.setdefault(leaf, []).extend(child.history[leaf])


def _kinds_clash(old: Any, value: Any) -> bool:
    """Whether a value would turn a section or list into something else, or something else into one.

    Null, `???` and interpolations stand for anything.
    """
    if any(v is None or (isinstance(v, str) and (v == "???" or "${" in v)) for v in (old, value)):
        return False
    kinds = [dict if isinstance(v, dict) else list if isinstance(v, list) else object for v in (old, value)]
    return kinds[0] is not kinds[1]


def _expanded(base: _Layered, text: str, key: str) -> Any:
    """The section that `${a.b}` stands for, copied, so that a child's map merges into it.

    This is what OmegaConf's merge does, and distillation configs count on it:
    `teacher: ${policy}` below, `teacher: {model_name: ...}` above.
    """
    target: Any = text
    at = key
    for _ in range(len(base.history) + 1):
        match = _REFERENCE.fullmatch(target)
        if match is None:
            break
        dots, name = match.groups()
        parents = at.split(".")[: -len(dots)] if dots else []
        at = ".".join([*parents, name])
        target = base.data
        for part in at.split("."):
            target = target.get(part) if isinstance(target, dict) else None
        if not isinstance(target, str):
            break
    if not isinstance(target, dict):
        return text
    copied = copy.deepcopy(target)
    for leaf, _ in leaves(copied, key):
        base.history[leaf] = list(base.history.get(key, ()))
    return copied


def _kinds_differ(base: _Layered, child: _Layered, key: str, old: Any, value: Any) -> UsageError:
    return UsageError(
        f"{key} is {describe(value)} here and {describe(old)} in {_place(base, key, old)}",
        where=_place(child, key, value),
        next="give both the same shape",
    )


def _place(layered: _Layered, key: str, value: Any) -> str:
    for leaf, _ in leaves(value, key):
        if layered.history.get(leaf):
            return layered.history[leaf][-1].place
    return key
