"""The plan: everything a launch needs and nothing secret, frozen, JSON both ways.

Two halves. The **recipe** is what the result depends on: step, engine, config, inputs by content, code.
Its digest is the cache key; it exists once every input is pinned. The **placement** is where it runs:
backend, locations, environment, argument lists. Another path is the same recipe.

In the recipe's config `in://PORT` stands for the path of an input and `out://PORT` for that of an output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from nemotron.artifacts.atomic import json_text
from nemotron.errors import CheckFailed
from nemotron.findings import Finding

SCHEMA = 1

InputState = Literal["pinned", "to_build", "late", "unbound", "missing"]


@dataclass(frozen=True)
class PlannedInput:
    """One input of a plan.

    state: `pinned` (content known), `to_build` (made by an earlier plan of `Plan.builds`), `late` (not
    visible from here; pinned by the job), `unbound` (required, and nothing names it), `missing` (named,
    and not there).
    types: what the port accepts. type: what it was found to be. key: the config key that receives it.
    reference: how it was named. path: where it is; None until built.
    digest: `blake3:...` of the content. made_by: id of the run that made it, where one of ours did.
    build: key of the plan in `Plan.builds` that makes it, and `output` the port of it that is meant.
    converted: what was named and is converted first: its type (`from`), reference (`source`) and `bytes`,
    None before it is built, the steps it is converted `by` and their `engines`; empty where it fits.
    """

    port: str
    types: tuple[str, ...]
    state: InputState
    key: str | None = None
    type: str | None = None
    reference: str | None = None
    path: str | None = None
    digest: str | None = None
    made_by: str | None = None
    build: str | None = None
    output: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    converted: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedOutput:
    """One output of a plan.

    path: relative to the run directory, or absolute where the config says so. select: which of several
    checkpoints below `path` the artifact is (`latest`, `best`), None where `path` is the artifact.
    inside: where in a checkpoint the artifact lies. required: whether a run without it has failed.
    """

    port: str
    type: str
    path: str
    key: str | None = None
    select: str | None = None
    inside: str | None = None
    required: bool = True


@dataclass(frozen=True)
class Edge:
    """Two inputs that must agree about the model: `port` is the one to change where they do not.

    relation: `same_tokens_as`, `same_template_as` or `adapts`, as a manifest says it. fix: what to do then.
    """

    relation: str
    port: str
    other: str
    fix: str | None = None


@dataclass(frozen=True)
class Recipe:
    """What the result depends on. `config` has port names in place of input and output paths."""

    step: str
    engine: str
    engine_version: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]]
    outputs: Mapping[str, Mapping[str, Any]]
    code: Mapping[str, str]
    image: str | None = None
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Where and how it runs. `{run_dir}` stands for the directory of the run, which nobody knows yet.

    launch: `python` (once, on the first node), `torchrun` or `ray` (on all nodes). argv: the trainer's
    command. secrets: names of variables that the job gets beside `environment`; never their values.
    image: what the container is started from, None without a container; recipe.image is what was asked for.
    mounts: `SRC:DST[:OPTIONS]`. setup: shell lines before the containers start, once, where the batch script
    runs; startup: in each node's container, or on each node without one.
    options: what only the backend reads (for Slurm: partition, account, time, ...); shown whole.
    chain: at most so many allocations after one another. save_before: seconds before an allocation ends at
    which the trainer is asked to save; None where time has no end.
    config: dotted keys of the trainer's config that this place decides, and their values.
    run_root: where the directory of the run is made, None for the store's own place.
    stub: whether minimal outputs are written in place of training. attached: whether somebody waits for it.
    code: what is shipped of the step's own code, and from which commit; empty where nothing is.
    sources: which source of a value won, such as `nodes`. ignored: values that have no effect, and why.
    """

    backend: str
    root: str
    launch: str
    nodes: int
    gpus_per_node: int
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: tuple[str, ...] = ()
    profile: str | None = None
    image: str | None = None
    mounts: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    startup: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    chain: int = 1
    save_before: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    run_root: str | None = None
    stub: bool = False
    attached: bool = True
    code: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Placement:
        """The placement that `asdict` and JSON made of one. Raises KeyError, TypeError for anything else."""
        lists = ("argv", "secrets", "mounts", "setup", "startup")
        texts = {name: tuple(data.get(name, ())) for name in lists}
        ignored = tuple((key, why) for key, why in data.get("ignored", ()))
        return cls(**{**data, **texts, "ignored": ignored})


@dataclass(frozen=True)
class Plan:
    """One step, ready to be checked, shown and launched.

    edges: inputs that must agree; those of inputs that are not pinned yet are checked when they are.
    builds: plans that have to run before, each once, in order, by key (a `step://` reference).
    notes: config keys without effect on this engine, and why. findings: all that the checks found.
    config_file: the config the user named. late: interpolations the job's machine must answer.
    engine_problem: why the engine cannot run here; stops a launch, not a dry run.
    done_by: a finished run with the same recipe, and done_at its directory. resumes: an interrupted one.
    because: why it runs, what matters most first; empty when it is done.
    planned_steps: training steps until it is done, None where nobody can tell.
    """

    recipe: Recipe
    placement: Placement
    inputs: tuple[PlannedInput, ...]
    outputs: tuple[PlannedOutput, ...]
    config_name: str
    config_file: str
    edges: tuple[Edge, ...] = ()
    builds: tuple[tuple[str, Plan], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    late: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()
    engine_problem: str | None = None
    done_by: str | None = None
    done_at: str | None = None
    resumes: str | None = None
    because: tuple[str, ...] = ()
    planned_steps: int | None = None

    @property
    def recipe_digest(self) -> str | None:
        """The cache key; None while an input is not pinned."""
        if any(i.state != "pinned" for i in self.inputs):
            return None
        from nemotron.artifacts.digest import digest_json

        return digest_json({"schema": SCHEMA, **asdict(self.recipe)})

    @property
    def digest(self) -> str:
        """The identity of the whole plan, placement included."""
        from nemotron.artifacts.digest import digest_json

        return digest_json({k: v for k, v in self.as_dict().items() if not k.endswith("digest")})

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the same for the same plan; `from_dict` reads it."""
        found: dict[str, Any] = {"schema": SCHEMA, "recipe_digest": self.recipe_digest}
        for each in fields(self):
            found[each.name] = getattr(self, each.name)
        found["recipe"] = asdict(self.recipe)
        found["placement"] = asdict(self.placement)
        found["inputs"] = [asdict(i) for i in self.inputs]
        found["outputs"] = [asdict(o) for o in self.outputs]
        found["edges"] = [asdict(e) for e in self.edges]
        found["findings"] = [f.as_dict() for f in self.findings]
        found["builds"] = [{"key": key, "plan": plan.as_dict()} for key, plan in self.builds]
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain

    def to_json(self) -> str:
        """The plan as text: sorted keys, two spaces, byte-identical for identical plans."""
        return json_text(self.as_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `as_dict` gave. Raises CheckFailed for another schema or a damaged plan."""
        if data.get("schema") != SCHEMA:
            raise CheckFailed(f"a plan of schema {data.get('schema')!r}, this version reads {SCHEMA}")
        try:
            recipe = dict(data["recipe"])
            return cls(
                recipe=Recipe(**{**recipe, "arguments": tuple(recipe["arguments"])}),
                placement=Placement.from_dict(data["placement"]),
                inputs=tuple(PlannedInput(**{**i, "types": tuple(i["types"])}) for i in data["inputs"]),
                outputs=tuple(PlannedOutput(**o) for o in data["outputs"]),
                config_name=data["config_name"],
                config_file=data["config_file"],
                edges=tuple(Edge(**e) for e in data.get("edges", ())),
                builds=tuple((b["key"], cls.from_dict(b["plan"])) for b in data["builds"]),
                notes=tuple((k, v) for k, v in data["notes"]),
                findings=tuple(Finding(**f) for f in data["findings"]),
                late=tuple(data["late"]),
                waived=tuple(data["waived"]),
                engine_problem=data["engine_problem"],
                done_by=data["done_by"],
                done_at=data.get("done_at"),
                resumes=data["resumes"],
                because=tuple(data.get("because", ())),
                planned_steps=data.get("planned_steps"),
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise CheckFailed(f"this is no plan: {type(problem).__name__} {problem}") from problem

    def with_inputs(self, inputs: tuple[PlannedInput, ...]) -> Plan:
        """The plan with other inputs; the recipe follows."""
        return replace(self, inputs=inputs, recipe=replace(self.recipe, inputs=recipe_inputs(inputs)))


def recipe_inputs(inputs: tuple[PlannedInput, ...]) -> dict[str, dict[str, str]]:
    """What the recipe says of the inputs: type and content, no location."""
    return {
        i.port: {"type": i.type or i.types[0], "digest": i.digest or ""}
        for i in inputs
        if i.state == "pinned"
    }
