"""Which inputs of a step must agree about the model: what its manifest says, else what their types say."""

from __future__ import annotations

from collections.abc import Sequence

from nemotron.catalog.discover import Catalog
from nemotron.catalog.step import MODEL_TYPES, RELATION_TYPES, Port, Step
from nemotron.catalog.types import TypeGraph
from nemotron.planning.plan import Edge, PlannedInput
from nemotron.planning.words import shell_words

# Where a manifest says nothing, these types tell it: what is tokenized, and what adapts.
_INFERRED = {"packed_parquet": "same_template_as", "checkpoint_lora": "adapts"}


def model_edges(
    catalog: Catalog, step: Step, engine: str, inputs: Sequence[PlannedInput]
) -> tuple[Edge, ...]:
    """Every two inputs that must agree, as far as both are bound.

    A port that says nothing of others has an edge all the same where its type leaves no doubt: packed data,
    or an adapter, beside exactly one model that is no judge.
    """
    graph = catalog.types_of(step)
    bound = {i.port: i for i in inputs if i.state not in ("unbound", "missing")}
    ports = [p for p in step.inputs(engine) if p.name in bound]
    found = []
    for port in ports:
        for relation, other in port.relations() or _inferred(bound[port.name], ports, graph):
            ends = (bound[port.name], bound.get(other))
            if ends[1] is not None and _speaks(relation, ends[0], ends[1], graph):
                fix = _fix(catalog, relation, port, ends[1])
                found.append(Edge(relation, port.name, other, fix))
    return tuple(found)


def _inferred(each: PlannedInput, ports: Sequence[Port], graph: TypeGraph) -> tuple[tuple[str, str], ...]:
    models = [p.name for p in ports if any(t in MODEL_TYPES for t in p.type)]
    relations = [
        relation
        for special, relation in _INFERRED.items()
        if any(graph.is_a(have, special) for have in _types(each))
    ]
    return ((relations[0], models[0]),) if len(models) == 1 and relations else ()


def _speaks(relation: str, one: PlannedInput, other: PlannedInput, graph: TypeGraph) -> bool:
    """Whether what is bound can tell: conversations as text agree with every model."""
    return all(
        any(graph.is_a(have, want) for have in _types(end) for want in wanted)
        for end, wanted in zip((one, other), RELATION_TYPES[relation], strict=True)
    )


def _types(each: PlannedInput) -> tuple[str, ...]:
    return (each.type,) if each.type else each.types


def _fix(catalog: Catalog, relation: str, port: Port, other: PlannedInput) -> str | None:
    """The command that mends a disagreement; None where only the adapter's own base can tell."""
    reference = str(other.reference)
    if relation == "adapts":
        return None
    if "packed_parquet" in port.type:
        return _pack_again(catalog, port, other.port, reference)
    if (other.type or other.types[0]) in port.type:
        return shell_words(["-i", f"{port.name}={reference}"])
    return f"give a model with the tokenizer of {reference}: -i {port.name}=PATH"


def _pack_again(catalog: Catalog, port: Port, model: str, reference: str) -> str:
    """The step that packs for a model, with that model as its input."""
    for step in catalog.producers_of("packed_parquet"):
        for taken in step.inputs():
            if any(t in MODEL_TYPES for t in taken.type):
                command = shell_words(
                    ["nemotron", "steps", "run", step.id, "-i", f"{taken.name}={reference}"]
                )
                return f"{command}, then: -i {port.name}=run://RUN"
    return f"pack it again with the tokenizer and chat template of {model} ({reference})"
