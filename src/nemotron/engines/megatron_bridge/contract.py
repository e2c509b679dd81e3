"""What a Megatron-Bridge release takes in a config: its sections, their keys, types and choices.

A recipe gives every key a value, so nothing is required; but a key that no section has is dropped with a
warning deep in a log, or ends the job on all of its nodes. The contract files are made by
`tools/extract_megatron_bridge.py` from the release's own dataclasses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron.errors import nearest
from nemotron.findings import Finding

# The container images by the release of Megatron-Bridge in them.
RELEASES = {"26.04": "v0.4.0"}
DEFAULT_IMAGE = "nvcr.io/nvidia/nemo:26.04"
RECIPE = "recipe._target_"
_DEFAULT = "v0.4.0"
_DIRECTORY = Path(__file__).parent / "contracts"
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "list": "a list",
    "map": "a table",
    "null": "null",
}
# Of ConfigContainer's sections, those that may be a name or nothing at all.
_BY_NAME = ("mixed_precision",)


@dataclass(frozen=True)
class Contract:
    """The contract of one release; get one from `contract_for_image`.

    version: the release tag. spec: the content of its file.
    """

    version: str
    spec: Mapping[str, Any]

    @property
    def recipes(self) -> Mapping[str, str | None]:
        """Dotted name of each recipe for fine-tuning, and the model on the hub whose shape it takes."""
        return dict(self.spec["recipes"])

    def keys(self) -> tuple[str, ...]:
        """Every dotted key that can be set."""
        return (RECIPE, "peft", *self._keys())

    def check(self, config: Mapping[str, Any]) -> Iterator[Finding]:
        """Unknown sections and keys, wrong types, choices that there are not; all of them errors."""
        yield from self._check_recipe(config.get("recipe"))
        sections = self._top()
        for name, value in config.items():
            if name in ("recipe", "peft"):
                continue
            if name not in sections:
                yield self._unknown("", name, ("recipe", "peft", *sections))
            elif isinstance(value, Mapping):
                yield from self._check_section(name, value, f"{name}.")
            elif name in _BY_NAME and isinstance(value, str):
                yield from self._check_name(name, value)
            elif value is not None or name not in (*self.spec["optional"], *_BY_NAME):
                yield self._wrong(name, value, "a table")

    def _top(self) -> dict[str, Mapping[str, Any]]:
        """The sections of ConfigContainer itself, without those within others."""
        sections: dict[str, Mapping[str, Any]] = self.spec["sections"]
        within = {spec.get("section") for keys in sections.values() for spec in keys.values()}
        return {name: keys for name, keys in sections.items() if name not in within}

    def _keys(self) -> Iterator[str]:
        for section, keys in self._top().items():
            for key in keys:
                yield f"{section}.{key}"
                inner = keys[key].get("section")
                if inner:
                    yield from (f"{section}.{key}.{each}" for each in self.spec["sections"][inner])

    def _check_recipe(self, recipe: Any) -> Iterator[Finding]:
        known = tuple(self.spec["recipes"])
        if not isinstance(recipe, Mapping) or not isinstance(recipe.get("_target_"), str):
            what = f"{RECIPE} names no recipe of Megatron-Bridge"
            yield Finding("megatron_bridge.recipe", "error", what, where=RECIPE, valid=_some(known))
            return
        target = recipe["_target_"]
        if target not in known:
            close = nearest(target, known) or nearest(target.rpartition(".")[2], known)
            yield Finding(
                "megatron_bridge.recipe",
                "error",
                f"{RECIPE} is {target!r}, no recipe for fine-tuning of Megatron-Bridge {self.version}",
                where=RECIPE,
                valid=f"nearest: {', '.join(close)}" if close else _some(known),
                fix=f"{RECIPE}={close[0]}" if close else None,
            )
        for key in recipe:
            if key != "_target_":
                what = f"recipe.{key}: recipes of Megatron-Bridge {self.version} take no arguments"
                fix = "set the key in its section: model, train, dataset, ..."
                yield Finding("megatron_bridge.recipe", "error", what, where=f"recipe.{key}", fix=fix)

    def _check_name(self, section: str, value: str) -> Iterator[Finding]:
        known: list[str] = self.spec[section]
        if value.replace("-", "_") in known or "${" in value or value == "???":
            return
        close = nearest(value, known)
        yield Finding(
            "megatron_bridge.bad_choice",
            "error",
            f"{section} is {value!r}, which Megatron-Bridge {self.version} does not know",
            where=section,
            valid=", ".join(known),
            fix=f"{section}={close[0]}" if close else None,
        )

    def _check_section(self, name: str, value: Mapping[str, Any], prefix: str) -> Iterator[Finding]:
        specs: Mapping[str, Any] = self.spec["sections"][name]
        for key, each in value.items():
            spec = specs.get(key)
            if spec is None:
                yield self._unknown(prefix, str(key), tuple(specs))
            elif spec.get("computed"):
                what = f"{prefix}{key} is computed by Megatron-Bridge when it starts"
                yield Finding("megatron_bridge.computed_key", "error", what, where=prefix + key)
            elif each == "???" or (isinstance(each, str) and "${" in each):
                continue
            elif "section" in spec and isinstance(each, Mapping):
                yield from self._check_section(spec["section"], each, f"{prefix}{key}.")
            else:
                yield from self._check_value(prefix + key, each, spec)

    def _check_value(self, key: str, value: Any, spec: Mapping[str, Any]) -> Iterator[Finding]:
        if "choices" in spec:
            same = [each for each in spec["choices"] if each == value and type(each) is type(value)]
            if not same:
                choices = ", ".join(json.dumps(each) for each in spec["choices"])
                what = f"{key} is {_shown(value)}, which Megatron-Bridge {self.version} does not know"
                yield Finding("megatron_bridge.bad_choice", "error", what, where=key, valid=choices)
        elif not any(_is_kind(value, kind) for kind in spec["accepts"]):
            yield self._wrong(key, value, " or ".join(_KINDS[kind] for kind in spec["accepts"]))

    def _wrong(self, key: str, value: Any, wanted: str) -> Finding:
        what = f"{key} is {_shown(value)}, Megatron-Bridge {self.version} takes {wanted}"
        return Finding("megatron_bridge.wrong_type", "error", what, where=key, valid=wanted)

    def _unknown(self, prefix: str, key: str, known: tuple[str, ...]) -> Finding:
        close = nearest(key, known)
        elsewhere = [k for k in self._keys() if k.rpartition(".")[2] == key]
        shown = [*(prefix + each for each in close), *elsewhere][:4]
        return Finding(
            "megatron_bridge.unknown_key",
            "error",
            f"{prefix}{key} is no key of Megatron-Bridge {self.version}",
            where=prefix + key,
            valid=f"nearest: {', '.join(shown)}" if shown else None,
        )


def contract_for_image(image: str) -> tuple[Contract, tuple[Finding, ...]]:
    """The contract for a container image, told by its tag; a warning where the tag names none we know."""
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    version = next((v for known, v in RELEASES.items() if tag == known or tag.startswith(f"{known}.")), None)
    contract = Contract(
        version or _DEFAULT,
        json.loads((_DIRECTORY / f"{version or _DEFAULT}.json").read_text(encoding="utf-8")),
    )
    if version is not None:
        return contract, ()
    what = f"image {image} is no release of NeMo that we know: the contract of {_DEFAULT} was used"
    known = ", ".join(f"nvcr.io/nvidia/nemo:{each}" for each in RELEASES)
    return contract, (
        Finding("megatron_bridge.unknown_version", "warning", what, where="run.image", valid=known),
    )


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "null":
        return value is None
    if isinstance(value, bool):
        return kind in ("bool", "any")
    by_kind: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "list": (list, tuple),
        "map": (Mapping,),
        "any": (object,),
    }
    return isinstance(value, by_kind.get(kind, ()))


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list) else json.dumps(value, default=str)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + ", ..."
