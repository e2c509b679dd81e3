"""Whether inputs that share tokens, a chat template or weights are of the same model.

Policy and reference, packed data and what is trained on it, adapter and base: training goes on without a
word when they disagree, and its result is worthless. What is compared are facts of checked artifacts; a
judge that reads and writes text may have any tokenizer and is on no edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from nemotron.artifacts.checks.report import shown
from nemotron.artifacts.runs import digest_tail
from nemotron.errors import CheckFailed
from nemotron.findings import Finding, errors_in
from nemotron.planning.adapter_base import base_findings
from nemotron.planning.plan import Edge, Plan, PlannedInput
from nemotron.planning.preflight import waive

# Not the padding token: it is masked, and a trainer may well have set it.
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token")

Found = list[Finding]
Check = Callable[[Edge, PlannedInput, PlannedInput, Mapping[str, str]], Found]


def identity_findings(
    edges: Sequence[Edge], inputs: Sequence[PlannedInput], environ: Mapping[str, str]
) -> Found:
    """What disagrees along the edges whose two inputs are pinned.

    environ: says where the memory of digests is, for the base model that an adapter names.
    """
    pinned = {i.port: i for i in inputs if i.state == "pinned"}
    found = []
    for edge in edges:
        one, other = pinned.get(edge.port), pinned.get(edge.other)
        if one is not None and other is not None and one.digest != other.digest:
            found += _CHECKS[edge.relation](edge, one, other, environ)
    return found


def findings_to_come(edges: Sequence[Edge], inputs: Sequence[PlannedInput]) -> frozenset[str]:
    """Ids of what `identity_findings` may find once inputs are pinned that are to be built or fetched."""
    waiting = {i.port for i in inputs if i.state in ("to_build", "late")}
    return frozenset(
        name for edge in edges if {edge.port, edge.other} & waiting for name in _IDS[edge.relation]
    )


def recheck(before: Plan, plan: Plan, environ: Mapping[str, str]) -> Plan:
    """`plan`, whose inputs are `before`'s with more of them pinned, with what these inputs make known.

    Raises CheckFailed for a disagreement that the plan does not waive.
    """
    waiting = {i.port for i in before.inputs if i.state != "pinned"}
    edges = [edge for edge in plan.edges if {edge.port, edge.other} & waiting]
    fresh = identity_findings(edges, plan.inputs, environ)
    found = waive(fresh, plan.waived, later=plan.waived)
    errors = errors_in(found)
    if errors:
        count = "1 finding stops" if len(errors) == 1 else f"{len(errors)} findings stop"
        raise CheckFailed(f"{count} the launch", where=plan.recipe.step, findings=errors)
    return replace(plan, findings=(*plan.findings, *found))


def _same_tokens(edge: Edge, one: PlannedInput, other: PlannedInput, environ: Mapping[str, str]) -> Found:
    return [*_tokenizer(edge, one, other), *_vocabulary(edge, one, other), *_special_tokens(edge, one, other)]


def _same_template(edge: Edge, one: PlannedInput, other: PlannedInput, environ: Mapping[str, str]) -> Found:
    return [*_tokenizer(edge, one, other), *_template(edge, one, other)]


def _adapts(edge: Edge, one: PlannedInput, other: PlannedInput, environ: Mapping[str, str]) -> Found:
    return base_findings(one, other, environ)


def _tokenizer(edge: Edge, one: PlannedInput, other: PlannedInput) -> Found:
    mine, theirs = _text(one, "tokenizer_digest"), _text(other, "tokenizer_digest")
    if mine is None or theirs is None:
        who = f"neither input {one.port} nor {other.port} tells its tokenizer"
        if mine is not None or theirs is not None:
            who = f"input {(one if mine is None else other).port} does not tell its tokenizer"
        what = f"{who}: whether both have the same one is not known"
        return [_finding("model.tokenizer_unknown", "warning", what, edge, one, other)]
    if mine == theirs:
        return []
    kinds = [_text(i, "tokenizer") for i in (one, other)]
    if None not in kinds and kinds[0] != kinds[1]:
        what = (
            f"input {one.port} has its tokenizer in {kinds[0]}, {other.port} in {kinds[1]}: "
            "whether both are the same is not known"
        )
        return [_finding("model.tokenizer_unknown", "warning", what, edge, one, other)]
    how = "was tokenized by" if one.type == "packed_parquet" else "has"
    what = f"input {one.port} {how} the tokenizer {_short(mine)}, {other.port} has {_short(theirs)}"
    return [_finding("model.tokenizer_differs", "error", what, edge, one, other)]


def _vocabulary(edge: Edge, one: PlannedInput, other: PlannedInput) -> Found:
    # Megatron pads the embeddings to a multiple of its parallel sizes.
    if "checkpoint_megatron" in (one.type, other.type):
        return []
    mine, theirs = one.facts.get("vocab_size"), other.facts.get("vocab_size")
    if not isinstance(mine, int) or not isinstance(theirs, int) or mine == theirs:
        return []
    what = f"input {one.port} has a vocabulary of {mine} tokens, {other.port} one of {theirs}"
    return [_finding("model.vocabulary_differs", "error", what, edge, one, other)]


def _special_tokens(edge: Edge, one: PlannedInput, other: PlannedInput) -> Found:
    mine, theirs = one.facts.get("special_tokens") or {}, other.facts.get("special_tokens") or {}
    differing = [
        f"{name} {shown(mine[name])} against {shown(theirs[name])}"
        for name in _SPECIAL_TOKENS
        if name in mine and name in theirs and mine[name] != theirs[name]
    ]
    if not differing:
        return []
    what = f"input {one.port} has other special tokens than {other.port}: {', '.join(differing)}"
    return [_finding("model.special_tokens_differ", "error", what, edge, one, other)]


def _template(edge: Edge, one: PlannedInput, other: PlannedInput) -> Found:
    mine, theirs = _text(one, "chat_template_digest"), _text(other, "chat_template_digest")
    if mine == theirs:
        return []
    how = "was rendered by" if one.type == "packed_parquet" else "has"
    if mine is None:
        if _text(one, "tokenizer_digest") is None:
            return []  # it tells nothing at all, and that has been said
        what = f"input {one.port} does not tell its chat template, {other.port} has {_short(theirs)}"
        return [_finding("model.chat_template_unknown", "warning", what, edge, one, other)]
    if theirs is None:
        what = f"input {one.port} {how} the chat template {_short(mine)}, {other.port} has none to compare"
        return [_finding("model.chat_template_unknown", "warning", what, edge, one, other)]
    what = f"input {one.port} {how} the chat template {_short(mine)}, {other.port} has {_short(theirs)}"
    return [_finding("model.chat_template_differs", "error", what, edge, one, other)]


def _finding(
    check: str, severity: str, what: str, edge: Edge, one: PlannedInput, other: PlannedInput
) -> Finding:
    valid = f"those of {other.port}, {other.reference}"
    return Finding(check, severity, what, where=one.key or one.port, valid=valid, fix=edge.fix)


def _text(each: PlannedInput, fact: str) -> str | None:
    value = each.facts.get(fact)
    return value if isinstance(value, str) else None


def _short(digest: str | None) -> str:
    """The beginning of a digest; packed data may hold anything in its place."""
    tail = digest_tail(str(digest))
    return tail if tail.isalnum() and tail.isascii() else shown(digest)


_CHECKS: Mapping[str, Check] = MappingProxyType(
    {"same_tokens_as": _same_tokens, "same_template_as": _same_template, "adapts": _adapts}
)
_IDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "same_tokens_as": (
            "model.tokenizer_differs",
            "model.tokenizer_unknown",
            "model.vocabulary_differs",
            "model.special_tokens_differ",
        ),
        "same_template_as": (
            "model.tokenizer_differs",
            "model.tokenizer_unknown",
            "model.chat_template_differs",
            "model.chat_template_unknown",
        ),
        "adapts": ("model.base_differs", "model.base_unknown"),
    }
)
