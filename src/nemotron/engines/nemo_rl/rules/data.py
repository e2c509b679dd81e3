"""Which data a run really reads. Most of these faults are silent: the run trains on something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nemotron.engines.nemo_rl.rules.rule import EVERY, GYM, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View

# The flat layout of early releases: still accepted, never read.
_LEGACY = {
    "dataset_name": "data.train.dataset_name",
    "train_data_path": "data.train.data_path",
    "train_split": "data.train.split",
    "val_data_path": "data.validation.data_path",
    "val_split": "data.validation.split",
    "train_jsonl_fpath": "data.train.data_path",
    "validation_jsonl_fpath": "data.validation.data_path",
    "input_key": "data.default.input_key",
    "output_key": "data.default.output_key",
    "chat_key": "data.default.chat_key",
    "tool_key": "data.default.tool_key",
    "system_key": "data.default.system_key",
    "system_prompt": "data.default.system_prompt",
    "use_preserving_dataset": "data.default.use_preserving_dataset",
}

_PROCESSORS = {"sft": "sft_processor", "grpo_nemo_gym": "nemo_gym_data_processor"}

# Classes that cut a validation set off their training rows.
_SPLITTING = frozenset(
    {
        "ResponseDataset", "general-conversation-jsonl", "arrow_text", "open_assistant",
        "tulu3_sft_mixture", "OpenMathInstruct-2", "Nemotron-Cascade-2-SFT-Math",
    }
)  # fmt: skip


def legacy_keys(view: View) -> Iterator[Problem]:
    """Flat data keys are accepted and ignored, so that the default data set is trained on."""
    for key, place in _LEGACY.items():
        if key in view.table("data"):
            yield Problem(
                f"data.{key}",
                f"data.{key} is the layout of releases before v0.6: it is accepted and never read",
                place,
                f"move its value to {place}",
            )


def training_set(view: View) -> Iterator[Problem]:
    """There is a training set, and it says which class reads it."""
    sets = view.data_sets("train")
    if not sets:
        yield Problem("data.train", "no training set is named", "data.train.data_path=PATH", "-i data=PATH")
    for split in ("train", "validation"):
        for key, table in view.data_sets(split):
            if not table.get("dataset_name"):
                yield Problem(
                    f"{key}.dataset_name",
                    f"{key} does not say which class reads it, and data.default does not either",
                    "openai_format, ResponseDataset, BinaryPreferenceDataset, NemoGymDataset, ...",
                    f"+{key}.dataset_name=...",
                )


def effective_sets(view: View) -> Iterator[Problem]:
    """Show what is read: with inherited defaults that is easy to misjudge."""
    shown = []
    for split in ("train", "validation"):
        names = [
            " ".join(str(table[k]) for k in ("dataset_name", "data_path", "split") if table.get(k))
            for _, table in view.data_sets(split)
        ]
        shown.append(f"{split}: {', '.join(names) or 'none'}")
    yield Problem("data", "data sets: " + "; ".join(shown), severity="note")


def processor(view: View) -> Iterator[Problem]:
    """The default processor is the one for math prompts, whatever the algorithm."""
    wanted = _PROCESSORS[view.entry_point]
    for split in ("train", "validation"):
        for key, table in view.data_sets(split):
            found = table.get("processor")
            if found == wanted:
                continue
            place = f"{_place(view, key)}.processor"
            yield Problem(
                f"{key}.processor",
                f"{key} is read with {found or 'the default processor, the one for math prompts'}",
                wanted,
                f"{'' if found else '+'}{place}={wanted}",
            )


def environment_name(view: View) -> Iterator[Problem]:
    """Every prompt set names the environment that scores it."""
    environments = view.table("env")
    for split in ("train", "validation"):
        for key, table in view.data_sets(split):
            name = _text(table, "env_name")
            if name not in environments:
                yield Problem(
                    f"{key}.env_name",
                    f"{key} is scored by {name!r}, which is no environment of this config"
                    if name
                    else f"{key} does not say which environment scores it",
                    ", ".join(str(e) for e in environments) or None,
                    f"+data.default.env_name={next(iter(environments))}"
                    if environments and not name
                    else None,
                )


def split_validation(view: View) -> Iterator[Problem]:
    """A validation share is cut off by some classes; the others warn and ignore it."""
    for key, table in view.data_sets("train"):
        name, share = _text(table, "dataset_name"), table.get("split_validation_size")
        # A dotted name is a class of the user's own.
        if share and name and name not in _SPLITTING and "." not in name:
            yield Problem(
                f"{key}.split_validation_size",
                f"{name} ignores split_validation_size={share}: there would be no validation set",
                "data.validation.data_path",
                f"{_place(view, key, 'split_validation_size')}.split_validation_size=0",
            )


def enough_rows(view: View) -> Iterator[Problem]:
    """An incomplete batch is dropped: with fewer rows than a batch the run makes no step and exits 0."""
    rows, batch, key = _rows(view), *_batch(view)
    if rows is not None and batch and rows < batch:
        yield Problem(
            key,
            f"{rows} training rows are fewer than a batch of {batch}: "
            "the run would end after 0 steps, with exit 0",
            f"up to {rows}",
            f"{key}={rows}" if view.algorithm == "grpo" else None,
        )


def steps(view: View) -> Iterator[Problem]:
    """How many steps the rows give, and whether anything is saved before the end."""
    rows, (batch, _) = _rows(view), _batch(view)
    epochs = view.positive(view.of_algorithm("max_num_epochs"))
    key = view.of_algorithm("max_num_steps")
    limit = view.whole(key)
    if rows is None or not batch or rows < batch or not epochs or limit is None:
        return
    possible = epochs * (rows // batch)
    made = min(possible, limit) if limit > 0 else possible
    yield Problem(
        key,
        f"{made} steps: {rows} rows in batches of {batch}, epochs {epochs}, limit {limit}",
        severity="note",
    )
    period = view.positive("checkpointing.save_period")
    if view.on("checkpointing.enabled") and period and period > made:
        yield Problem(
            "checkpointing.save_period",
            f"a checkpoint every {period} steps and {made} steps: only the last step is saved",
            f"up to {made}",
            f"checkpointing.save_period={max(1, made // 4)}",
            severity="warning",
        )


def _text(table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    return value if isinstance(value, str) else None


def _place(view: View, key: str, name: str = "processor") -> str:
    """Where the effective value of a data set's key is written."""
    return key if view.has(f"{key}.{name}") else "data.default"


def _rows(view: View) -> int | None:
    """Training rows, repeats of a Gym set included."""
    rows = view.rows.get("train")
    sets = view.data_sets("train")
    repeat = sets[0][1].get("repeat", 1) if len(sets) == 1 else 1
    return rows * repeat if rows is not None and isinstance(repeat, int) else rows


def _batch(view: View) -> tuple[int | None, str]:
    """Rows a step takes, and the key that says so."""
    key = "grpo.num_prompts_per_step" if view.algorithm == "grpo" else "policy.train_global_batch_size"
    return view.positive(key), key


_NOT_GYM = ("grpo",)

RULES = (
    Rule("nemo_rl.legacy_data_key", EVERY, legacy_keys, since="v0.6.0"),
    Rule("nemo_rl.training_set", EVERY, training_set, since="v0.6.0"),
    Rule("nemo_rl.effective_data", EVERY, effective_sets, since="v0.6.0"),
    Rule("nemo_rl.processor", ("sft", *GYM), processor, since="v0.6.0"),
    Rule("nemo_rl.environment_name", _NOT_GYM, environment_name, since="v0.6.0"),
    Rule("nemo_rl.split_validation", EVERY, split_validation, since="v0.6.0"),
    Rule("nemo_rl.enough_rows", EVERY, enough_rows),
    Rule("nemo_rl.steps", EVERY, steps),
)
