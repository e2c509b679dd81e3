"""What other people's scripts rely on. A change here is a decision: say so in the changelog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import typer

import nemotron
from nemotron import errors
from nemotron.artifacts.records import EVENTS, PHASES, ArtifactRecord, AttemptRecord, EventRecord
from nemotron.catalog.manifest import MANIFEST_KEYS
from nemotron.cli.app import EXIT_PIPE_CLOSED, build_app
from nemotron.errors import EXIT_INTERRUPTED

Cli = Callable[..., Any]

# Command: its arguments, then its options; `...` takes several, `=` takes a value.
COMMANDS = {
    "nemotron": ["--version"],
    "nemotron steps": [],
    "nemotron steps list": ["text", "--category=", "--consumes=", "--produces=", "--tag=...", "--json"],
    "nemotron steps show": ["STEP", "-c/--config=", "--json"],
    "nemotron steps check": ["[STEP]", "--json"],
    "nemotron steps path": ["FROM", "TO", "--json"],
    "nemotron steps run": [
        "STEP",
        "[KEY=VALUE]...",
        "-c/--config=",
        "-r/--run=",
        "-b/--batch=",
        "-d/--dry-run",
        "--force-squash",
        "-i/--input=...",
        "--engine=",
        "--chain=",
        "--stub",
        "--no-cache",
        "--waive=...",
        "--explain=",
        "-o=",
        "--json",
    ],
    "nemotron runs": [],
    "nemotron runs list": ["--limit=", "--no-refresh", "--json"],
    "nemotron runs show": ["RUN", "--no-refresh", "--json"],
    "nemotron runs logs": ["RUN", "-f/--follow", "--node=", "--json"],
    "nemotron runs wait": ["RUN...", "--timeout=", "--json"],
    "nemotron runs cancel": ["RUN...", "--timeout=", "--json"],
    "nemotron runs diff": ["RUN", "OTHER", "--json"],
    "nemotron runs export": ["RUN", "--format=", "-o="],
    "nemotron artifacts": [],
    "nemotron artifacts list": ["--type=", "--limit=", "--json"],
    "nemotron artifacts show": ["REF", "--json"],
    "nemotron artifacts check": ["PATH", "--type=", "--limit=", "--json"],
    "nemotron artifacts add": ["PATH", "--type=", "--name=", "--level=", "--waive=...", "--json"],
    "nemotron artifacts lineage": [
        *("REF", "--up", "--down", "--depth=", "--limit=", "--mermaid", "--html=", "--json"),
    ],
    "nemotron artifacts verify": ["[REF]...", "--all", "--json"],
    "nemotron artifacts alias": [
        *("REF", "NAME[:ALIAS]", "--reason/-m=", "--remove", "--waive=...", "--json"),
    ],
    "nemotron artifacts taint": ["REF", "--reason/-m=", "--lift", "--json"],
    "nemotron profiles": [],
    "nemotron profiles list": ["--json"],
    "nemotron profiles show": ["NAME", "--json"],
    "nemotron profiles check": ["NAME", "--json"],
    "nemotron doctor": ["--deep", "--json"],
}
EXIT_CODES = {
    "NemotronError": (1, "failed"),
    "WorkFailed": (1, "failed"),
    "UsageError": (2, "usage"),
    "NotFound": (3, "not_found"),
    "CheckFailed": (4, "check"),
    "Conflict": (5, "conflict"),
    "SchedulerError": (6, "scheduler"),
}
FINDING = ["fix", "id", "message", "severity", "valid", "where"]
ERROR = ["exit_code", "findings", "kind", "nearest", "next", "valid", "what", "where"]
PORT_KEYS = ["config", "description", "engines", "name", "required", "select", "type"]
PORT = sorted([*PORT_KEYS, "adapts", "same_template_as", "same_tokens_as"])
LISTED = ["category", "consumes", "description", "engines", "id", "name", "produces", "root", "tags"]
SHOWN = sorted(
    [
        *(
            "category",
            "configs",
            "consumes",
            "description",
            "difficulty",
            "directory",
            "errors",
            "id",
            "models",
        ),
        *("name", "parameters", "produces", "reference", "root", "root_path", "run", "script", "stack"),
        *("strategies", "tags", "warnings"),
    ]
)
PLAN = sorted(
    [
        *(
            "schema",
            "recipe_digest",
            "recipe",
            "placement",
            "inputs",
            "outputs",
            "config_name",
            "config_file",
        ),
        *("builds", "notes", "findings", "late", "waived", "engine_problem", "done_by", "resumes"),
        *("done_at", "because", "edges", "planned_steps"),
    ]
)
RECIPE = sorted(
    ["step", "engine", "engine_version", "config", "inputs", "outputs", "code", "image", "arguments"]
)
PLACEMENT = sorted(
    [
        *("backend", "root", "launch", "nodes", "gpus_per_node", "argv", "environment", "secrets", "profile"),
        *("image", "mounts", "setup", "startup", "options", "chain", "save_before", "config", "run_root"),
        *("stub", "attached", "code", "sources", "ignored"),
    ]
)
INPUT = sorted(
    [
        *(
            "port",
            "types",
            "state",
            "key",
            "type",
            "reference",
            "path",
            "digest",
            "made_by",
            "converted",
            "build",
            "output",
        ),
        "facts",
    ]
)
OUTPUT = ["inside", "key", "path", "port", "required", "select", "type"]
LISTED_RUN = sorted(
    [
        *("attempts", "config", "directory", "ended", "engine", "metrics", "run", "state", "step", "user"),
        *("asked", "backend", "job", "profile", "reason"),
    ]
)
SHOWN_RUN = sorted(
    [
        *LISTED_RUN,
        *("config_file", "failure", "inputs", "outputs", "recipe_digest", "record", "summary"),
        *("jobs", "script", "elsewhere"),
    ]
)
MANIFEST = {
    "step": ["category", "description", "difficulty", "id", "name", "stack", "summary", "tags"],
    "consumes": PORT,
    "produces": PORT_KEYS,
    "parameters": ["alias_of", "choices", "default", "description", "name"],
    "strategies": ["skill", "then", "when"],
    "errors": ["match", "name", "recovery", "skill"],
    "models": ["default", "description", "min_gpus", "name"],
    "run": ["default_config", "engines", "gpus_per_node", "image", "launch", "nodes"],
}
ATTEMPT = sorted(
    [
        *("run_id", "attempt", "phase", "at", "step", "root", "engine", "engine_version", "plan_digest"),
        *(
            "recipe_digest",
            "inputs",
            "outputs",
            "host",
            "pid",
            "user",
            "exit_code",
            "reason",
            "metrics",
            "code",
        ),
        *("backend", "profile", "scheduler_id", "nemotron_version", "directory", "config_name"),
    ]
)
ARTIFACT = sorted(
    [
        *("at", "digest", "facts", "fingerprint", "id", "made_by", "path", "type"),
        *("bytes", "files", "user", "history"),
    ]
)
EVENT = sorted(
    [
        *("id", "event", "at", "subject", "name", "version", "alias", "digest", "reason", "waived"),
        *("user", "host"),
    ]
)
NODE = ["at", "bytes", "facts", "id", "names", "paths", "tainted", "type"]
RUN_NODE = sorted(
    [
        *("id", "step", "engine", "state", "started", "ended", "user", "host", "directory", "metrics"),
    ]
)
LINEAGE = ["artifacts", "cut", "edges", "focus", "limited", "runs"]
LIBRARY = sorted(
    [
        *("Catalog", "Finding", "Launched", "NemotronError", "Plan", "Run", "Step", "Store", "__version__"),
        *("Artifacts", "Lineage"),
        *("check_artifact", "check_catalog", "find_run", "find_store", "launch_plan", "list_runs"),
        *("load_catalog", "plan_step", "render_plan"),
    ]
)


def commands(command: Any, name: str = "nemotron") -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")


def described(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name)
    names = "/".join(parameter.opts + parameter.secondary_opts)
    return names + ("" if parameter.is_flag else "=") + ("..." if parameter.multiple else "")


ALL = dict(commands(typer.main.get_command(build_app(""))))


def test_commands_and_their_flags() -> None:
    assert {name: [described(p) for p in command.params] for name, command in ALL.items()} == COMMANDS


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_help_shows_an_example(cli: Cli, name: str) -> None:
    done = cli(*name.split()[1:], "--help")
    assert done.code == 0
    assert f"Example: {name}" in done.out


def test_every_option_says_what_it_does() -> None:
    silent = [
        (name, p.name)
        for name, c in ALL.items()
        for p in c.params
        if p.param_type_name == "option" and not p.help
    ]
    assert silent == []


def test_exit_codes_of_errors() -> None:
    kinds = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.NemotronError)]
    assert {c.__name__: (c.exit_code, c.kind) for c in kinds} == EXIT_CODES
    assert (EXIT_INTERRUPTED, EXIT_PIPE_CLOSED) == (130, 141)


def test_json_of_steps(cli: Cli) -> None:
    listed = cli("steps", "list", "--json").json
    assert sorted(listed) == ["broken", "shadowed", "steps"]
    (step,) = [s for s in listed["steps"] if s["id"] == "rl/nemo_rl/rlhf"]
    assert sorted(step) == LISTED
    assert sorted(step["consumes"][0]) == ["name", "required", "type"]
    assert sorted(step["produces"][0]) == ["name", "type"]
    shown = cli("steps", "show", "rl/nemo_rl/rlhf", "--json").json
    assert sorted(shown) == SHOWN
    assert sorted(shown["consumes"][0]) == sorted(shown["produces"][0]) == PORT
    config = cli("steps", "show", "rl/nemo_rl/rlhf", "-c", "tiny", "--json").json
    assert sorted(config) == ["config", "keys"]
    assert sorted(config["keys"]["grpo.seed"]) == ["from", "value"]
    checked = cli("steps", "check", "--json").json
    assert sorted(checked) == ["findings", "steps"]


def test_json_of_a_broken_step(world: Any, cli: Cli) -> None:
    (world.catalog / "make/rows/step.toml").write_text("[step\n")
    (broken,) = cli("steps", "list", "--json").json["broken"]
    assert sorted(broken) == ["id", "line", "path", "problem", "root"]


def test_json_of_a_plan(world: Any, cli: Cli) -> None:
    plan = cli("steps", "run", "rl/nemo_rl/rlhf", "-d", "--json").json
    assert sorted(plan) == PLAN
    assert plan["schema"] == 1
    assert sorted(plan["recipe"]) == RECIPE
    assert sorted(plan["placement"]) == PLACEMENT
    assert sorted(plan["inputs"][0]) == INPUT
    assert sorted(plan["outputs"][0]) == OUTPUT
    assert sorted(plan["findings"][0]) == FINDING
    built = cli("steps", "run", "use/count", "-c", "built", "-d", "--json").json
    assert sorted(built["builds"][0]) == ["key", "plan"]
    assert sorted(built["builds"][0]["plan"]) == PLAN
    explained = cli("steps", "run", "use/count", "-d", "--explain", "rows", "--json").json
    assert sorted(explained) == ["key", "keys", "sources", "value"]
    assert sorted(explained["sources"][0]) == ["kind", "layer", "line", "path", "place", "text", "winner"]


def test_json_of_runs(world: Any, cli: Cli) -> None:
    launched = cli("steps", "run", "use/count", "-c", "built", "--json").json
    assert sorted(launched) == ["directory", "outcome", "outputs", "run", "summary"]
    output = launched["outputs"]["count"]
    assert sorted(output) == ["bytes", "digest", "facts", "files", "fingerprint", "path", "type"]
    listed = cli("runs", "list", "--json").json
    assert sorted(listed) == ["runs"]
    assert sorted(listed["runs"][0]) == LISTED_RUN
    shown = cli("runs", "show", launched["run"], "--json").json
    assert sorted(shown) == SHOWN_RUN
    assert sorted(shown["inputs"]["rows"]) == ["digest", "made_by", "path", "reference", "type"]
    assert sorted(cli("runs", "logs", launched["run"], "--json").json) == ["lines", "log", "run"]
    (waited,) = cli("runs", "wait", launched["run"], "--json").json["runs"]
    assert sorted(waited) == ["exit_code", "reason", "run", "state"]
    (cancelled,) = cli("runs", "cancel", launched["run"], "--json").json["runs"]
    assert sorted(cancelled) == ["run", "state", "was_over"]
    other = cli("steps", "run", "use/count", "-c", "built", "rows=1", "--json").json["run"]
    compared = cli("runs", "diff", launched["run"], other, "--json").json
    assert sorted(compared) == ["differences", "runs"]
    assert sorted(compared["runs"][0]) == ["run", "state"]
    assert sorted(compared["differences"][0]) == ["change", "key", "kind", "new", "old"]


def test_json_of_an_error(cli: Cli) -> None:
    error = cli("steps", "run", "use/count", "--json").json
    assert sorted(error) == ["error"]
    assert sorted(error["error"]) == ERROR
    assert sorted(error["error"]["findings"][0]) == FINDING


def test_files_of_a_run_directory(world: Any, cli: Cli) -> None:
    cli("steps", "run", "make/rows")
    (run,) = world.runs()
    ours = {p.name for p in run.iterdir()} - {"argv.json", "starts", "rows.jsonl"}
    assert ours == {
        *("plan.json", "place.json", "config.yaml", "launch.sh", "runtime", "recipe", "logs", "lock"),
        *("record.json", "outputs.json", "attempt.json"),
    }
    assert {p.name for p in world.home.iterdir()} == {"runs", "records", "claims", "recipes"}


def test_keys_of_a_manifest() -> None:
    assert {table: sorted(keys) for table, keys in MANIFEST_KEYS.items()} == MANIFEST


def test_fields_of_records() -> None:
    assert sorted(f.name for f in fields(AttemptRecord) if f.name != "extra") == ATTEMPT
    assert sorted(f.name for f in fields(ArtifactRecord) if f.name != "extra") == ARTIFACT
    assert sorted(f.name for f in fields(EventRecord) if f.name != "extra") == EVENT
    assert PHASES == ("submitted", "started", "ended", "settled")
    assert EVENTS == ("version", "alias", "taint", "untaint", "digest")


def test_json_of_artifacts(cli: Cli) -> None:
    assert cli("steps", "run", "use/count", "-c", "built").code == 0
    listed = cli("artifacts", "list", "--json").json["artifacts"]
    assert sorted(listed[0]) == sorted([*NODE, "made_by"])
    (lineage,) = cli("artifacts", "lineage", listed[0]["id"], "--json").json["lineages"]
    assert sorted(lineage) == LINEAGE
    assert sorted(lineage["artifacts"][0]) == NODE
    assert sorted(lineage["runs"][0]) == RUN_NODE
    assert sorted(lineage["edges"][0]) == ["artifact", "direction", "port", "run"]
    (shown,) = cli("artifacts", "show", listed[0]["id"], "--json").json["artifacts"]
    assert sorted(shown) == sorted([*NODE, "places", "made_by", "used_by", "tainted_through", "checkpoint"])
    (verified,) = cli("artifacts", "verify", listed[0]["id"], "--json").json["verified"]
    assert sorted(verified) == ["digest", "ident", "path", "problem", "state"]


def test_json_of_profiles(world: Any, cli: Cli) -> None:
    (world.work / "env.toml").write_text('[a]\nexecutor = "slurm"\nsecrets = ["HF_TOKEN"]\nnodes = 1\n')
    listed = cli("profiles", "list", "--json").json
    assert sorted(listed) == ["files", "findings", "profiles"]
    assert sorted(listed["profiles"][0]) == sorted(
        ["name", "executor", "extends", "description", "file", "line", "problem"]
    )
    shown = cli("profiles", "show", "a", "--json").json
    assert sorted(shown) == sorted(
        ["name", "executor", "extends", "file", "values", "origins", "secrets", "findings"]
    )
    assert sorted(shown["origins"]["nodes"]) == ["file", "line", "profile"]
    assert sorted(shown["secrets"][0]) == ["key", "name", "optional", "variable"]
    checked = cli("profiles", "check", "a", "--json").json
    assert sorted(checked) == ["executor", "findings", "profile", "scheduler_asked", "start_time"]


def test_names_of_the_library() -> None:
    assert sorted(nemotron.__all__) == LIBRARY
    for name in nemotron.__all__:
        assert getattr(nemotron, name) is not None
