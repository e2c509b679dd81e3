"""Typed reading of a Megatron-Bridge config: None where a key is absent, null or of another type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SECTION = "train"


def trains(config: Mapping[str, Any]) -> bool:
    """Whether a config is one to train with; the other kind this engine takes converts a checkpoint."""
    return isinstance(config.get(SECTION), Mapping)


@dataclass(frozen=True)
class Values:
    """The values of one config, by dotted key. `???` counts as absent: planning tells of it."""

    data: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """The value at a key, `default` where it is absent or null."""
        node: Any = self.data
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return default if node is None or node == "???" else node

    def whole(self, key: str) -> int | None:
        """The integer at a key."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def size(self, key: str, default: int = 1) -> int:
        """The integer above zero at a key; `default` where there is none, whose type the contract tells."""
        value = self.whole(key)
        return value if value is not None and value > 0 else default

    def text(self, key: str) -> str | None:
        """The string at a key."""
        value = self.get(key)
        return value if isinstance(value, str) else None

    def on(self, key: str) -> bool:
        """Whether the switch at a key is true."""
        return self.get(key) is True

    @property
    def model_parallel(self) -> int:
        """GPUs that hold one copy of the model."""
        names = ("tensor_model", "pipeline_model", "context")
        product = 1
        for name in names:
            product *= self.size(f"model.{name}_parallel_size")
        return product

    def data_parallel(self, world: int) -> int | None:
        """Copies of the model on `world` GPUs; None where they do not divide."""
        return None if world % self.model_parallel else world // self.model_parallel

    @property
    def packed(self) -> bool:
        """Whether rows hold several conversations."""
        return (self.whole("dataset.packed_sequence_specs.packed_sequence_size") or 0) > 0

    @property
    def train_iters(self) -> int | None:
        """Optimizer steps of the whole training."""
        samples, batch = self.whole("train.train_samples"), self.size("train.global_batch_size")
        return self.whole("train.train_iters") if samples is None else samples // batch
