"""Runs whose inputs only their job could see become runs like any other once they have ended well."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.index.store_index import store_index
from nemotron.artifacts.records import AttemptRecord, read_record
from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store
from nemotron.errors import CheckFailed, Conflict
from nemotron.launch.bundle import write_bundle
from nemotron.launch.finish import finish
from nemotron.planning.build import plan_step
from nemotron.planning.request import Request


@pytest.fixture
def store(world: Any) -> Store:
    return Store(world.home)


def launched(run: Run) -> Run:
    """The run after its job: as a scheduler would start it."""
    environ = {**os.environ, "NEMOTRON_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", "launch.sh"], cwd=run.directory, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return run


def made(store: Store, number: int = 0, *overrides: str) -> Run:
    directory = store.runs_dir / f"make-rows-20261121-1000{number:02d}-abcd"
    directory.mkdir(parents=True)
    write_bundle(directory, plan_step(Request("make/rows", overrides=overrides)), store)
    return Run(directory)


def counted(store: Store, wanted: dict[str, Any], reference: str, number: int = 30) -> Run:
    """A run of use/count that was submitted when nobody could see its input."""
    some = store.root.parent / "some.jsonl"
    some.write_text(
        '{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}\n'
    )
    plan = plan_step(Request("use/count", inputs={"rows": str(some)}))
    late = [
        replace(i, state="late", reference=reference, path=None, digest=None, type=None, facts={})
        if i.port == "rows"
        else i
        for i in plan.inputs
    ]
    plan = plan.with_inputs(tuple(late))
    directory = store.runs_dir / f"use-count-20261121-1000{number:02d}-abcd"
    directory.mkdir(parents=True)
    write_bundle(directory, plan, store, late={"rows": {"types": ["training_jsonl"], **wanted}})
    return Run(directory)


def after(store: Store, upstream: Run, number: int = 30) -> Run:
    wanted = {"run": upstream.id, "directory": str(upstream.directory), "port": "rows"}
    return counted(store, wanted, f"run://{upstream.id}/rows", number)


def edges(store: Store, run: Run) -> list[tuple[str, str]]:
    index = store_index(store, os.environ)
    return [(e.port, e.artifact) for e in index.inputs_of([run.id], 99)]


def settled(store: Store) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(store.records_dir.rglob("attempt-*.settled.json"))]


def test_a_run_based_on_one_that_was_not_finished_gets_its_recipe_and_lineage(store: Store) -> None:
    first = launched(made(store))
    second = launched(after(store, first))
    assert second.recipe_digest == "pending"
    assert edges(store, second) == [("rows", f"ref:run://{first.id}/rows")]
    told = finish(store, second, os.environ)
    assert told.findings == ()
    assert first.is_settled, "what it is based on comes first"
    digest = first.outputs["rows"]["digest"]
    assert edges(store, second) == [("rows", digest)]
    (record,) = settled(store)
    assert (record["recipe_digest"], record["inputs"]["rows"]["digest"]) == (told.recipe_digest, digest)
    again = plan_step(Request("use/count", inputs={"rows": f"run://{first.id}/rows"}))
    assert (again.recipe_digest, again.done_by) == (told.recipe_digest, second.id), "so that it is reused"


def test_finishing_again_changes_nothing(store: Store) -> None:
    second = launched(after(store, launched(made(store))))
    told = finish(store, second, os.environ)
    files = {p: p.read_bytes() for p in store.records_dir.rglob("*.json")}
    (second.directory / "recipe").write_text("pending\n")  # killed before the last step
    assert finish(store, second, os.environ) == told
    assert {p: p.read_bytes() for p in store.records_dir.rglob("*.json")} == files
    assert second.recipe_digest == told.recipe_digest


def test_a_path_that_only_the_job_saw_is_identified_when_it_can_be_seen(store: Store, tmp_path: Path) -> None:
    data = launched(made(store)).directory / "rows.jsonl"
    run = launched(counted(store, {"path": str(data)}, str(data)))
    told = finish(store, run, os.environ)
    assert told.recipe_digest == plan_step(Request("use/count", inputs={"rows": str(data)})).recipe_digest
    assert [artifact[:7] for _, artifact in edges(store, run)] == ["blake3:"]


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_an_input_that_is_no_longer_what_was_read_leaves_the_recipe_unknown(
    store: Store, change: str
) -> None:
    data = launched(made(store)).directory / "rows.jsonl"
    run = launched(counted(store, {"path": str(data)}, str(data)))
    if change == "gone":
        data.unlink()
    else:
        data.write_text(data.read_text() * 2)
    told = finish(store, run, os.environ)
    (finding,) = told.findings
    assert (told.recipe_digest, finding.id) == (None, "input.not_pinned")
    assert run.is_settled, "what it made is known nevertheless"
    assert edges(store, run) == [("rows", f"ref:{data}")]


def test_a_run_whose_recipe_was_known_needs_no_second_record(store: Store) -> None:
    run = launched(made(store))
    told = finish(store, run, os.environ)
    assert (told.recipe_digest, settled(store)) == (run.plan["recipe_digest"], [])
    assert run.is_settled


def test_a_run_that_has_not_succeeded_cannot_be_finished(store: Store) -> None:
    with pytest.raises(Conflict, match="prepared"):
        finish(store, made(store), os.environ)


def test_an_output_that_is_no_longer_what_it_should_be_is_refused(store: Store) -> None:
    run = launched(made(store))
    (run.directory / "rows.jsonl").write_text("{\n")
    with pytest.raises(CheckFailed, match="not what they should be"):
        finish(store, run, os.environ)


def test_a_long_chain_is_settled_from_its_beginning(store: Store) -> None:
    first = launched(made(store))
    runs = [launched(after(store, first, 30 + n)) for n in range(3)]
    for run in runs:
        finish(store, run, os.environ)
    digest = first.outputs["rows"]["digest"]
    assert [edges(store, run) for run in runs] == [[("rows", digest)]] * 3


def test_the_order_in_which_records_are_read_does_not_matter(store: Store) -> None:
    from nemotron.artifacts.index.schema import INDEXES, TABLES, Writer

    second = launched(after(store, launched(made(store))))
    finish(store, second, os.environ)
    found = [read_record(p) for p in sorted(store.records_dir.rglob("*.json"))]
    assert {r.phase for r in found if isinstance(r, AttemptRecord) and r.run_id == second.id} == {
        *("started", "ended", "settled")
    }
    held = set()
    for seed in range(24):
        random.Random(seed).shuffle(found)
        database = sqlite3.connect(":memory:", isolation_level=None)
        database.executescript(TABLES + INDEXES)
        step = 1 + seed % 3
        for start in range(0, len(found), step):
            Writer(database).put(found[start : start + step])  # type: ignore[arg-type]
        queries = (
            "SELECT run_id, port, ident FROM input JOIN run ON run.id = run "
            "JOIN artifact ON artifact.id = artifact",
            "SELECT run_id, rank, started, ended, recipe, exit_code FROM run",
            "SELECT ident, type FROM artifact",
        )
        held.add(repr([sorted(database.execute(query).fetchall(), key=repr) for query in queries]))
    (one,) = held
    assert "ref:" not in one
