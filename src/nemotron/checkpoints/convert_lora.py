"""A LoRA adapter of peft merged into its base model; needs torch, and holds one tensor at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron.artifacts.checks.model import ADAPTER_CONFIG, CONFIG
from nemotron.artifacts.checks.weights import ADAPTER
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.converted import Converted, Counter, Progress
from nemotron.checkpoints.dcp_read import BUFFER
from nemotron.checkpoints.hf_files import (
    GENERATION_CONFIG,
    HfTensor,
    HfWeights,
    SafetensorsWriter,
    copy_small,
    read_weights,
    tokenizer_files,
)
from nemotron.checkpoints.torch_files import DTYPES
from nemotron.checkpoints.whole import ReadFiles, whole_directory, write_synced
from nemotron.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 5_000_000_000
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
# Each changes more than adding B times A to a weight does, or adds it elsewhere.
_REFUSED = (
    *("use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "trainable_token_indices"),
    *("alora_invocation_tokens", "use_qalora", "layer_replication", "target_parameters", "use_bdlora"),
    *("arrow_config", "kasa_config", "velora_config", "monteclora_config"),
)
# Others take what they begin with out of the base's weights.
_INITS = (True, False, None, "gaussian", "eva")
_SHOWN = 5


@dataclass(frozen=True)
class _Pair:
    """The two factors that are added to one weight."""

    down: HfTensor
    up: HfTensor
    scaling: float


def merge_lora(
    base: Path,
    adapter: Path,
    target: Path,
    *,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Converted:
    """Write `base` with `adapter` added to its weights as a Hugging Face directory to `target`.

    The result is, bit for bit, what peft's `merge_and_unload` makes on the CPU. The tokenizer is the
    adapter's where it has one. Raises CheckFailed, naming what is at fault, for adapters that are more than
    LoRA on linear layers and for those that do not fit the base. Other errors: as `hf_to_megatron`.
    """
    if shard_bytes < 1:
        raise UsageError(f"shard_bytes is {shard_bytes}, not a whole number above 0", where="shard_bytes")
    weights, added = read_weights(base), read_weights(adapter, ADAPTER)
    _require_plain(added.config, printable(adapter / ADAPTER_CONFIG))
    pairs = _pairs(added, weights)
    tensors = {t.name: (t.dtype, t.shape) for t in weights.tensors.values()}
    counter = Counter(weights.bytes, progress)
    with whole_directory(target, weights.bytes) as root:
        with ReadFiles() as files, SafetensorsWriter(root, tensors, shard_bytes) as writer:
            for tensor in weights.tensors.values():
                if tensor.name in pairs:
                    writer.write(tensor.name, 0, _merged(files, tensor, pairs[tensor.name]))
                    counter.add(tensor.bytes)
                else:
                    _copy(files, tensor, writer, counter)
        _write_small(weights, adapter, root)
    parameters = sum(math.prod(shape) for _, shape in tensors.values())
    note = f"{len(pairs)} weights changed"
    return Converted(target, len(tensors), parameters, weights.bytes, (note,))


def _require_plain(config: Mapping[str, Any], where: str) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckFailed(
            f"an adapter of type {str(kind)[:40]!r} cannot be merged", where=where, valid=("LORA",)
        )
    wrong = [key for key in _REFUSED if config.get(key)]
    if config.get("bias", "none") != "none":
        wrong.append("bias")
    if config.get("init_lora_weights", True) not in _INITS:
        wrong.append("init_lora_weights")
    if wrong:
        listed = ", ".join(f"{key} = {str(config[key])[:40]}" for key in wrong)
        raise CheckFailed(
            f"an adapter with {listed} cannot be merged here", where=where, next="merge it with peft"
        )


def _pairs(added: HfWeights, base: HfWeights) -> dict[str, _Pair]:
    """Name of a weight of the base to what is added to it."""
    where = printable(added.path)
    halves: dict[str, dict[str, HfTensor]] = {}
    unknown = []
    for name, tensor in added.tensors.items():
        found = _KEY.fullmatch(name)
        if found is None or tensor.dtype not in DTYPES:
            unknown.append(name)
        else:
            halves.setdefault(found[1], {})[found[2]] = tensor
    if unknown:
        listed = ", ".join(sorted(unknown)[:_SHOWN])
        what = f"{len(unknown)} tensors that are no LoRA of a linear layer: {listed}"
        raise CheckFailed(what, where=where, next="merge it with peft")
    foreign = sorted(module for module in halves if f"{module}.weight" not in base.tensors)
    if foreign:
        what = f"{len(foreign)} modules that the base has not: {', '.join(foreign[:_SHOWN])}"
        told = added.config.get("base_model_name_or_path")
        raise CheckFailed(
            what, where=where, next=f"merge it into the model it was trained on: {str(told)[:200]}"
        )
    pairs = {}
    for module, each in halves.items():
        weight = base.tensors[f"{module}.weight"]
        pairs[weight.name] = _pair(module, each, weight, added)
    return pairs


def _pair(module: str, halves: Mapping[str, HfTensor], weight: HfTensor, added: HfWeights) -> _Pair:
    where = printable(added.path)
    if len(halves) != 2:
        raise CheckFailed(f"{module} has one of lora_A and lora_B, not both", where=where)
    down, up = halves["A"], halves["B"]
    shapes = len(down.shape) == 2 and len(up.shape) == 2 and down.shape[0] == up.shape[1] > 0
    if not shapes or weight.shape != (up.shape[0], down.shape[1]) or weight.dtype not in DTYPES:
        what = f"lora_A {down.shape} and lora_B {up.shape} of {module} do not fit {weight.shape}"
        raise CheckFailed(what, where=where)
    rank = down.shape[0]
    alpha = _alpha(added.config, module, where)
    return _Pair(down, up, alpha / math.sqrt(rank) if added.config.get("use_rslora") else alpha / rank)


def _alpha(config: Mapping[str, Any], module: str, where: str) -> float:
    """`lora_alpha`, or what the first pattern that fits the end of the module's name says instead."""
    alpha = config.get("lora_alpha", 8)
    patterns = config.get("alpha_pattern") or {}
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as problem:
            what = f"alpha_pattern {pattern[:40]!r} is no pattern: {problem}"
            raise CheckFailed(what, where=f"{where}/{ADAPTER_CONFIG}") from problem
        if found:
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckFailed(
            f"lora_alpha is {str(alpha)[:40]!r}, not a number", where=f"{where}/{ADAPTER_CONFIG}"
        )
    return alpha


def _merged(files: ReadFiles, weight: HfTensor, pair: _Pair) -> memoryview:
    """The bytes of a weight to which its pair was added, with the arithmetic of peft on the CPU."""
    import torch

    # peft loads adapters of 16 bits as 32, multiplies there, and rounds once, when it adds.
    down, up = (
        _load(files, half).to(torch.promote_types(torch.float32, _torch(half)))
        for half in (pair.down, pair.up)
    )
    held = _load(files, weight)
    held += (up @ down) * pair.scaling
    return memoryview(held.view(torch.uint8).numpy().data).cast("B")


def _torch(tensor: HfTensor) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, DTYPES[tensor.dtype][0])
    return found


def _load(files: ReadFiles, tensor: HfTensor) -> torch.Tensor:
    import torch

    data = bytearray(tensor.bytes)
    files.read(tensor.file, tensor.start, memoryview(data))
    return torch.frombuffer(data, dtype=_torch(tensor)).reshape(tensor.shape)


def _copy(files: ReadFiles, tensor: HfTensor, writer: SafetensorsWriter, counter: Counter) -> None:
    buffer = memoryview(bytearray(min(BUFFER, tensor.bytes)))
    for at in range(0, tensor.bytes, BUFFER):
        view = buffer[: min(BUFFER, tensor.bytes - at)]
        files.read(tensor.file, tensor.start + at, view)
        writer.write(tensor.name, at, view)
        counter.add(len(view))


def _write_small(weights: HfWeights, adapter: Path, root: Path) -> None:
    """Tokenizer, generation config, and last the config, which makes the directory a model."""
    names = {file.name for file in tokenizer_files(adapter)}
    whole = names & {"tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json"}
    place = adapter if whole else weights.path
    copy_small(tokenizer_files(place), place, root)
    if GENERATION_CONFIG in weights.names:
        copy_small((weights.path / GENERATION_CONFIG,), weights.path, root)
    write_synced(root / CONFIG, (weights.path / CONFIG).read_bytes())
