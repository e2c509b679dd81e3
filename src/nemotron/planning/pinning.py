"""From a reference to a pinned input: what is there, what it is, and what has to be built first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemotron.artifacts.checks import check_artifact
from nemotron.artifacts.digest import digest_path
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.artifacts.references import Reference, bare_hub_id, parse_reference
from nemotron.artifacts.run_list import find_run
from nemotron.artifacts.runs import Run, output_intact
from nemotron.artifacts.store import Store
from nemotron.catalog.step import Port
from nemotron.catalog.types import TypeGraph
from nemotron.errors import CheckFailed, NemotronError, NotFound, UsageError, nearest
from nemotron.findings import Finding, errors_in
from nemotron.planning.plan import PlannedInput, PlannedOutput
from nemotron.planning.references import Binding

Progress = Callable[[int, int], None]

# Stops a launch, and is a warning in a dry run.
UNREADABLE = "input.late"
# What a dry run says of a URL; asking for its size may take so long.
TO_FETCH = "input.to_fetch"
_SIZE_SECONDS = 3.0
_SHOWN = ("rows", "parameters", "weight_bytes", "model_type", "kind", "vocab_size", "dtypes", "chat_template")
_COMPARED = (
    *("tokenizer", "tokenizer_digest", "tokenizer_size", "special_tokens", "chat_template_digest"),
    *("architecture_digest", "base", "base_model", "pack_size"),
)
MODEL_TYPES = ("checkpoint_hf", "reward_model_hf", "checkpoint_megatron")


class WrongType(CheckFailed):
    """What was named is there and is not what the port takes.

    outputs: the types of what there is, by the name of the output; None where there is one thing.
    """

    outputs: Mapping[str | None, Sequence[str]]

    def __init__(
        self, what: str, outputs: Mapping[str | None, Sequence[str]] | None = None, **more: Any
    ) -> None:
        super().__init__(what, **more)
        self.outputs = outputs or {}


@dataclass(frozen=True)
class Pinned:
    """A planned input with what was found while pinning it."""

    input: PlannedInput
    findings: tuple[Finding, ...] = ()


def reference_of(binding: Binding, text: str, cwd: Path) -> Reference:
    """The reference that a binding's text names.

    On a port for models `org/name` without such a path is a hub id. Errors: those of `parse_reference`.
    """
    hub = bare_hub_id(text, cwd=cwd) if any(t in MODEL_TYPES for t in binding.port.type) else None
    return hub or parse_reference(text, cwd=cwd)


def of_input(binding: Binding, problem: NemotronError) -> NemotronError:
    """What is wrong with an input's reference, naming the input and the place that bound it.

    Of a step that an input's step needs in turn, the innermost is named: that is where the mistake is.
    """
    if problem.what.startswith("input "):
        return problem
    inner = problem.where if problem.where not in (None, "command line", "--engine") else None
    return type(problem)(
        f"input {binding.port.name}: {problem.what}",
        where=inner or binding.place or binding.text,
        nearest=problem.nearest,
        valid=problem.valid,
        next=problem.next,
        findings=problem.findings,
    )


def pin_path(
    binding: Binding,
    reference: Reference,
    *,
    here: bool,
    environ: Mapping[str, str],
    waived: Collection[str] = (),
    recorded: Callable[[Path], str | None] = lambda path: None,
    progress: Progress | None = None,
) -> Pinned:
    """An input given as a path: checked as its port's type and identified by content.

    here: whether the run would start on this machine. A path that is not visible is an error then, and
    left to the job otherwise. waived: ids of findings in spite of which the input is taken. recorded: the
    digest on record of what lies at a path, which is not read then. progress: see `digest_path`.
    """
    port, path = binding.port, reference.path
    planned = _planned(binding, reference)
    if not path.exists():
        if not here:
            return Pinned(PlannedInput(**{**planned, "state": "late", "path": str(path)}))
        finding = Finding(
            "input.not_found",
            "error",
            f"input {port.name}: there is nothing at {path}",
            where=binding.place or port.config,
            fix=f"-i {port.name}=PATH",
        )
        return Pinned(PlannedInput(**{**planned, "state": "missing", "path": str(path)}), (finding,))
    checked = check_artifact(path, port.type)
    digest = None
    if all(f.id in waived for f in errors_in(checked.findings)):
        digest = recorded(path)
        if digest is None:
            with DigestCache.for_user(environ) as cache:
                digest = digest_path(path, cache=cache, progress=progress).value
    return Pinned(
        PlannedInput(
            **{
                **planned,
                "state": "pinned" if digest else "missing",
                "type": checked.type,
                "path": str(path),
                "digest": digest,
                "facts": plan_facts(checked.facts),
            }
        ),
        checked.findings,
    )


def pin_elsewhere(binding: Binding, reference: Reference, *, here: bool) -> Pinned:
    """An input on a hub or behind a URL, brought when the run is launched.

    Of a URL the plan shows no login and no query. Raises UsageError when credentials are written into it.
    """
    planned = PlannedInput(**{**_planned(binding, reference), "state": "late", "path": reference.name})
    if reference.kind == "hf":
        return Pinned(planned)
    from nemotron.artifacts.urls import redacted, refuse_secrets

    refuse_secrets(reference.name)
    planned = replace(planned, reference=redacted(reference.name))
    return Pinned(planned, (_fetch_finding(binding, reference.name),) if here else ())


def _fetch_finding(binding: Binding, url: str) -> Finding:
    """That a URL will be fetched and how much that is, or why it cannot be."""
    from nemotron.artifacts.remote import remote_size
    from nemotron.artifacts.urls import redacted

    port, where = binding.port.name, binding.place or binding.port.config
    try:
        # What is filled in from the environment is not asked for before it is needed.
        size = remote_size(url, 0.0 if "${" in url else _SIZE_SECONDS)
    except CheckFailed as problem:
        what = f"input {port}: {redacted(url)} cannot be fetched: {problem.what}"
        return Finding(UNREADABLE, "warning", what, where, fix=problem.next)
    amount = "its size is not known" if size is None else f"{size:,} bytes"
    return Finding(TO_FETCH, "note", f"input {port}: {redacted(url)} is fetched at launch, {amount}", where)


def pin_run(
    binding: Binding, reference: Reference, store: Store, graph: TypeGraph, *, wait: bool = False
) -> Pinned:
    """An output of an earlier run. Raises NotFound, CheckFailed when it has none that fits.

    wait: whether a run that is still going on will do; the job that needs it starts after it then.
    """
    run = find_run(store, reference.name)
    outputs = run.outputs
    if not outputs and wait and run.state() in ("queued", "running"):
        return Pinned(_to_wait_for(binding, reference, run, graph))
    if not outputs:
        if run.state() == "succeeded":
            raise CheckFailed(
                f"run {run.id} succeeded, and what it left is not recorded here",
                next=f"nemotron runs wait {run.id}; name what lies on another machine by its path there",
            )
        raise CheckFailed(
            f"run {run.id} has left nothing: its state is {run.state()}",
            next=f"nemotron runs show {run.id}",
        )
    name = choose_output(
        {port: (str(o["type"]),) for port, o in outputs.items()}, reference.port, binding.port, graph, run.id
    )
    if not output_intact(outputs[name]):
        raise CheckFailed(
            f"output {name} of run {run.id} is no longer what the run left",
            where=str(outputs[name].get("path")),
            next=f"to take what is there now: -i {binding.port.name}=PATH",
        )
    return Pinned(built_input(binding, reference, outputs[name], run.id, name))


def _to_wait_for(binding: Binding, reference: Reference, run: Run, graph: TypeGraph) -> PlannedInput:
    """An input from a run that has not ended: what its plan says it will leave."""
    planned = [o for o in run.plan.get("outputs") or () if isinstance(o, dict)]
    types = {str(o.get("port")): (str(o.get("type")),) for o in planned}
    name = choose_output(types, reference.port, binding.port, graph, run.id)
    return PlannedInput(
        **{
            **_planned(binding, reference),
            "state": "late",
            "type": types[name][0],
            "made_by": run.id,
            "output": name,
        }
    )


def built_input(
    binding: Binding, reference: Reference, output: Mapping[str, Any], run_id: str, port: str
) -> PlannedInput:
    """A pinned input from the settled output of a run."""
    return PlannedInput(
        **{
            **_planned(binding, reference),
            "state": "pinned",
            "type": str(output["type"]),
            "path": str(output["path"]),
            "digest": str(output["digest"]),
            "made_by": run_id,
            "output": port,
            "facts": plan_facts(output.get("facts") or {}),
        }
    )


def input_of_run(each: PlannedInput, run: Run) -> PlannedInput:
    """An input that a run was started for: what the run left, or what it will leave where it goes on."""
    output = run.outputs.get(str(each.output))
    if output is None:
        return replace(each, state="late", made_by=run.id, build=None)
    return replace(
        each,
        state="pinned",
        build=None,
        type=str(output["type"]),
        path=str(output["path"]),
        digest=str(output["digest"]),
        made_by=run.id,
        facts=plan_facts(output.get("facts") or {}),
    )


def input_to_build(binding: Binding, reference: Reference, key: str, output: PlannedOutput) -> PlannedInput:
    """An input that an earlier plan makes."""
    return PlannedInput(
        **{
            **_planned(binding, reference),
            "state": "to_build",
            "type": output.type,
            "build": key,
            "output": output.port,
        }
    )


def choose_output(
    outputs: Mapping[str, Sequence[str]], wanted: str | None, port: Port, graph: TypeGraph, owner: str
) -> str:
    """Which output of a step or run goes to `port`: the one named, else the one whose type fits.

    Of several that fit, the one of the same name counts. Raises NotFound, UsageError or CheckFailed.
    """
    if wanted is not None:
        if wanted not in outputs:
            raise NotFound(
                f"{owner} has no output {wanted!r}", nearest=nearest(wanted, outputs), valid=tuple(outputs)
            )
        if not _fits(outputs[wanted], port, graph):
            raise WrongType(
                f"output {wanted} of {owner} is {' or '.join(outputs[wanted])}, "
                f"input {port.name} takes {' or '.join(port.type)}",
                {wanted: outputs[wanted]},
            )
        return wanted
    fitting = [name for name, types in outputs.items() if _fits(types, port, graph)]
    if len(fitting) == 1 or port.name in fitting:
        return port.name if port.name in fitting else fitting[0]
    if not fitting:
        made = ", ".join(f"{name} ({' or '.join(types)})" for name, types in outputs.items())
        raise WrongType(
            f"{owner} makes nothing that input {port.name} takes ({' or '.join(port.type)})",
            dict(outputs.items()),
            valid=(made,) if made else (),
        )
    raise UsageError(
        f"{owner} has several outputs that fit input {port.name}",
        valid=tuple(fitting),
        next="name one: &output=PORT in a step reference, /PORT in a run reference",
    )


def _fits(types: Sequence[str], port: Port, graph: TypeGraph) -> bool:
    return any(graph.is_a(have, want) for have in types for want in port.type)


def _planned(binding: Binding, reference: Reference) -> dict[str, Any]:
    return {
        "port": binding.port.name,
        "types": tuple(binding.port.type),
        "key": binding.port.config,
        "reference": str(reference),
    }


def plan_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a check that a plan shows, or compares between inputs."""
    return {k: facts[k] for k in (*_SHOWN, *_COMPARED) if k in facts}


__all__ = [
    "Pinned",
    "built_input",
    "choose_output",
    "input_of_run",
    "input_to_build",
    "of_input",
    "pin_elsewhere",
    "pin_path",
    "pin_run",
    "plan_facts",
    "reference_of",
]
