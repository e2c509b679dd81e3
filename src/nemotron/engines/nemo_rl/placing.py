"""What a NeMo-RL config needs of the place it runs at, and what the place decides in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from nemotron.engines.base import Shape, StepFacts, place_findings
from nemotron.engines.nemo_rl.entry import entry_point_of, trainer_config
from nemotron.engines.nemo_rl.judge import judge_models
from nemotron.engines.nemo_rl.rules.genrm import judge_gpus
from nemotron.engines.nemo_rl.rules.view import View
from nemotron.findings import Finding

MUST_SAVE_BY = "checkpointing.checkpoint_must_save_by"
# Relative ones would lie below the framework's checkout, where its script runs.
DIRECTORIES = ("checkpointing.checkpoint_dir", "logger.log_dir")
_DEDICATED_HEAD = "DEDICATED_RAY_HEAD"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# The ports whose rows decide something, under the names of NeMo-RL's splits.
SPLITS = {"data": "train", "prompts": "train", "validation": "validation"}

# NeMo-RL's clock starts with the training loop: after Ray is up and the models are loaded, which takes
# a quarter of an hour for large ones. A tenth at most, so that a short allocation is not all margin.
_START_SECONDS = 900
_START_SHARE = 10


def needed_shape(step: StepFacts, config: Mapping[str, Any], environment: Mapping[str, str]) -> Shape:
    """Nodes as the allocation must have them; the manifest's where the config does not say."""
    view = _view(config)
    parts = []
    cluster = view.positive("cluster.num_nodes")
    if cluster is None:
        nodes, why_nodes = step.nodes, f"the manifest of {step.step}"
    else:
        parts.append(("cluster.num_nodes", cluster))
        judge = view.whole("env.nemo_gym.num_gpu_nodes") or 0 if view.entry_point == "grpo_nemo_gym" else 0
        parts += [("env.nemo_gym.num_gpu_nodes", judge)] if judge > 0 else []
        parts += [(f"{_DEDICATED_HEAD}=1", 1)] if environment.get(_DEDICATED_HEAD) == "1" else []
        nodes = sum(number for _, number in parts)
        why_nodes = " + ".join(f"{key} {number}" if "=" not in key else key for key, number in parts)
    each = view.positive("cluster.gpus_per_node")
    manifest = f"the manifest of {step.step}"
    return Shape(
        launch="ray",
        nodes=nodes,
        gpus_per_node=each or step.gpus_per_node,
        image=step.image,
        why={
            "launch": "NeMo-RL is a Ray driver",
            "nodes": why_nodes,
            "gpus_per_node": f"cluster.gpus_per_node {each}" if each else manifest,
            "image": manifest,
        },
    )


def placed_values(
    config: Mapping[str, Any], *, seconds: int | None, save_before: int | None
) -> dict[str, Any]:
    """Dotted keys that the place decides: absolute directories, the time to save by, scalars on disk."""
    view = _view(config)
    found: dict[str, Any] = {}
    for key in DIRECTORIES:
        written = view.text(key)
        if written is not None and not PurePosixPath(written).is_absolute():
            found[key] = f"{{run_dir}}/{PurePosixPath(written)}"
    if seconds is not None:
        start = min(_START_SECONDS, seconds // _START_SHARE)
        left = max(1, seconds - (save_before or 0) - start)
        asked = seconds_of(view.text(MUST_SAVE_BY))
        found[MUST_SAVE_BY] = clock(left if asked is None else min(left, asked))
    if not view.on("logger.tensorboard_enabled"):
        found["logger.tensorboard_enabled"] = True
        if not isinstance(view.get("logger.tensorboard"), Mapping):
            found["logger.tensorboard"] = {}
    return found


def place_problems(
    step: StepFacts,
    config: Mapping[str, Any],
    *,
    nodes: int,
    gpus_per_node: int,
    environment: Mapping[str, str],
) -> tuple[Finding, ...]:
    """Nodes that do not add up, GPUs a node that are not the config's, a judge that does not fit."""
    view, shape = _view(config), needed_shape(step, config, environment)
    found = list(place_findings(shape, nodes=nodes, gpus_per_node=max(gpus_per_node, shape.gpus_per_node)))
    if gpus_per_node == shape.gpus_per_node:
        return tuple(found)
    found.append(
        Finding(
            "place.gpus_per_node",
            "error",
            f"a node has {gpus_per_node} GPUs, the config is for {shape.gpus_per_node} "
            f"({shape.why['gpus_per_node']}): Ray would wait for them, or leave some unused",
            where="cluster.gpus_per_node",
            valid=str(gpus_per_node),
            fix=f"cluster.gpus_per_node={gpus_per_node}",
        )
    )
    return (*found, *_judge_there(view, gpus_per_node))


def prefetch_commands(config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """`hf download` of each model and data set that is named by a hub id.

    Registered data sets (`dataset_name: squad`) are left out: only NeMo-RL knows their ids. Its virtual
    environments are in the image.
    """
    view = _view(config)
    models = [("hf", "download", name) for name in dict.fromkeys(_hub_models(view))]
    sets = [("hf", "download", "--repo-type", "dataset", name) for name in dict.fromkeys(_hub_data(view))]
    return (*models, *sets)


def job_environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Variables of every NeMo-RL job.

    The image brings its virtual environments and says where they are; Gym's too (NEMO_GYM_VENV_DIR), which
    therefore is not set here: another directory would be empty.
    """
    return {
        "NRL_FORCE_REBUILD_VENVS": "false",
        "PYTHONUNBUFFERED": "1",
    }


def steps_to_do(config: Mapping[str, Any], rows: Mapping[str, int]) -> int | None:
    """`min(max_num_steps, epochs x whole batches)`; None where nothing limits the run that is known here."""
    view = _view(config)
    limits = []
    steps, epochs = (
        view.positive(view.of_algorithm("max_num_steps")),
        view.positive(view.of_algorithm("max_num_epochs")),
    )
    batch = view.positive(
        "grpo.num_prompts_per_step" if view.algorithm == "grpo" else "policy.train_global_batch_size"
    )
    known = next((n for port, n in rows.items() if SPLITS.get(port) == "train"), None)
    if steps:
        limits.append(steps)
    if epochs and batch and known is not None:
        limits.append(epochs * (known // batch))
    return min(limits) if limits else None


def weights_directory(config: Mapping[str, Any]) -> str:
    """Where in a `step_N` the artifact lies: the consolidated copy of a DTensor model where there is one."""
    view = _view(config)
    for section in ("checkpointing", "policy.dtensor_cfg"):  # the latter from v0.8 on
        consolidated = view.on(f"{section}.save_consolidated")
        if (
            view.backend == "dtensor"
            and consolidated
            and view.get(f"{section}.model_save_format") == "safetensors"
        ):
            return "policy/weights/model/consolidated"
    return "policy/weights"


def clock(seconds: int) -> str:
    """Seconds as NeMo-RL reads them: `DD:HH:MM:SS`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days:02d}:{hours:02d}:{minutes:02d}:{rest:02d}"


def seconds_of(text: str | None) -> int | None:
    """The seconds of a `DD:HH:MM:SS`; None for anything else."""
    parts = (text or "").split(":")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    days, hours, minutes, seconds = map(int, parts)
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _view(config: Mapping[str, Any]) -> View:
    mine = trainer_config(config)
    return View(entry_point_of(config), mine, {}, None, None)


def _judge_there(view: View, gpus_per_node: int) -> Iterator[Finding]:
    """A judge that fits on nodes as the config counts them, and not on these."""
    if list(judge_gpus(view)):
        return  # wrong anywhere: the preflight rules say so
    there = dict(view.data)
    there["cluster"] = {**view.table("cluster"), "gpus_per_node": gpus_per_node}
    for problem in judge_gpus(View(view.entry_point, there, {}, None, None)):
        yield Finding("place.judge_gpus", "error", problem.message, problem.where, problem.valid, problem.fix)


def _hub_models(view: View) -> Iterator[str]:
    """Models that are named by a hub id. What an input was bound to is fetched as that input is."""
    for name in (view.text("policy.model_name"), view.text("policy.tokenizer.name"), *judge_models(view)):
        if name and _HUB_ID.fullmatch(name):
            yield name


def _hub_data(view: View) -> Iterator[str]:
    """Data sets that are named by a hub id: NeMo-RL takes a path without a known suffix for one."""
    for split in ("train", "validation"):
        for _, table in view.data_sets(split):
            name = table.get("data_path")
            if isinstance(name, str) and _HUB_ID.fullmatch(name) and not PurePosixPath(name).suffix:
                yield name
