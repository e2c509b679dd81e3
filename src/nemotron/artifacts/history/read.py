"""Which files are asked, and how what they tell becomes one history."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemotron.artifacts.history.files import Folder
from nemotron.artifacts.history.hugging_face import (
    read_adapter,
    read_card,
    read_named_base,
    read_trainer_state,
)
from nemotron.artifacts.history.megatron_bridge import iteration_directory, read_megatron_bridge
from nemotron.artifacts.history.model import History, Parent
from nemotron.artifacts.history.nemo_rl import read_nemo_rl, step_directory
from nemotron.artifacts.history.told import Told

_MODEL_TYPES = ("checkpoint_hf", "reward_model_hf", "checkpoint_lora", "checkpoint_megatron")


def read_history(path: Path, type: str) -> History | None:
    """How the artifact at `path` was made, as far as files in and around it tell; None when none does.

    type: the artifact's type. Only that of a model makes the directories above `path` count: a NeMo-RL
    checkpoint may be named by its `step_N`, by what lies in `step_N/policy`, or by the directory of all its
    steps, of which the highest tells. Never raises for what the files hold; damaged, hostile and
    contradicting ones are `History.findings`. No code, no tag and no pickle of theirs is run.
    """
    path = Path(os.path.realpath(path))
    if not path.is_dir():
        return None
    folders: list[Folder] = []
    told: list[Told] = []

    def ask(reader: Any, root: Path) -> None:
        folder = next((f for f in folders if f.root == root), None)
        if folder is None:
            folder = Folder(root)
            folders.append(folder)
        before = len(folder.source)
        found = reader(folder)
        if found is None:
            del folder.source[before:]  # read, and it told nothing
        else:
            told.append(found)

    if type in _MODEL_TYPES:
        step = step_directory(path)
        if step is not None:
            ask(read_nemo_rl, step)
        if not told:
            # The run_config.yaml in a NeMo-RL checkpoint tells of the cache its base model was converted in.
            ask(read_megatron_bridge, iteration_directory(path))
        ask(read_adapter, path)
        ask(read_trainer_state, path)
    ask(read_card, path)
    if type in _MODEL_TYPES and any(t.tool == "transformers" for t in told) and not _has_base(told):
        ask(read_named_base, path)
    if not told and not any(folder.findings for folder in folders):
        return None
    return _merged(path, told, folders)


def _has_base(told: list[Told]) -> bool:
    return any(parent.role in ("base", "policy") for each in told for parent in each.parents)


def _merged(path: Path, told: list[Told], folders: list[Folder]) -> History:
    """One history; where several files answer the same question, the first one asked is believed."""
    findings = tuple(finding for folder in folders for finding in folder.findings)
    source = [_shown(folder, name, path) for folder in folders for name in folder.source]
    facts: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for each in told:
        for name, value in each.facts.items():
            facts.setdefault(name, value)
        config = config or each.config
    return History(
        source=tuple(dict.fromkeys(source)),
        tool=_tool(told),
        step_of_training=next((t.step_of_training for t in told if t.step_of_training is not None), None),
        parents=_parents(path, told),
        facts=facts,
        config=config,
        at=next((t.at for t in told if t.at is not None), None),
        findings=findings,
    )


def _tool(told: list[Told]) -> str:
    """Who made it: what a trainer's card says of itself tells more than the files every Trainer leaves."""
    tools = [each.tool for each in told]
    known = ("nemo_rl", "megatron_bridge", "axolotl", "trl", "peft", "transformers", "model_card")
    return next((tool for tool in known if tool in tools), "unknown")


def _parents(path: Path, told: list[Told]) -> tuple[Parent, ...]:
    """All parents, each once; a second file may add the revision that the first one left open."""
    found: dict[tuple[str, str], Parent] = {}
    for parent in (parent for each in told for parent in each.parents):
        if parent.path is not None and Path(os.path.realpath(parent.path)) == path:
            continue  # a file that names the very artifact it lies in
        key = (parent.role, parent.reference.partition("@")[0] if parent.revision else parent.reference)
        before = found.get(key)
        if before is None or (before.revision is None and parent.revision is not None):
            found[key] = parent if before is None else replace(parent, told_by=before.told_by)
    return tuple(found.values())


def _shown(folder: Folder, name: str, path: Path) -> str:
    file = folder.root / name
    return str(file.relative_to(path)) if file.is_relative_to(path) else str(file)
