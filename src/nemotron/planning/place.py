"""Where a plan runs: what its recipe needs, what a profile says, which of them counts, in one Placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron.catalog.step import Step
from nemotron.config.config import Config
from nemotron.config.resolvers import is_secret
from nemotron.engines.base import OWN_SCRIPT, Engine, Shape, StepFacts
from nemotron.errors import UsageError
from nemotron.findings import Finding
from nemotron.planning.plan import Placement
from nemotron.planning.preflight import LATE_RESOLVERS
from nemotron.planning.walltime import save_before, seconds_of
from nemotron.planning.wishes import SECTION, Wishes

if TYPE_CHECKING:
    from nemotron.planning.request import Request
    from nemotron.profiles.profile import Profile
    from nemotron.sources.bundle import CodeBundle

# Where a run's own code is.
CODE = "{run_dir}/code"
# The engine of a stub run: it reads nothing and trains nothing.
STUB = "stub"
# How the ids of findings begin that only a backend or its scheduler can have.
OF_PLACE = ("mount", "slurm", "scheduler", "lepton", "ray")
# What a placement has a field for, or what only reading a profile needs; the rest is the backend's.
_HANDLED = (
    *(
        "executor",
        "extends",
        "description",
        "engine",
        "container_image",
        "container",
        "nodes",
        "gpus_per_node",
    ),
    *("mounts", "lustre_mount", "env_vars", "secrets", "setup_lines", "startup_commands", "run_command"),
    *("workspace", "remote_job_dir", "must_save_before", "chain"),
    *("run_partition", "batch_partition"),
)
# Variables that sbatch itself would read. They are taken into the plan, where everybody can see them; the
# job is submitted without any.
_SBATCH = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_TIMELIMIT": "time",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_CLUSTERS": "clusters",
}
_OF_SBATCH = ("qos", "reservation", "constraint", "clusters")
_LUSTRE = "/lustre"


@dataclass(frozen=True)
class Place:
    """What a person asks of the place beside a profile's name; see `Request`."""

    attached: bool = True
    chain: int | None = None
    stub: bool = False
    force_squash: bool = False


@dataclass(frozen=True)
class Placed:
    """A step at its place.

    facts: what the engine was told, the place's numbers in it. image: what the recipe asks for. code: digests
    of code that the place brings, such as a checkout in place of the image's own.
    """

    placement: Placement
    facts: StepFacts
    image: str | None
    findings: tuple[Finding, ...] = ()
    code: Mapping[str, str] = field(default_factory=dict)


def placed_step(
    step: Step,
    engine: Engine,
    facts: StepFacts,
    data: Mapping[str, Any],
    wishes: Wishes,
    request: Request,
    *,
    elsewhere: bool,
    environ: Mapping[str, str],
) -> Placed:
    """Where and how a step runs. data: the trainer's config, interpolations filled in.

    Raises UsageError for values of the place that make no sense together.
    """
    environment = {**engine.environment(data), **_environment(wishes)}
    shape = engine.shape(facts, data, environment)
    facts = replace(facts, command=facts.command or wishes.get("run_command"))
    if not elsewhere:
        return _placed_here(step, engine, facts, data, wishes, request, shape)
    fixed = engine.name not in OWN_SCRIPT
    placement = remote_placement(step, shape, wishes, environment, request.place, environ, fixed=fixed)
    return _placed_elsewhere(step, engine, facts, data, placement, request, ships=not fixed)


def _placed_here(
    step: Step,
    engine: Engine,
    facts: StepFacts,
    data: Mapping[str, Any],
    wishes: Wishes,
    request: Request,
    shape: Shape,
) -> Placed:
    # Here nothing is allocated: only a framework that drives GPUs by itself is told of any.
    drives = engine.name == "nemo_rl"
    placement = Placement(
        **_on_any_place(step, shape, wishes, engine.environment(data), request.place),
        backend="local",
        nodes=1,
        gpus_per_node=shape.gpus_per_node if drives else 0,
        argv=stub_command(facts) if request.place.stub else engine.argv(facts, data, request.arguments),
        startup=_lines(wishes, "setup_lines") + _lines(wishes, "startup_commands"),
        config=dict(engine.placed(data, seconds=None, save_before=None)),
    )
    return Placed(placement, facts, step.run.image if drives else None)


def _placed_elsewhere(
    step: Step,
    engine: Engine,
    facts: StepFacts,
    data: Mapping[str, Any],
    placement: Placement,
    request: Request,
    *,
    ships: bool,
) -> Placed:
    """ships: whether the step's own code travels with the run."""
    shipped = None
    if ships and not request.place.stub:
        from nemotron.sources.bundle import bundle_code

        shipped = bundle_code(step.directory, step.script, catalog=step.root_path)
    facts = replace(
        facts,
        script=Path(CODE) / shipped.script if shipped and shipped.script else facts.script,
        nodes=placement.nodes,
        gpus_per_node=placement.gpus_per_node,
        image=placement.image,
        python="python3" if placement.image or placement.options.get("tunnel") else facts.python,
        elsewhere=True,
    )
    seconds = seconds_of(placement.options.get("time"))
    placement = replace(
        placement,
        argv=stub_command(facts) if request.place.stub else engine.argv(facts, data, request.arguments),
        config=dict(engine.placed(data, seconds=seconds, save_before=placement.save_before)),
        code=_told(shipped) if shipped else {},
    )
    findings = engine.check_place(
        facts,
        data,
        nodes=placement.nodes,
        gpus_per_node=placement.gpus_per_node,
        environment=placement.environment,
    )
    return Placed(placement, facts, placement.image, findings, patched_code(placement.options))


def _told(shipped: CodeBundle) -> dict[str, Any]:
    """What a plan says of the code that is shipped with it."""
    found = {"digest": shipped.digest, "files": len(shipped.files), "commit": shipped.commit}
    found |= {"changes": shipped.dirty, "left_out": list(shipped.left_out), "search": list(shipped.search)}
    return {name: value for name, value in found.items() if value}


def stub_command(facts: StepFacts) -> tuple[str, ...]:
    """What a stub run starts in place of a trainer."""
    return (facts.python, "-I", "{run_dir}/runtime/stub.py")


def wishes_of(profile: Profile | None, config: Config, environ: Mapping[str, str]) -> Wishes:
    """A profile and the config's `run.env` together. Raises UsageError for what no place has."""
    values: Any = {}
    if config.has(SECTION):
        resolved = config.resolve(environ, keep=LATE_RESOLVERS)
        values = Config(resolved.data).get(SECTION) or {}
        if not isinstance(values, Mapping):
            raise UsageError(f"`{SECTION}` is a section", where=config.place(SECTION))
    return Wishes(profile, config, values)


def _on_any_place(
    step: Step, shape: Shape, wishes: Wishes, environment: Mapping[str, str], place: Place
) -> dict[str, Any]:
    """The fields of a Placement that do not depend on where it is."""
    return {
        "root": step.root,
        "launch": shape.launch,
        "environment": dict(sorted({**environment, **_environment(wishes)}.items())),
        "secrets": _secret_names(wishes),
        "profile": wishes.profile.name if wishes.profile else None,
        "run_root": wishes.get("remote_job_dir"),
        "stub": place.stub,
        "attached": place.attached,
        "ignored": tuple(wishes.ignored),
    }


def remote_placement(
    step: Step,
    shape: Shape,
    wishes: Wishes,
    environment: Mapping[str, str],
    place: Place,
    environ: Mapping[str, str],
    *,
    fixed: bool,
) -> Placement:
    """The cluster of a profile, without the command. fixed: whether the recipe's shape is more than what its
    step suggests."""
    assert wishes.profile is not None
    image, image_source = _image(shape, wishes)
    nodes, nodes_source = _count("nodes", shape.nodes, shape, wishes, fixed=fixed)
    gpus, gpus_source = _count("gpus_per_node", shape.gpus_per_node, shape, wishes, fixed=fixed)
    options = _options(wishes, place, environ)
    sources = {"image": image_source, "nodes": nodes_source, "gpus_per_node": gpus_source}
    return Placement(
        **_on_any_place(step, shape, wishes, environment, place),
        backend=wishes.profile.executor,
        nodes=nodes,
        gpus_per_node=gpus,
        argv=(),
        image=image,
        mounts=_mounts(wishes) if image else (),
        setup=_lines(wishes, "setup_lines"),
        startup=_lines(wishes, "startup_commands"),
        options=options,
        chain=place.chain or wishes.get("chain", 1),
        save_before=save_before(
            wishes.get("must_save_before"), options.get("signal"), seconds_of(options.get("time"))
        ),
        sources={k: v for k, v in sources.items() if v},
    )


def secret_findings(wishes: Wishes, config: Config) -> list[Finding]:
    """An error for each value of `run.env.env_vars` that is a secret, written into a config."""
    found = []
    for name, value in (wishes.get("env_vars") or {}).items():
        key = f"{SECTION}.env_vars.{name}"
        written = isinstance(value, str) and value and not value.startswith("${")
        if written and is_secret(name) and config.has(key) and wishes.is_of_config("env_vars"):
            what = f"{key} holds a secret"
            fix = f'secrets = ["{name}"] in the profile, and export {name}'
            found.append(Finding("place.secret_in_config", "error", what, config.place(key), fix=fix))
    return found


def _image(shape: Shape, wishes: Wishes) -> tuple[str | None, str]:
    """The image and who named it: the config, else the step, else the profile."""
    name = "container_image" if wishes.get("container_image") is not None else "container"
    asked = wishes.get(name)
    if asked is not None and wishes.is_of_config(name):
        return asked, str(wishes.source(name))
    if shape.image is not None:
        if asked is not None and asked != shape.image:
            wishes.ignore(name, f"the step names its image; {SECTION}.container_image=... overrules it")
        return shape.image, "step.toml"
    return asked, str(wishes.source(name) or "")


def _count(name: str, needed: int, shape: Shape, wishes: Wishes, *, fixed: bool) -> tuple[int, str]:
    """Nodes, or GPUs of a node: the config's word, else what the recipe adds up to, else the profile's."""
    asked = wishes.get(name)
    why = shape.why.get(name, "step.toml")
    if asked is not None and (wishes.is_of_config(name) or not fixed):
        return asked, str(wishes.source(name))
    if asked is not None and asked != needed:
        wishes.ignore(name, f"the recipe needs {needed} ({why})")
    return needed, why


def _options(wishes: Wishes, place: Place, environ: Mapping[str, str]) -> dict[str, Any]:
    """What only the backend reads."""
    found = {name: wishes.get(name) for name in wishes.names() if name not in _HANDLED}
    found = {name: value for name, value in found.items() if value is not None}
    if wishes.profile is not None and wishes.profile.executor == "slurm":
        partition = wishes.get("run_partition" if place.attached else "batch_partition")
        if partition and not wishes.is_of_config("partition"):
            found["partition"] = partition
        for variable, name in _SBATCH.items():
            value = environ.get(variable)
            if value and name not in _OF_SBATCH:
                found[name] = found.get(name) or value
            elif value:
                found["sbatch"] = {name: value, **(found.get("sbatch") or {})}
    if wishes.profile is not None and wishes.profile.executor == "lepton":
        found["mounts"] = wishes.get("mounts")
    found |= {"force_squash": True} if place.force_squash else {}
    return {name: value for name, value in found.items() if value is not None}


def _environment(wishes: Wishes) -> dict[str, str]:
    """What a place asks for; no secret among it."""
    secrets = {s.name for s in wishes.profile.secrets} if wishes.profile else set()
    asked = wishes.get("env_vars") or {}
    found = {k: str(v) for k, v in asked.items() if k not in secrets and not str(v).startswith("${oc.env:")}
    workspace = wishes.get("workspace")
    return found if workspace is None else {"NEMOTRON_WORKSPACE": workspace, **found}


def _secret_names(wishes: Wishes) -> tuple[str, ...]:
    """Variables that reach the job in the file of secrets."""
    named = wishes.profile.secrets if wishes.profile else ()
    found = {s.name for s in named if s.key.startswith("env_vars.") or s.key == "secrets"}
    asked = wishes.get("env_vars") or {}
    found |= {name for name, value in asked.items() if str(value).startswith("${oc.env:")}
    return tuple(sorted(found))


def _mounts(wishes: Wishes) -> tuple[str, ...]:
    from nemotron.profiles.mounts import parse_mount

    asked: Sequence[Any] = wishes.get("mounts") or ()
    found = [parse_mount(each) for each in asked]
    lustre = wishes.get("lustre_mount")
    if lustre is not None:
        found.append(parse_mount(lustre))
    elif "lustre_mount" not in wishes.names() and Path(_LUSTRE).is_dir():
        # The format's default, where there is such a file system.
        found.append(parse_mount(f"{_LUSTRE}:{_LUSTRE}"))
    patched = wishes.get("patched")
    if patched is not None and ":" in patched:
        found.append(parse_mount(patched))
    written = (f"{m.source}:{m.target}" + (f":{m.options}" if m.options else "") for m in found)
    return tuple(dict.fromkeys(written))


def patched_code(options: Mapping[str, Any]) -> dict[str, str]:
    """Commit and changes of a checkout that takes the place of the image's own code."""
    checkout = options.get("patched")
    if checkout is None:
        return {}
    from nemotron.sources.checkout import checkout_state

    source, _, target = checkout.partition(":")
    state = checkout_state(Path(source).expanduser())
    changed = f" with changes {state.dirty_digest}" if state.dirty_digest else ""
    return {f"checkout at {target or source}": f"{state.commit or 'no commit'}{changed}"}


def _lines(wishes: Wishes, name: str) -> tuple[str, ...]:
    value = wishes.get(name) or ()
    return (value,) if isinstance(value, str) else tuple(value)
