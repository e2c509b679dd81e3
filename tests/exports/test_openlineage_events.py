"""The OpenLineage events of a run fit the specification, and say what the records say."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openlineage.client", reason="of the test group: make test")
jsonschema = pytest.importorskip("jsonschema", reason="of the test group: make test")
referencing = pytest.importorskip("referencing", reason="of the test group: make test")

import nemotron.exports  # noqa: E402

SCHEMAS = json.loads((Path(__file__).parent / "openlineage_schema" / "schemas.json").read_text("utf-8"))
OURS = json.loads((Path(nemotron.exports.__file__).parent / "facets.json").read_text("utf-8"))
CORE = "https://openlineage.io/spec/2-0-2/OpenLineage.json"
REGISTRY = referencing.Registry().with_resources(
    (address, referencing.jsonschema.DRAFT202012.create_resource(schema))
    for address, schema in {**SCHEMAS, OURS["$id"]: OURS}.items()
)
# The specification gives every facet one name.
NAMES = {
    "ParentRunFacet": "parent",
    "ProcessingEngineRunFacet": "processing_engine",
    "ErrorMessageRunFacet": "errorMessage",
    "JobTypeJobFacet": "jobType",
    "DocumentationJobFacet": "documentation",
    "DatasetTypeDatasetFacet": "datasetType",
    "DatasetVersionDatasetFacet": "version",
    "SchemaDatasetFacet": "schema",
    "StorageDatasetFacet": "storage",
    "InputStatisticsInputDatasetFacet": "inputStatistics",
    "OutputStatisticsOutputDatasetFacet": "outputStatistics",
    "NemotronRunFacet": "nemotron_run",
    "NemotronArtifactFacet": "nemotron_artifact",
}
Cli = Callable[..., Any]


def validate(value: Any, address: str) -> None:
    jsonschema.Draft202012Validator(
        {"$ref": address}, registry=REGISTRY, format_checker=jsonschema.FormatChecker()
    ).validate(value)


def facets_of(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every facet of an event, by name."""
    for holder in (event["run"], event["job"], *event.get("inputs", ()), *event.get("outputs", ())):
        for key in ("facets", "inputFacets", "outputFacets"):
            yield from holder.get(key, {}).items()


def check(event: dict[str, Any]) -> None:
    """Fail when an event or one of its facets is not what the specification says."""
    assert event["schemaURL"] == f"{CORE}#/$defs/RunEvent"
    validate(event, event["schemaURL"])
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    for name, facet in facets_of(event):
        validate(facet, facet["_schemaURL"])
        assert NAMES[facet["_schemaURL"].rpartition("/")[2]] == name
        assert facet["_producer"] == event["producer"]


def export(cli: Cli, run: Path) -> list[dict[str, Any]]:
    """The events of a run, each checked."""
    done = cli("runs", "export", run.name)
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    for event in events:
        check(event)
    return events


@pytest.fixture
def chain(world: Any, cli: Cli) -> Any:
    """The world after a chain of two steps ran."""
    assert cli("steps", "run", "use/count", "-c", "built").code == 0
    return world


def test_a_run_that_ended_well(chain: Any, cli: Cli) -> None:
    _, user = chain.runs()
    start, complete = export(cli, user)
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert start["job"]["name"] == "use/count"
    assert start["job"]["facets"]["documentation"]["description"] == "Counts chat rows."
    (record,) = [r for r in chain.records() if r.get("run_id") == user.name and r.get("phase") == "ended"]
    assert complete["eventTime"] == record["at"]
    assert start["job"]["namespace"] == complete["job"]["namespace"] == record["root"]
    assert start["eventTime"] < complete["eventTime"]
    ours = complete["run"]["facets"]["nemotron_run"]
    assert (ours["run_id"], ours["attempt"], ours["exit_code"]) == (user.name, 1, 0)
    assert ours["recipe_digest"] == record["recipe_digest"]
    assert "exit_code" not in start["run"]["facets"]["nemotron_run"]
    engine = complete["run"]["facets"]["processing_engine"]
    assert (engine["name"], engine["version"]) == ("nemotron", record["nemotron_version"])
    assert "outputs" not in start or start["outputs"] == []


def test_datasets_join_the_runs_and_carry_content_and_counts(chain: Any, cli: Cli) -> None:
    maker, user = chain.runs()
    (made,) = export(cli, maker)[-1]["outputs"]
    (used,) = export(cli, user)[-1]["inputs"]
    assert (made["namespace"], made["name"]) == (used["namespace"], used["name"])
    assert (made["namespace"], made["name"]) == ("file", str(maker / "rows.jsonl"))
    told = json.loads((maker / "outputs.json").read_text("utf-8"))["rows"]
    for dataset in (made, used):
        facets = dataset["facets"]
        assert facets["version"]["datasetVersion"] == told["digest"]
        assert facets["storage"]["fileFormat"] == "json"
        assert facets["datasetType"]["datasetType"] == "FILE"
        assert [field["name"] for field in facets["schema"]["fields"]] == ["messages"]
        assert facets["nemotron_artifact"]["type"] == "training_jsonl"
    counts = {"rowCount": 3, "size": told["bytes"], "fileCount": 1}
    for statistics in (made["outputFacets"]["outputStatistics"], used["inputFacets"]["inputStatistics"]):
        assert {key: statistics[key] for key in counts} == counts
    assert used["facets"]["nemotron_artifact"]["reference"] == "step://make/rows?config=default"
    assert used["facets"]["nemotron_artifact"]["made_by"] == maker.name


def test_every_attempt_is_a_run_and_all_have_one_parent(world: Any, cli: Cli) -> None:
    assert cli("steps", "run", "make/rows", "behave=fail_once").code == 1
    assert cli("steps", "run", "make/rows", "behave=fail_once").code == 0
    (run,) = world.runs()
    events = export(cli, run)
    assert [e["eventType"] for e in events] == ["START", "FAIL", "START", "COMPLETE"]
    first, second = (events[n]["run"]["runId"] for n in (0, 2))
    assert first != second
    assert [e["run"]["runId"] for e in events] == [first, first, second, second]
    (parent,) = {e["run"]["facets"]["parent"]["run"]["runId"] for e in events}
    assert parent not in (first, second)
    assert all(uuid.UUID(each).version == 5 for each in (first, second, parent))
    assert events == export(cli, run)  # the same ids tomorrow and elsewhere


def test_a_failure_says_why(world: Any, cli: Cli) -> None:
    assert cli("steps", "run", "make/rows", "behave=fail").code == 1
    (run,) = world.runs()
    failed = export(cli, run)[-1]
    assert failed["eventType"] == "FAIL"
    assert failed["run"]["facets"]["errorMessage"]["message"] == "trainer failed, exit code 7"
    assert cli("steps", "run", "make/rows", "behave=nothing").code == 4
    message = export(cli, world.runs()[-1])[-1]["run"]["facets"]["errorMessage"]["message"]
    assert "output rows is not there" in message


def test_an_interrupted_attempt_is_aborted(world: Any, cli: Cli, wait_for: Any) -> None:
    import signal

    process = world.start("steps", "run", "make/rows", "behave=sleep")
    wait_for(lambda: list((world.home / "runs").glob("*/starts")))
    (run,) = world.runs()
    assert [e["eventType"] for e in export(cli, run)] == ["START"]
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 130
    assert [e["eventType"] for e in export(cli, run)] == ["START", "ABORT"]


def test_an_attempt_that_left_no_word_is_aborted_at_its_last_sign_of_life(chain: Any, cli: Cli) -> None:
    _, user = chain.runs()
    for record in (chain.home / "records").rglob(f"attempt-{user.name}-1.ended.json"):
        record.unlink()
    start, abort = export(cli, user)
    assert abort["eventType"] == "ABORT"
    seen = datetime.fromtimestamp((user / "logs" / "attempt-1.log").stat().st_mtime).astimezone()
    told = datetime.fromisoformat(abort["eventTime"])
    assert abs((told - seen).total_seconds()) < 1
    assert start["eventTime"] <= abort["eventTime"]


def test_an_end_without_a_start_has_both_events(chain: Any, cli: Cli) -> None:
    _, user = chain.runs()
    for record in (chain.home / "records").rglob(f"attempt-{user.name}-1.started.json"):
        record.unlink()
    assert [e["eventType"] for e in export(cli, user)] == ["START", "COMPLETE"]


@pytest.mark.parametrize(
    "breaks",
    [
        lambda e: e["run"].pop("runId"),
        lambda e: e["run"].update(runId="first"),
        lambda e: e.update(eventType="DONE"),
        lambda e: e.pop("eventTime"),
        lambda e: e.update(eventTime="yesterday"),
        lambda e: e["job"].pop("name"),
        lambda e: e["outputs"][0].pop("namespace"),
        lambda e: e["run"]["facets"]["parent"]["job"].pop("name"),
        lambda e: e["run"]["facets"]["nemotron_run"].pop("_schemaURL"),
        lambda e: e["run"]["facets"]["nemotron_run"].update(attempt=0),
        lambda e: e["run"]["facets"]["nemotron_run"].update(surprise=1),
        lambda e: e["outputs"][0]["facets"]["version"].pop("datasetVersion"),
        lambda e: e["outputs"][0]["outputFacets"]["outputStatistics"].update(rowCount="3"),
        lambda e: e["inputs"][0]["facets"]["schema"]["fields"][0].pop("name"),
        lambda e: e["job"]["facets"].update(mine=e["job"]["facets"]["jobType"]),
    ],
)
def test_the_check_of_these_tests_finds_what_is_wrong(chain: Any, cli: Cli, breaks: Any) -> None:
    event = export(cli, chain.runs()[-1])[-1]
    broken = copy.deepcopy(event)
    breaks(broken)
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError)):
        check(broken)


def test_our_facets_are_described_field_by_field() -> None:
    from nemotron.exports.facets import SCHEMA, NemotronArtifactFacet, NemotronRunFacet

    assert OURS["$id"] == SCHEMA
    for kind in (NemotronRunFacet, NemotronArtifactFacet):
        fields = {a.name for a in kind.__attrs_attrs__} - {"_deleted"}
        assert set(OURS["$defs"][kind.__name__]["properties"]) == fields


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/data/rows.jsonl", ("file", "/data/rows.jsonl")),
        ("s3://bucket/a/b", ("s3://bucket", "a/b")),
        ("s3://bucket", ("s3://bucket", "/")),
        ("https://host:8080/x", ("https://host:8080", "x")),
    ],
)
def test_names_of_datasets(path: str, named: tuple[str, str]) -> None:
    from nemotron.exports.openlineage import dataset_name

    assert dataset_name(path) == named


def test_a_file_takes_the_events(chain: Any, cli: Cli) -> None:
    _, user = chain.runs()
    printed = cli("runs", "export", user.name).out
    done = cli("runs", "export", user.name, "-o", "events.jsonl")
    assert (done.code, done.out) == (0, "")
    assert (chain.work / "events.jsonl").read_text("utf-8") == printed


def test_a_damaged_record_is_told_and_the_rest_is_exported(chain: Any, cli: Cli) -> None:
    _, user = chain.runs()
    (record,) = (chain.home / "records").rglob(f"attempt-{user.name}-1.started.json")
    record.write_text("{", encoding="utf-8")
    done = cli("runs", "export", user.name)
    assert done.code == 0
    assert "record.damaged" in done.err
    assert len(done.out.splitlines()) == 2


def test_a_step_that_left_the_catalog_is_exported(chain: Any, cli: Cli) -> None:
    (chain.catalog / "use/count/step.toml").unlink()
    event = export(cli, chain.runs()[-1])[-1]
    assert "documentation" not in event["job"]["facets"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nobody",), 3, "no run nobody"),
        (("--format", "openlinage"), 2, "nearest: openlineage"),
        (("--format", "wandb", "-o", "x"), 2, "-o writes events"),
    ],
)
def test_what_cannot_be_done_is_said(chain: Any, cli: Cli, words: Any, code: int, said: str) -> None:
    run = () if words == ("nobody",) else (chain.runs()[-1].name,)
    done = cli("runs", "export", *run, *words)
    assert done.code == code
    assert said in done.err


def test_a_run_that_never_started_has_nothing_to_tell(chain: Any, cli: Cli) -> None:
    _, user = chain.runs()
    for record in (chain.home / "records").rglob(f"attempt-{user.name}-*.json"):
        record.unlink()
    done = cli("runs", "export", user.name)
    assert done.code == 3
    assert "no record of an attempt" in done.err


def test_without_the_client_the_extra_is_named(chain: Any) -> None:
    place = chain.root / "fake" / "openlineage"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("raise ImportError('nothing here')", encoding="utf-8")
    import os

    path = os.pathsep.join([str(place.parent), chain.environ.get("PYTHONPATH", "")])
    done = chain.run("runs", "export", chain.runs()[-1].name, PYTHONPATH=path)
    assert done.code == 2
    assert "nothing here" in done.err
    assert "pip install 'nemotron[openlineage]'" in done.err


@pytest.mark.parametrize("words", [("steps", "list"), ("runs", "list"), ("steps", "run", "make/rows", "-d")])
def test_other_commands_load_neither_client(world: Any, words: tuple[str, ...]) -> None:
    code = (
        "import sys; from nemotron.cli.app import command_line; command_line(sys.argv[1:]);"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=world.environ,
        cwd=world.work,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "nemotron.cli" in loaded
    assert not {m for m in loaded if m.startswith(("wandb", "openlineage", "nemotron.exports"))}
