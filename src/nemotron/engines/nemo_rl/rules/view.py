"""Typed reading of a config, and the GPU arithmetic that many rules share.

A rule asks for numbers and gets None where a key is missing or is no number: that is the contract's
to report, once, and the rule stays silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layout:
    """How the training GPUs are split.

    world: training GPUs. tp, cp, pp: tensor, context and pipeline parallel sizes.
    """

    backend: str
    world: int
    tp: int
    cp: int
    pp: int

    @property
    def model_parallel(self) -> int:
        """GPUs that hold one copy of the model."""
        return self.tp * self.cp * self.pp

    @property
    def data_parallel(self) -> int | None:
        """Copies of the model; None when the world does not divide."""
        fits = self.world >= self.model_parallel and self.world % self.model_parallel == 0
        return self.world // self.model_parallel if fits else None

    def spelled(self) -> str:
        """The factors, for a message: `tp 2 x cp 1 x pp 1 = 2`."""
        return f"tp {self.tp} x cp {self.cp} x pp {self.pp} = {self.model_parallel}"


@dataclass(frozen=True)
class View:
    """One config as the rules see it.

    rows: rows of the `train` and `validation` set, where known. nodes: nodes of the allocation, where
    known. environ: the environment the job will have, where known.
    """

    entry_point: str
    data: Mapping[str, Any]
    rows: Mapping[str, int]
    nodes: int | None
    environ: Mapping[str, str] | None

    @property
    def algorithm(self) -> str:
        """The section with the loop's settings: sft, rm, dpo or grpo."""
        return "grpo" if self.entry_point == "grpo_nemo_gym" else self.entry_point

    def get(self, key: str) -> Any:
        """The value at a dotted key; None where it is absent, null or not set (`???`)."""
        node: Any = self.data
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return None if node == "???" else node

    def has(self, key: str) -> bool:
        """Whether the key is written in the config, null included."""
        parent, _, name = key.rpartition(".")
        table = self.get(parent) if parent else self.data
        return isinstance(table, Mapping) and name in table

    def table(self, key: str) -> Mapping[str, Any]:
        """The table at a key; empty where there is none."""
        value = self.get(key)
        return value if isinstance(value, Mapping) else {}

    def whole(self, key: str) -> int | None:
        """The integer at a key; None where there is none."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def positive(self, key: str) -> int | None:
        """The integer at a key when it is above zero, so that it can be divided by."""
        value = self.whole(key)
        return value if value is not None and value > 0 else None

    def number(self, key: str) -> float | None:
        """The number at a key; None where there is none."""
        value = self.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def text(self, key: str) -> str | None:
        """The string at a key; None where there is none."""
        value = self.get(key)
        return value if isinstance(value, str) else None

    def on(self, key: str) -> bool:
        """Whether the switch at a key is true."""
        return self.get(key) is True

    def of_algorithm(self, name: str) -> str:
        """The dotted key of a setting of the loop: `grpo.val_period`."""
        return f"{self.algorithm}.{name}"

    @property
    def rollouts(self) -> int | None:
        """Rollouts a GRPO step makes: prompts times generations."""
        prompts = self.positive("grpo.num_prompts_per_step")
        generations = self.positive("grpo.num_generations_per_prompt")
        return prompts * generations if prompts and generations else None

    @property
    def batches_are_cut(self) -> bool:
        """Whether micro batches have a fixed number of samples (neither packing nor dynamic batching)."""
        return not (self.on("policy.sequence_packing.enabled") or self.on("policy.dynamic_batching.enabled"))

    @property
    def gpus(self) -> int | None:
        """GPUs of the cluster section; the judge's nodes are not among them."""
        each, nodes = self.positive("cluster.gpus_per_node"), self.positive("cluster.num_nodes")
        return each * nodes if each and nodes else None

    @property
    def generation_is_apart(self) -> bool:
        """Whether rollouts are generated on GPUs of their own."""
        return self.algorithm == "grpo" and self.get("policy.generation.colocated.enabled") is False

    @property
    def generation_gpus(self) -> int | None:
        """GPUs that generate rollouts; None where the config does not say."""
        if not self.generation_is_apart:
            return self.gpus
        resources = "policy.generation.colocated.resources"
        each, nodes = self.positive("cluster.gpus_per_node"), self.positive("cluster.num_nodes")
        if not each or not nodes:
            return None
        if nodes == 1:
            return self.positive(f"{resources}.gpus_per_node")
        theirs = self.positive(f"{resources}.num_nodes")
        return theirs * each if theirs else None

    @property
    def reward_model_gpus(self) -> int:
        """GPUs that a reward model environment takes from the cluster."""
        if not self.on("env.reward_model.enabled") or not self.generation_is_apart:
            return 0
        resources = "env.reward_model.resources"
        each = self.positive(f"{resources}.gpus_per_node") or 0
        return each * (self.positive(f"{resources}.num_nodes") or 1)

    @property
    def training_gpus(self) -> int | None:
        """GPUs the policy is trained on; None where the config does not say, or none are left."""
        if self.gpus is None or not self.generation_is_apart:
            return self.gpus
        if self.generation_gpus is None:
            return None
        left = self.gpus - self.generation_gpus - self.reward_model_gpus
        return left if left > 0 else None

    @property
    def backend(self) -> str | None:
        """megatron or dtensor; None unless exactly one is enabled."""
        enabled = [name for name in ("megatron", "dtensor") if self.on(f"policy.{name}_cfg.enabled")]
        return enabled[0] if len(enabled) == 1 else None

    @property
    def layout(self) -> Layout | None:
        """The split of the training GPUs; None where a part of it is not told."""
        world = self.training_gpus
        if world is None or self.backend is None:
            return None
        if self.backend == "megatron":
            names = ("tensor_model_parallel_size", "context_parallel_size", "pipeline_model_parallel_size")
            tp, cp, pp = (self.positive(f"policy.megatron_cfg.{name}") for name in names)
        else:
            tp = self.positive("policy.dtensor_cfg.tensor_parallel_size")
            cp = self.positive("policy.dtensor_cfg.context_parallel_size")
            pp = 1
        return Layout(self.backend, world, tp, cp, pp) if tp and cp and pp else None

    @property
    def copies(self) -> int | None:
        """Data parallel size of training; None where the layout is not told or does not fit."""
        return self.layout.data_parallel if self.layout else None

    def data_sets(self, split: str) -> list[tuple[str, dict[str, Any]]]:
        """(dotted key, effective table) of each data set of `train` or `validation`.

        A list of tables is allowed; `data.default` fills keys that are absent (null counts as
        present). A table whose `data_path` is null and that names no registered set is no data set:
        it is an optional input that nothing was bound to.
        """
        value = self.get(f"data.{split}")
        tables = value if isinstance(value, list) else [value]
        found = []
        for i, table in enumerate(tables):
            if isinstance(table, Mapping) and not unbound(table):
                key = f"data.{split}.{i}" if isinstance(value, list) else f"data.{split}"
                found.append((key, {**self.table("data.default"), **table}))
        return found


def unbound(table: Mapping[str, Any]) -> bool:
    """Whether a data set table is an input that nothing was bound to: a `data_path` of null."""
    return "data_path" in table and table["data_path"] is None
