"""The Megatron-Bridge engine: fine-tunes and converts checkpoints with the framework in its container."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.engines.base import Shape, StepFacts
from nemotron.engines.megatron_bridge.contract import DEFAULT_IMAGE, contract_for_image
from nemotron.engines.megatron_bridge.numbers import number_findings
from nemotron.engines.megatron_bridge.placing import (
    data_rows,
    needed_shape,
    place_findings,
    placed_values,
    prefetch_commands,
    trainer_config,
)
from nemotron.engines.megatron_bridge.recipe_size import size_findings
from nemotron.engines.megatron_bridge.rules import Setting, check
from nemotron.engines.megatron_bridge.values import Values, trains
from nemotron.errors import UsageError
from nemotron.findings import Finding

# Keys of the steps that convert which only our own converters read, and why AutoBridge does not.
_OF_OURS = {
    "vocab_pad": "Megatron-Bridge pads by the config of the training",
    "shard_bytes": "AutoBridge writes files as it likes",
}


class MegatronBridgeEngine:
    """Starts the step's own script in the framework's container: under torchrun to train, once to convert."""

    name = "megatron_bridge"

    def why_not_here(self) -> str | None:
        """Megatron-Bridge has to be importable."""
        try:
            found = importlib.util.find_spec("megatron.bridge")
        except ModuleNotFoundError:
            found = None
        if found is not None and found.origin is not None:
            return None
        return "the Python package megatron.bridge is not installed here; it runs in NeMo's container"

    def version(self) -> str:
        """The framework is the image's; the image is part of the recipe."""
        return "of the image"

    def training_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Without our own sections."""
        return trainer_config(config)

    def check(self, config: Mapping[str, Any], step: StepFacts) -> tuple[Finding, ...]:
        """The contract of the image's release, then the sums; for a conversion what AutoBridge needs."""
        if not trains(config):
            return _conversion_findings(config)
        contract, found = contract_for_image(step.image or DEFAULT_IMAGE)
        mine = trainer_config(config)
        packed = step.facts.get("packed", {}).get("pack_size")
        setting = Setting(
            Values(mine),
            step.nodes * step.gpus_per_node,
            data_rows(step.rows),
            packed if isinstance(packed, int) else None,
        )
        wrong = tuple(number_findings(setting.values))
        # Sums of numbers that cannot be would say the same less clearly.
        sums = () if wrong else tuple(check(setting))
        return (*found, *contract.check(mine), *wrong, *sums, *size_findings(config, step))

    def check_arguments(
        self, config: Mapping[str, Any], step: StepFacts, arguments: Sequence[str]
    ) -> tuple[Finding, ...]:
        """None: `argv` refuses every argument."""
        return ()

    def notes(self, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """Sections and keys that other engines read."""
        found = [("embedded", "read by the embedded engine alone")] if "embedded" in config else []
        if not trains(config):
            ours = "origin" in config and config["origin"] is None
            by = "our own converter" if ours else "Megatron-Bridge's AutoBridge"
            found.append(("output", f"written by {by}, in the container"))
            found += [(key, why) for key, why in _OF_OURS.items() if not ours and config.get(key) is not None]
        return tuple(found)

    def argv(self, step: StepFacts, config: Mapping[str, Any], arguments: Sequence[str]) -> tuple[str, ...]:
        """The step's script. Raises UsageError: it takes no arguments."""
        if arguments:
            raise UsageError(
                f"the script takes no arguments, {arguments[0]!r} would do nothing",
                where="after --",
                next="set config keys: KEY=VALUE",
            )
        written = ("--config", "{run_dir}/config.yaml")
        if not trains(config):
            return (step.python, str(step.script), *written, "--with", self.name)
        processes = f"--nproc-per-node={max(1, step.gpus_per_node)}"
        return (step.python, "-m", "torch.distributed.run", processes, str(step.script), *written)

    def environment(self, config: Mapping[str, Any]) -> dict[str, str]:
        """What Megatron asks for: communication in the order of computation, and no fork of tokenizers."""
        found = {"PYTHONUNBUFFERED": "1"}
        if trains(config):
            found |= {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "TOKENIZERS_PARALLELISM": "false"}
        return found

    def checkpoint_layout(
        self, config: Mapping[str, Any], select: str, type_name: str
    ) -> tuple[str, str | None] | None:
        """The directory of all iterations is the artifact; its tracker names the newest."""
        return None

    def code(self, step: StepFacts) -> tuple[Path, ...]:
        """None of its own: the step's script and what that imports decide."""
        return ()

    def shape(
        self, step: StepFacts, config: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> Shape:
        """As the manifest says, in NeMo's image."""
        return needed_shape(step, config)

    def placed(
        self, config: Mapping[str, Any], *, seconds: int | None, save_before: int | None
    ) -> Mapping[str, Any]:
        """Where checkpoints and logs go, and when to save and leave."""
        return placed_values(config, seconds=seconds, save_before=save_before)

    def check_place(
        self,
        step: StepFacts,
        config: Mapping[str, Any],
        *,
        nodes: int,
        gpus_per_node: int,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[Finding, ...]:
        """One node for a conversion."""
        return place_findings(config, self.shape(step, config), nodes=nodes, gpus_per_node=gpus_per_node)

    def prefetch(self, config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
        """The config and the tokenizer that the recipe looks up on the hub."""
        return prefetch_commands(config, None) if trains(config) else ()

    def planned_steps(self, config: Mapping[str, Any], rows: Mapping[str, int]) -> int | None:
        """As the config says: data are gone through as often as that takes."""
        return Values(config).train_iters if trains(config) else None


def _conversion_findings(config: Mapping[str, Any]) -> tuple[Finding, ...]:
    if "origin" in config and config["origin"] is None:
        what = (
            "AutoBridge takes config, tokenizer and files of the result from the model that was trained, and "
            "origin is not bound: our own converter runs in its place"
        )
        valid = "-i origin=...; ours knows Llama, Mistral, Qwen2 and Qwen3"
        return (Finding("megatron_bridge.origin", "warning", what, where="origin", valid=valid),)
    return ()


ENGINE = MegatronBridgeEngine()
