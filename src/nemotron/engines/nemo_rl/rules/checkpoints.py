"""Checkpoints on disk: the one a run starts from, and those it would resume from without asking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nemotron.engines.nemo_rl.rules.rule import EVERY, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View
from nemotron.errors import NemotronError

_DIRECTORY = "checkpointing.checkpoint_dir"

# A resumed run that differs in one of these loads weights or loader state that are not its own.
_MUST_AGREE = (
    "policy.model_name",
    "policy.dtensor_cfg.enabled",
    "policy.dtensor_cfg.tensor_parallel_size",
    "policy.megatron_cfg.enabled",
    "policy.megatron_cfg.tensor_model_parallel_size",
    "policy.megatron_cfg.pipeline_model_parallel_size",
    "data.train",
)


def resumes(view: View) -> Iterator[Problem]:
    """Say that the run would resume, from which step, and what differs from the run that saved it."""
    directory = Path(view.text(_DIRECTORY) or "")
    step = _highest_step(directory) if directory.is_absolute() and view.on("checkpointing.enabled") else None
    if step is None:
        return
    saved = _saved_config(directory / f"step_{step}" / "config.yaml")
    unknown = "" if saved else "; its config cannot be read, so nothing was compared"
    yield Problem(
        _DIRECTORY,
        f"{directory} holds step {step}: the run resumes there{unknown}",
        "a new directory, unless that is meant",
        f"{_DIRECTORY}=...",
        severity="warning",
    )
    key, limit = view.of_algorithm("max_num_steps"), view.whole(view.of_algorithm("max_num_steps"))
    if limit is not None and 0 < limit <= step:
        yield Problem(
            key,
            f"{directory} holds step {step} and {key} is {limit}: nothing would be trained",
            f"more than {step}",
            f"{key}={step + limit}",
        )
    before = View(view.entry_point, saved, {}, None, None)
    for name in _MUST_AGREE if saved else ():
        then, now = _comparable(before, name), _comparable(view, name)
        if then != now:
            yield Problem(
                name,
                f"step {step} in {directory} was trained with {name} {then}, this config has {now}",
                "a new checkpoint directory, or the same value",
                f"{_DIRECTORY}=...",
            )


def starts_from(view: View) -> Iterator[Problem]:
    """NeMo-RL reads the policy in the Hugging Face format, whichever backend trains it.

    A later release can start from a Megatron checkpoint, which then has a key of its own.
    """
    name = view.text("policy.model_name")
    if not name or view.has("policy.pretrained_checkpoint") or not _is_megatron(Path(name)):
        return
    yield Problem(
        "policy.model_name",
        f"{name} is a Megatron checkpoint, NeMo-RL reads a Hugging Face model here",
        "a directory with config.json",
        f"nemotron steps run convert/megatron_to_hf -i model={name}",
    )


def _is_megatron(directory: Path) -> bool:
    try:
        names = {p.name for p in directory.iterdir()}
    except OSError:
        return False
    marks = any(n.startswith("iter_") for n in names) or names & {
        "latest_checkpointed_iteration.txt",
        "metadata.json",
    }
    return bool(marks) and "config.json" not in names


def _highest_step(directory: Path) -> int | None:
    """The highest complete step of a checkpoint directory that this machine can see."""
    try:
        names = [p.name for p in directory.glob("step_*")]
    except OSError:
        return None
    steps = [int(name[5:]) for name in names if name[5:].isdigit()]
    return max(steps, default=None)


def _saved_config(path: Path) -> Mapping[str, Any]:
    """The config a checkpoint was saved with; empty where it is not there or cannot be read."""
    from nemotron.config.tree import load_yaml

    try:
        saved, _ = load_yaml(path)
    except NemotronError:
        return {}
    return saved if isinstance(saved, Mapping) else {}


def _comparable(view: View, name: str) -> object:
    """The value compared: NeMo-RL writes a single training set back as a list of one."""
    if name != "data.train":
        return view.get(name)
    return [(table.get("dataset_name"), table.get("data_path")) for _, table in view.data_sets("train")]


RULES = (
    Rule("nemo_rl.policy_format", EVERY, starts_from),
    Rule("nemo_rl.resumes", EVERY, resumes),
)
