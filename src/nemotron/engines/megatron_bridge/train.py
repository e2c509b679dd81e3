"""Fine-tunes with Megatron-Bridge; runs in the framework's container, once for each GPU under torchrun.

The recipe that the config names makes a ConfigContainer, the config's sections go on top of it, and
`finetune` does the rest.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.failure_word import failed
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.places import RUN_CONFIG, TOKENIZER, TRACKER, iteration_directory
from nemotron.engines.megatron_bridge.convert import require_whole
from nemotron.errors import CheckFailed, NemotronError, UsageError, WorkFailed

_RECIPES = "megatron.bridge.recipes."
# Fields that a recipe's model and a checkpoint must have in common for the one to be loaded into the other.
SHAPE = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups"),
    *("kv_channels", "num_moe_experts", "share_embeddings_and_output_weights"),
)
# For one process to prepare data that the others then read.
_PATIENCE_SECONDS = 3600
# Between the start of an allocation and that of the framework's clock, and some more.
_START_SECONDS = 900


def main() -> int:
    """Train what the config names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    path: Path = parser.parse_args().config
    try:
        import yaml

        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        train(config, path.resolve().parent)
    except NemotronError as problem:
        return failed(problem)
    return 0


def train(config: Mapping[str, Any], directory: Path) -> None:
    """Fine-tune to the end, or until the time is up. directory: of the run, for data that are prepared."""
    checkpoint = Path(config["checkpoint"]["pretrained_checkpoint"])
    require_whole(checkpoint)
    iteration = iteration_directory(checkpoint)
    config = with_data(config, directory)
    config = with_tokenizer(config, iteration)
    made = container(config, iteration)
    from megatron.bridge.training.finetune import finetune
    from megatron.bridge.training.gpt_step import forward_step

    try:
        finetune(config=made, forward_step_func=forward_step)
    except SystemExit as left:  # how it leaves when its time is up
        if left.code not in (None, 0):
            raise
    saved, wanted = saved_iteration(Path(config["checkpoint"]["save"])), made.train.train_iters
    if saved < wanted:
        wait_for_the_end(saved, wanted, patience(directory))


def container(config: Mapping[str, Any], iteration: Path) -> Any:
    """The ConfigContainer of the recipe, with the config's sections on top.

    Raises UsageError for a recipe that there is not, CheckFailed where it is for another model than the one
    in `iteration`.
    """
    made = _recipe(config["recipe"]["_target_"])()
    differences = shape_differences(made.model, iteration)
    if differences:
        what = f"the recipe is for another model than the checkpoint: {'; '.join(differences)}"
        raise CheckFailed(what, where=printable(iteration / RUN_CONFIG), next="recipe._target_=...")
    made.dataset = _dataset(config["dataset"])
    rest = {name: value for name, value in config.items() if name not in ("recipe", "dataset", "peft")}
    made.peft = None
    import yaml
    from megatron.bridge.training.utils.omegaconf_utils import process_config_with_overrides

    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(rest, file)
        file.flush()
        return process_config_with_overrides(made, config_filepath=file.name)


def _recipe(target: str) -> Callable[[], Any]:
    """The recipe of a dotted name; nothing else in the world may be called by a config."""
    module, _, name = target.rpartition(".")
    if not target.startswith(_RECIPES) or not name.endswith("_config"):
        raise UsageError(f"{target} is no recipe", where="recipe._target_", valid=(f"{_RECIPES}...",))
    try:
        found: Callable[[], Any] | None = getattr(importlib.import_module(module), name, None)
    except ImportError as problem:
        if isinstance(problem, ModuleNotFoundError) and problem.name == module:
            found = None
        else:
            raise WorkFailed(f"Megatron-Bridge cannot be imported: {problem}") from problem
    if found is None:
        raise UsageError(f"this Megatron-Bridge has no recipe {target}", where="recipe._target_")
    return found


def _dataset(section: Mapping[str, Any]) -> Any:
    from megatron.bridge.data.datasets.packed_sequence import PackedSequenceSpecs
    from megatron.bridge.training.config import FinetuningDatasetConfig

    fields = dict(section)
    specs = fields.pop("packed_sequence_specs", None)
    packed = PackedSequenceSpecs(**specs) if specs is not None else None
    return FinetuningDatasetConfig(**fields, packed_sequence_specs=packed)


def shape_differences(model: Any, iteration: Path) -> list[str]:
    """What differs between a recipe's model and the one that the checkpoint's run config describes."""
    import yaml

    file = iteration / RUN_CONFIG
    try:
        described = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]
        fields = {name: described[name] for name in SHAPE if described.get(name) is not None}
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return []  # not of Megatron-Bridge, or with tags that are not read: loading will tell
    return [
        f"{name} {getattr(model, name)} and {value}"
        for name, value in fields.items()
        if getattr(model, name, None) is not None and getattr(model, name) != value
    ]


def with_tokenizer(config: Mapping[str, Any], iteration: Path) -> dict[str, Any]:
    """The config with the checkpoint's own tokenizer, where it names none."""
    section = dict(config.get("tokenizer") or {})
    if section.get("tokenizer_model") is None:
        inside = iteration / TOKENIZER
        if not inside.is_dir():
            what = "the checkpoint brings no tokenizer, and the config names none"
            raise CheckFailed(what, where="tokenizer.tokenizer_model", next="tokenizer.tokenizer_model=PATH")
        section |= {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": str(inside)}
    return {**config, "tokenizer": section}


def with_data(config: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The config with data as Megatron-Bridge looks for them.

    A file of conversations gets the name that is looked for. The first process does it, the others wait.
    """
    section: dict[str, Any] = dict(config["dataset"])
    here = directory / "dataset"
    _first_alone(here / ".prepared", lambda: _prepare(section, here))
    given = section.get("dataset_root")
    if given is None or Path(given).is_file():
        section["dataset_root"] = str(here)
    return {**config, "dataset": section}


def _prepare(section: Mapping[str, Any], here: Path) -> None:
    here.mkdir(exist_ok=True)
    given = section.get("dataset_root")
    link = here / "training.jsonl"
    if given is not None and Path(given).is_file() and not link.is_symlink():
        link.symlink_to(Path(given).resolve())


def _first_alone(mark: Path, work: Callable[[], None]) -> None:
    """Let the first process do some work, and the others wait until it has. mark: a file that says so."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "") + os.environ.get("MASTER_PORT", "")
    done = mark.with_name(f"{mark.name}-{run or os.getpid()}")
    if int(os.environ.get("RANK", "0")) == 0:
        work()
        done.touch()
        return
    end = time.monotonic() + _PATIENCE_SECONDS
    while not done.exists():
        if time.monotonic() > end:
            raise WorkFailed("the first process has not prepared the data", where=printable(done.parent))
        time.sleep(1)


def saved_iteration(save: Path) -> int:
    """The iteration that the newest whole checkpoint is of, 0 without any."""
    try:
        return int((save / TRACKER).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return 0


def patience(directory: Path) -> int:
    """Seconds that a run's allocation may have left when its training leaves in time; 0 without an end."""
    import json

    try:
        plan = json.loads((directory / "plan.json").read_text(encoding="utf-8"))
        left = plan["placement"]["save_before"]
    except (OSError, ValueError, LookupError, TypeError):
        left = None
    return int(left) + _START_SECONDS if isinstance(left, int) else 0


def wait_for_the_end(saved: int, wanted: int, seconds: int) -> None:
    """Stay until the allocation ends: leaving now would look as if the work were done.

    Raises WorkFailed where nobody ends it within so many seconds.
    """
    if seconds:
        print(f"iteration {saved} of {wanted} is saved; waiting for the end of the allocation", flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(seconds)
    raise WorkFailed(f"it left at iteration {saved} of {wanted}", next="the same command goes on")
