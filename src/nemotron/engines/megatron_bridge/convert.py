"""Converts checkpoints with Megatron-Bridge's AutoBridge; runs in the framework's container, once.

The results are written beside the target and take its name when they are whole. A Megatron checkpoint is
looked into by our own reader first: `.metadata` is a pickle, and torch's reader would run what is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemotron.artifacts.paths import printable
from nemotron.checkpoints.hf_files import require_directory
from nemotron.checkpoints.inspect_checkpoint import inspect_checkpoint
from nemotron.checkpoints.places import iteration_directory
from nemotron.checkpoints.whole import whole_directory
from nemotron.errors import CheckFailed, WorkFailed


def import_ckpt(source: Path, target: Path) -> str:
    """Write the Hugging Face model in `source` as a Megatron checkpoint; returns what was made, in words."""
    require_directory(source)
    bridge = _auto_bridge()
    with whole_directory(target, _bytes_of(source, "*.safetensors")) as place:
        bridge.import_ckpt(str(source), str(place))
    return _told(target)


def export_ckpt(source: Path, target: Path, origin: Path) -> str:
    """Write the newest iteration of a Megatron checkpoint as a Hugging Face model.

    origin: the model it was trained from, whose config and tokenizer the result gets.
    """
    require_whole(source)
    iteration = iteration_directory(source)
    require_directory(origin)
    bridge = _auto_bridge()
    with whole_directory(target, _bytes_of(iteration, "*.distcp")) as place:
        bridge.from_hf_pretrained(str(origin)).export_ckpt(str(iteration), str(place), show_progress=False)
    return _told(target)


def require_whole(source: Path) -> None:
    """Raises CheckFailed with what our own reader finds wrong with a checkpoint."""
    facts = inspect_checkpoint(source)
    if not facts.ok:
        wrong = [f for f in facts.findings if f.severity == "error"]
        what = f"no whole checkpoint: {wrong[0].message}"
        raise CheckFailed(what, where=printable(source), next=wrong[0].fix, findings=wrong)


def _auto_bridge() -> Any:
    try:
        from megatron.bridge import AutoBridge
    except ImportError as problem:
        what = f"Megatron-Bridge cannot be imported: {problem}"
        raise WorkFailed(what, next="run in NeMo's container, or take --engine script") from problem
    return AutoBridge


def _bytes_of(directory: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in directory.glob(pattern))


def _told(target: Path) -> str:
    facts = inspect_checkpoint(target)
    return f"{facts.tensors} tensors, {facts.parameters:,} parameters in {target}"
