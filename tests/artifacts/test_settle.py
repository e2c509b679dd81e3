"""A run's outputs become artifacts; the checkpoints beside the chosen one are on record too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.collection import Artifacts
from nemotron.artifacts.records import PENDING, ArtifactRecord, read_records
from nemotron.artifacts.runs import Run
from nemotron.artifacts.settle import settle
from nemotron.artifacts.store import Store

ROW = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
AT = "2026-05-01T10:00:00.000Z"


@pytest.fixture
def store(world: Any) -> Store:
    return Store(world.home)


@pytest.fixture
def run(store: Store) -> Run:
    """A run that ended with step 2 of three checkpoints as its output."""
    directory = store.runs_dir / "sft-nemo_rl-20260501-100000-abcd"
    for step in (1, 2, 3):
        place = directory / "checkpoints" / f"step_{step}" / "policy"
        place.mkdir(parents=True)
        (place / "rows.jsonl").write_text(json.dumps(ROW | {"step": step}) + "\n", encoding="utf-8")
    (directory / "checkpoints" / "step_9.tmp").mkdir()
    chosen = str(directory / "checkpoints" / "step_2" / "policy" / "rows.jsonl")
    output = {"type": "training_jsonl", "path": chosen, "step_of_training": 2}
    record = {"at": AT, "attempt": 1, "exit_code": 0, "outputs": {"policy": output}}
    (directory / "record.json").write_text(json.dumps(record), encoding="utf-8")
    return Run(directory)


def records_of(store: Store) -> dict[str, ArtifactRecord]:
    return {r.id: r for r in read_records(store.records_dir) if isinstance(r, ArtifactRecord)}


def test_every_checkpoint_is_on_record_and_the_chosen_one_identified(store: Store, run: Run) -> None:
    assert settle(store, run, {}) == ()
    found = records_of(store)
    others = {r.made_by["port"]: r for r in found.values() if r.digest == PENDING and r.made_by}
    assert sorted(others) == ["policy/step_1", "policy/step_3"]
    (chosen,) = [r for r in found.values() if r.digest != PENDING]
    assert chosen.made_by == {"run_id": run.id, "attempt": 1, "port": "policy", "step_of_training": 2}
    assert (chosen.files, chosen.bytes) == (1, Path(chosen.path).stat().st_size)
    assert run.outputs["policy"]["digest"] == chosen.digest
    assert settle(store, run, {}) == () and records_of(store) == found


def test_a_checkpoint_that_is_used_later_is_known_to_be_of_its_run(
    store: Store, run: Run, world: Any, cli: Any
) -> None:
    settle(store, run, {})
    path = str(run.directory / "checkpoints" / "step_3" / "policy" / "rows.jsonl")
    artifacts = Artifacts(store)
    assert artifacts.find(path).idents == (f"record:{run.id}.policy.step_3",)
    done = cli("steps", "run", "use/count", "-i", f"rows={path}", "--json")
    assert done.code == 0, done.err
    (found,) = Artifacts(store).lineage(done.json["run"])
    assert run.id in found.runs
    (ident,) = Artifacts(store).find(path).idents
    assert ident.startswith("blake3:")
    assert Artifacts(store).find(run.id).idents == (run.outputs["policy"]["digest"],), (
        "the run means its output"
    )


def test_a_checkpoint_that_is_named_is_known_by_its_content(store: Store, run: Run) -> None:
    settle(store, run, {})
    path = run.directory / "checkpoints" / "step_1" / "policy" / "rows.jsonl"
    added, version = Artifacts(store).add(path, name="early")
    assert (version, added.known) == (1, False)
    (found,) = Artifacts(store).lineage("early")
    assert list(found.runs) == [run.id]


def test_outputs_that_are_broken_are_not_settled(store: Store, run: Run) -> None:
    chosen = Path(run.record["outputs"]["policy"]["path"])
    chosen.write_text("{\n", encoding="utf-8")
    findings = settle(store, run, {})
    assert any(f.severity == "error" for f in findings)
    assert not run.is_settled and records_of(store) == {}
