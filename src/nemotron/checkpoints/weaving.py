"""Which tensors Megatron and Hugging Face each keep for a model, and how the rows of the one make the other.

Megatron stacks a layer's tensors of one kind on a first dimension, and weaves some into one: queries, keys
and values group by group, gate and up one after the other. Every one of these is an order of whole rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from nemotron.checkpoints.families import Model
from nemotron.errors import CheckFailed

EMBEDDING = "embedding.word_embeddings.weight"
HEAD = "output_layer.weight"
HF_EMBEDDING, HF_HEAD = "model.embed_tokens.weight", "lm_head.weight"
_LAYER = "decoder.layers."
_ATTENTION, _MLP = f"{_LAYER}self_attention.", f"{_LAYER}mlp."
_HF = "model.layers.{}."
# Transformer Engine asks for one of these objects for each of its modules, some versions for more of them.
_STATEFUL = (
    *(f"{_ATTENTION}{name}" for name in ("linear_qkv", "linear_proj", "core_attention")),
    *(f"{_MLP}{name}" for name in ("linear_fc1", "linear_fc2")),
)
_STATEFUL_NORMS = (f"{_ATTENTION}q_layernorm", f"{_ATTENTION}k_layernorm")


class Run(NamedTuple):
    """Rows of one Hugging Face tensor that follow each other in both."""

    tensor: str
    first: int
    rows: int


@dataclass(frozen=True)
class Weave:
    """One Megatron tensor, and the Hugging Face tensors that it is woven of.

    parts: name (with `{}` for the layer) and rows in each group. columns: None for a vector. layers: None
    when it is not stacked. pieces: chunks that a layer is stored in, one a part or one in all.
    """

    key: str
    parts: tuple[tuple[str, int], ...]
    columns: int | None
    layers: int | None
    groups: int = 1
    pieces: int = 1

    @property
    def rows(self) -> int:
        """Rows of one layer."""
        return self.groups * sum(rows for _, rows in self.parts)

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """The shape of one layer."""
        return (self.rows,) if self.columns is None else (self.rows, self.columns)

    def layer_numbers(self) -> range:
        """The layers it has, one of them when it is not stacked."""
        return range(1 if self.layers is None else self.layers)

    def sources(self, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The Hugging Face tensors of a layer with their shapes."""
        for name, rows in self.parts:
            shape = (rows * self.groups,)
            yield name.format(layer), shape if self.columns is None else (*shape, self.columns)

    def runs(self, layer: int) -> Iterator[Run]:
        """The rows of a layer, in the order in which Megatron has them."""
        for group in range(self.groups):
            for name, rows in self.parts:
                yield Run(name.format(layer), group * rows, rows)

    def chunks(self, layer: int) -> Iterator[tuple[int, int, tuple[Run, ...]]]:
        """What is stored of a layer: first row, number of rows, and what they are made of."""
        runs = tuple(self.runs(layer))
        if self.pieces == 1:
            yield 0, self.rows, runs
            return
        first = 0
        for run in runs:
            yield first, run.rows, (run,)
            first += run.rows


def require_layers(model: Model, most: int, where: str) -> None:
    """Raises CheckFailed for a config with more layers than the files can hold, before any is looked for.

    most: layers that there can be at most. A config is a few bytes, and names of two billion layers are not.
    """
    if model.layers > most:
        what = f"num_hidden_layers is {model.layers:,}, and there are tensors for {most:,} layers at most"
        raise CheckFailed(what, where=where, next="copy or save the checkpoint again")


def weaves_of(model: Model) -> tuple[Weave, ...]:
    """All tensors of a model, in the order in which it uses them."""
    layers, hidden, size = model.layers, model.hidden, model.head_dim
    attention, mlp = f"{_HF}self_attn.", f"{_HF}mlp."
    queries = model.heads // model.groups * size

    def qkv(kind: str) -> tuple[tuple[str, int], ...]:
        return tuple(
            (f"{attention}{n}_proj.{kind}", r) for n, r in (("q", queries), ("k", size), ("v", size))
        )

    def plain(key: str, name: str, rows: int, columns: int | None) -> Weave:
        return Weave(key, ((name, rows),), columns, layers)

    stacked = [
        plain(f"{_ATTENTION}linear_qkv.layer_norm_weight", f"{_HF}input_layernorm.weight", hidden, None),
        Weave(f"{_ATTENTION}linear_qkv.weight", qkv("weight"), hidden, layers, model.groups),
    ]
    if model.qkv_bias:
        stacked.append(Weave(f"{_ATTENTION}linear_qkv.bias", qkv("bias"), None, layers, model.groups))
    if model.qk_norm:
        for name in ("q", "k"):
            key = f"{_ATTENTION}{name}_layernorm.weight"
            stacked.append(plain(key, f"{attention}{name}_norm.weight", size, None))
    gate_up = ((f"{mlp}gate_proj.weight", model.ffn), (f"{mlp}up_proj.weight", model.ffn))
    norm = f"{_HF}post_attention_layernorm.weight"
    stacked += [
        plain(f"{_ATTENTION}linear_proj.weight", f"{attention}o_proj.weight", hidden, model.heads * size),
        plain(f"{_MLP}linear_fc1.layer_norm_weight", norm, hidden, None),
        Weave(f"{_MLP}linear_fc1.weight", gate_up, hidden, layers, pieces=2),
        plain(f"{_MLP}linear_fc2.weight", f"{mlp}down_proj.weight", hidden, model.ffn),
    ]
    last = [Weave("decoder.final_layernorm.weight", (("model.norm.weight", hidden),), None, None)]
    if not model.tied:
        last.append(Weave(HEAD, ((HF_HEAD, model.vocab),), hidden, None))
    first = Weave(EMBEDDING, ((HF_EMBEDDING, model.vocab),), hidden, None)
    return (first, *stacked, *last)


def extra_states(model: Model) -> Iterator[str]:
    """The keys of the objects that Megatron looks for beside the tensors, for any of its versions."""
    modules = (*_STATEFUL, *(_STATEFUL_NORMS if model.qk_norm else ()))
    for module in modules:
        for layer in range(model.layers):
            yield f"{module}._extra_state/shard_{layer}_{model.layers}"
    yield "decoder.final_layernorm._extra_state/shard_0_1"
