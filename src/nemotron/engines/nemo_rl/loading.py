"""What NeMo-RL's own loader makes of a compiled config: one file, read inside the framework's checkout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from nemotron.engines.nemo_rl.entry import CHECKOUT
from nemotron.engines.nemo_rl.placing import MUST_SAVE_BY, seconds_of
from nemotron.engines.nemo_rl.rules.view import View
from nemotron.findings import Finding

_RESOLVER = re.compile(r"(?<!\\)\$\{\s*([A-Za-z_][\w.]*)\s*:")
_REFERENCE = re.compile(r"(?<!\\)\$\{(?!\s*[A-Za-z_][\w.]*\s*:)[^{}]*\}")
# OmegaConf's own, there in every script; `env` went away in the release that NeMo-RL uses.
_BUILT_IN = (
    "oc.env",
    "oc.create",
    "oc.decode",
    "oc.deprecated",
    "oc.select",
    "oc.dict.keys",
    "oc.dict.values",
)
_DATA_FILES = (".arrow", ".csv", ".json", ".jsonl", ".parquet", ".txt")


def loading_findings(view: View, resolvers: Sequence[str]) -> Iterator[Finding]:
    """What the loader would stumble over, or read otherwise than meant.

    resolvers: those that the script of this entry point registers.
    """
    yield from _interpolations(view, (*resolvers, *_BUILT_IN))
    yield from _relative_data(view)
    written = view.get(MUST_SAVE_BY)
    if written is not None and (not isinstance(written, str) or seconds_of(written) is None):
        yield Finding(
            "nemo_rl.must_save_by",
            "error",
            f"{MUST_SAVE_BY} is {written!r}, NeMo-RL reads days, hours, minutes and seconds",
            where=MUST_SAVE_BY,
            valid="DD:HH:MM:SS, such as 00:03:45:00",
            fix=f"{MUST_SAVE_BY}=null",
        )


def _interpolations(view: View, known: Sequence[str]) -> Iterator[Finding]:
    """Texts in which the loader would look for something to fill in."""
    for key, text in _texts(view.data, ""):
        unknown = [name for name in _RESOLVER.findall(text) if name not in known]
        if unknown or _REFERENCE.search(text):
            what = f"the resolver {unknown[0]}" if unknown else "a reference to another key"
            yield Finding(
                "nemo_rl.interpolation",
                "error",
                f"{key} holds {text!r}: NeMo-RL's loader would look for {what}",
                where=key,
                valid=f"a value, or one of {', '.join(known)}",
                fix=f"{key}=VALUE",
            )


def _relative_data(view: View) -> Iterator[Finding]:
    """Files that are named from here, and looked for in the framework's checkout."""
    for split in ("train", "validation"):
        for key, table in view.data_sets(split):
            path = table.get("data_path")
            if not isinstance(path, str) or "://" in path or not path.endswith(_DATA_FILES):
                continue
            if not PurePosixPath(path).is_absolute():
                yield Finding(
                    "nemo_rl.relative_path",
                    "warning",
                    f"{key}.data_path is {path}: the job looks for it in {CHECKOUT} of the image",
                    where=f"{key}.data_path",
                    valid="an absolute path that the job's nodes see",
                    fix=f"{key}.data_path=/...",
                )


def _texts(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield prefix, node
        return
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield from _texts(value, f"{prefix}.{name}" if prefix else str(name))
