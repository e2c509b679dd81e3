"""What a NeMo-RL release expects of a config: required keys, types, choices, known keys.

NeMo-RL up to v0.6.0 checks nothing when it starts: a missing key is a KeyError minutes in, an unknown
one is ignored for the whole run. The contract files beside this module say what a release reads, so
that a config can be checked in milliseconds, with the standard library alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron.errors import NotFound, UsageError, nearest
from nemotron.findings import Finding

DEFAULT_VERSION = "v0.6.0"
_DIRECTORY = Path(__file__).parent / "contracts"

_KINDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "list": "a list",
    "map": "a table",
    "null": "null",
}


@dataclass(frozen=True)
class Contract:
    """The contract of one NeMo-RL version; get one from `load_contract`.

    version: the release tag, `v0.6.0`.
    spec: the content of the contract file.
    """

    version: str
    spec: Mapping[str, Any]

    @property
    def entry_points(self) -> tuple[str, ...]:
        """Names `check` and `keys` take: sft, rm, dpo, grpo, grpo_nemo_gym."""
        return tuple(self.spec["entry_points"])

    def script(self, entry_point: str) -> str:
        """The upstream script of an entry point, relative to the NeMo-RL checkout."""
        return str(self._entry(entry_point)["script"])

    def resolvers(self, entry_point: str) -> tuple[str, ...]:
        """Config resolvers the script registers; any other interpolation fails there."""
        return tuple(self._entry(entry_point)["resolvers"])

    def keys(self, entry_point: str) -> tuple[str, ...]:
        """Every dotted key the release declares for an entry point, sections included."""
        root = self._entry(entry_point)["root"]
        return tuple(dict.fromkeys(self._keys(root, "")))

    def check(self, entry_point: str, data: Mapping[str, Any]) -> tuple[Finding, ...]:
        """What is wrong with `data`, a resolved config, for `entry_point`.

        Missing required keys, wrong types and bad choices are errors; an unknown key is an error
        where it looks like a slip for a known one and a warning otherwise. Open sections
        (`env`, `vllm_kwargs`, optimizer `kwargs`) are not looked into. A value that is still an
        interpolation is left alone.
        """
        entry = self._entry(entry_point)
        found = [*self._check_section(entry["root"], data, ""), *self._check_reads(entry_point, data)]
        return tuple(dict.fromkeys(found))

    def _entry(self, entry_point: str) -> Mapping[str, Any]:
        entries = self.spec["entry_points"]
        if entry_point not in entries:
            raise UsageError(
                f"NeMo-RL {self.version} has no entry point {entry_point!r} in its contract",
                nearest=nearest(entry_point, entries),
                valid=tuple(entries),
            )
        entry: Mapping[str, Any] = entries[entry_point]
        return entry

    def _keys(self, section: str, prefix: str) -> Iterator[str]:
        for key, spec in self.spec["sections"][section].items():
            yield prefix + key
            for inner in _sections_of(spec):
                yield from self._keys(inner, f"{prefix}{key}.")

    def _check_section(self, section: str, data: Mapping[str, Any], prefix: str) -> Iterator[Finding]:
        specs: Mapping[str, Any] = self.spec["sections"][section]
        for key, spec in specs.items():
            if key not in data:
                if spec.get("required"):
                    yield self._missing(prefix + key, spec["type"], spec["source"], present=False)
            elif data[key] == "???":
                yield self._missing(prefix + key, spec["type"], spec["source"], present=True)
            else:
                yield from self._check_value(prefix + key, data[key], spec)
        for key in data:
            if key not in specs:
                yield self._unknown(prefix, str(key), specs)

    def _check_value(self, key: str, value: Any, spec: Mapping[str, Any]) -> Iterator[Finding]:
        if isinstance(value, str) and "${" in value:
            return
        if "choices" in spec and value not in spec["choices"]:
            yield self._bad_choice(key, value, spec["choices"])
            return
        if not any(_is_kind(value, kind) for kind in spec["accepts"]):
            yield self._wrong_type(key, value, spec)
            return
        if isinstance(value, Mapping):
            yield from self._check_table(key, value, spec)
        elif isinstance(value, list) and "section" in spec:
            for i, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from self._check_section(spec["section"], item, f"{key}.{i}.")

    def _check_table(self, key: str, value: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Finding]:
        """A table against the section that fits it: the one its switch selects, else the only one there is.

        One that is switched off is not read any further, whatever upstream's own examples keep in it.
        """
        if "by" not in spec:
            if "section" in spec:
                yield from self._check_section(spec["section"], value, f"{key}.")
            return
        switch = value.get(spec["by"])
        if switch is False:
            return
        section = spec["variants"].get("true" if switch is True else str(switch), spec.get("section"))
        if section:
            yield from self._check_section(section, value, f"{key}.")
        elif spec["by"] in value:
            yield self._wrong_type(
                f"{key}.{spec['by']}", switch, {**spec, "type": "bool", "accepts": ["bool"]}
            )
        else:
            yield self._missing(f"{key}.{spec['by']}", "bool", spec["source"], present=False)

    def _check_reads(self, entry_point: str, data: Mapping[str, Any]) -> Iterator[Finding]:
        """Keys that the release reads without a default although their type calls them optional."""
        for read in self.spec["hard_indexed"]:
            if entry_point not in read["for"]:
                continue
            if any(_lookup(data, key) != value for key, value in read.get("when", {}).items()):
                continue
            parent, _, key = read["key"].rpartition(".")
            table = _lookup(data, parent)
            if isinstance(table, Mapping) and key not in table:
                yield self._missing(read["key"], "", read["source"], present=False)

    def _missing(self, key: str, type_text: str, source: str, *, present: bool) -> Finding:
        state = "has no value" if present else "is missing"
        return Finding(
            "nemo_rl.missing_key",
            "error",
            f"{key} {state}; NeMo-RL {self.version} reads it at {source}",
            where=key,
            valid=type_text or None,
            fix=f"{key}=..." if present else f"+{key}=...",
        )

    def _wrong_type(self, key: str, value: Any, spec: Mapping[str, Any]) -> Finding:
        wanted = " or ".join(_KINDS.get(kind, kind) for kind in spec["accepts"])
        return Finding(
            "nemo_rl.wrong_type",
            "error",
            f"{key} is {_shown(value)}, NeMo-RL {self.version} takes {wanted} ({spec['source']})",
            where=key,
            valid=spec["type"],
        )

    def _bad_choice(self, key: str, value: Any, choices: Sequence[Any]) -> Finding:
        return Finding(
            "nemo_rl.bad_choice",
            "error",
            f"{key} is {_shown(value)}, which NeMo-RL {self.version} does not know",
            where=key,
            valid=", ".join(_shown(c) for c in choices),
            fix=f"{key}={_bare(choices[0])}",
        )

    def _unknown(self, prefix: str, key: str, specs: Mapping[str, Any]) -> Finding:
        declared = [known for known, spec in specs.items() if not spec.get("undeclared")]
        slip = next((known for known in declared if looks_like_slip(key, known)), None)
        close = (slip,) if slip else nearest(key, declared)
        return Finding(
            "nemo_rl.unknown_key",
            "error" if slip else "warning",
            f"NeMo-RL {self.version} declares no {prefix}{key}: it would be ignored",
            where=prefix + key,
            valid=", ".join(prefix + c for c in close) or None,
            fix=f"rename it to {prefix}{slip}" if slip else None,
        )


def load_contract(version: str = DEFAULT_VERSION) -> Contract:
    """The contract of a NeMo-RL release tag.

    Raises NotFound when there is none, with the versions there are.
    """
    path = _DIRECTORY / f"{version}.json"
    if version not in known_versions():
        raise NotFound(
            f"there is no contract for NeMo-RL {version}",
            nearest=nearest(version, known_versions()),
            valid=known_versions(),
        )
    return Contract(version, json.loads(path.read_text(encoding="utf-8")))


def known_versions() -> tuple[str, ...]:
    """The release tags that have a contract, oldest first."""
    return tuple(sorted(p.stem for p in _DIRECTORY.glob("v*.json")))


def contract_for_image(image: str) -> tuple[Contract, tuple[Finding, ...]]:
    """The contract for a container image, told by its tag; a warning where the tag names no known release."""
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    if tag in known_versions():
        return load_contract(tag), ()
    named = f"the tag {tag!r}" if tag else "no tag"
    return load_contract(), (
        Finding(
            "nemo_rl.unknown_version",
            "warning",
            f"image {image} has {named}, which names no NeMo-RL release we know: "
            f"the contract of {DEFAULT_VERSION} was used",
            where="run.image",
            valid=", ".join(f"nvcr.io/nvidia/nemo-rl:{v}" for v in known_versions()),
        ),
    )


def looks_like_slip(word: str, known: str) -> bool:
    """Whether `word` is `known` mistyped: at most two single-letter edits or swaps, one in a short word.

    A ratio is no measure here: `val_temperature` is a key of a later release, not a slip for
    `temperature`, and `tp_size` is none for `dp_size`.
    """
    if word == known or abs(len(word) - len(known)) > 2 or min(len(word), len(known)) < 4:
        return False
    if word.casefold().replace("-", "_") == known.casefold():
        return True
    if word[0] != known[0]:
        return False
    return _edits(word, known) <= (2 if min(len(word), len(known)) >= 8 else 1)


def _edits(a: str, b: str) -> int:
    """Edit distance with adjacent swaps counted once."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (char != other))
            if i > 1 and j > 1 and char == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def _sections_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    named = [*spec.get("variants", {}).values(), *([spec["section"]] if "section" in spec else [])]
    return tuple(dict.fromkeys(named))


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "null":
        return value is None
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str)
    if kind == "list":
        return isinstance(value, list | tuple)
    return kind != "map" or isinstance(value, Mapping)


def _lookup(data: Any, key: str) -> Any:
    node = data
    for part in key.split(".") if key else ():
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return f"the string {value!r}" if isinstance(value, str) else _bare(value)


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
