"""Inputs that only the job can see: found, checked, pinned once, and written into the trainer's config."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scheduled_run import ScheduledRun

from nemotron.artifacts.records import stat_fingerprint
from nemotron.errors import CheckFailed
from nemotron.job import late
from nemotron.job.late import fill_config, pin_late_inputs

WriteRows = Callable[..., Path]
IN = 'data: "@@late:rows@@"\nlisted: ["@@late:rows@@/x", "@@late:rows-2@@"]\n'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a config that waits for paths."""
    directory = tmp_path / "runs" / "count-20261121-111111-aaaa"
    directory.mkdir(parents=True)
    (directory / "config.yaml.in").write_text(IN)
    return directory


def place(**wanted: dict[str, Any]) -> dict[str, Any]:
    inputs = {p: {"type": None, "reference": f"ref-{p}", "path": None, "digest": None} for p in wanted}
    return {"inputs": inputs, "late": wanted}


def by_path(path: Path, *types: str) -> dict[str, Any]:
    return {"types": list(types) or ["training_jsonl"], "path": str(path)}


def upstream(run: Path, output: Path, *, settled: bool = False, **record: Any) -> dict[str, Any]:
    """A run that made `output`, and how it is asked for."""
    made = run.parent / "rows-20261121-101010-bbbb"
    made.mkdir()
    outputs = {"rows": {"type": "training_jsonl", "path": str(output)}}
    told = {"exit_code": 0, "attempt": 1, "outputs": outputs, **record}
    (made / "record.json").write_text(json.dumps(told))
    if settled:
        known = {**outputs["rows"], "digest": "blake3:77", "fingerprint": stat_fingerprint(output)}
        (made / "outputs.json").write_text(json.dumps({"rows": known}))
    return {"types": ["training_jsonl"], "run": made.name, "directory": str(made), "port": "rows"}


def test_a_path_is_pinned_by_what_a_client_can_tell_later(run: Path, write_rows: WriteRows) -> None:
    rows = write_rows("chat.jsonl", "training_jsonl")
    pinned = pin_late_inputs(run, place(rows=by_path(rows, "preference_jsonl", "training_jsonl")))
    assert pinned == {
        "rows": {
            "type": "training_jsonl",
            "reference": "ref-rows",
            "path": str(rows),
            "digest": "pending",
            "fingerprint": stat_fingerprint(rows),
        }
    }
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == str(rows)


def test_nothing_late_changes_nothing(run: Path) -> None:
    assert pin_late_inputs(run, {"inputs": {}, "late": {}}) == {}
    assert pin_late_inputs(run, {"inputs": {}}) == {}
    assert not (run / "config.yaml").exists()


def test_an_output_of_a_run_says_which_run_made_it(run: Path, write_rows: WriteRows) -> None:
    rows = write_rows("chat.jsonl", "training_jsonl")
    pinned = pin_late_inputs(run, place(rows=upstream(run, rows)))["rows"]
    assert (pinned["made_by"], pinned["output"]) == ("rows-20261121-101010-bbbb", "rows")
    assert pinned["digest"] == "pending"


def test_a_settled_run_tells_the_digest_too(run: Path, write_rows: WriteRows) -> None:
    rows = write_rows("chat.jsonl", "training_jsonl")
    pinned = pin_late_inputs(run, place(rows=upstream(run, rows, settled=True)))
    assert pinned["rows"]["digest"] == "blake3:77"


def test_the_digest_of_what_was_there_before_is_not_believed(run: Path, write_rows: WriteRows) -> None:
    rows = write_rows("chat.jsonl", "training_jsonl")
    wanted = upstream(run, rows, settled=True)
    rows.write_text(rows.read_text() * 2)
    assert pin_late_inputs(run, place(rows=wanted))["rows"]["digest"] == "pending"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"exit_code": 7, "reason": "trainer failed", "outputs": {}}, "did not succeed: trainer failed"),
        ({"exit_code": 130, "reason": "walltime"}, "did not succeed: walltime"),
        ({"outputs": {"other": {}}}, "left no output rows"),
    ],
)
def test_a_run_that_did_not_leave_it_is_named(
    run: Path, write_rows: WriteRows, record: dict[str, Any], said: str
) -> None:
    rows = write_rows("chat.jsonl", "training_jsonl")
    with pytest.raises(CheckFailed) as caught:
        pin_late_inputs(run, place(rows=upstream(run, rows, **record)))
    assert f"input rows: run rows-20261121-101010-bbbb {said}" in caught.value.what
    assert caught.value.next == "nemotron runs show rows-20261121-101010-bbbb"


def test_a_run_that_has_not_ended_is_waited_for_a_while(
    run: Path, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = upstream(run, write_rows("chat.jsonl", "training_jsonl"))
    record = Path(wanted["directory"]) / "record.json"
    text = record.read_text()
    record.unlink()
    asked: list[int] = []

    def appear() -> bool:
        """As through a network file system: a moment later."""
        asked.append(1)
        record.write_text(text)
        return False

    assert "rows" in pin_late_inputs(run, place(rows=wanted), stopped=appear)
    assert asked
    (run / late.PINNED_FILE).unlink()
    record.unlink()
    monkeypatch.setattr(late, "VISIBLE_SECONDS", 0.0)
    with pytest.raises(CheckFailed, match="has not ended"):
        pin_late_inputs(run, place(rows=wanted))


def test_all_that_is_wrong_is_said_at_once(run: Path, write_rows: WriteRows, tmp_path: Path) -> None:
    prompts = write_rows("prompts.jsonl", "prompt_jsonl")
    wanted = place(rows=by_path(tmp_path / "nothing"), more=by_path(prompts))
    with pytest.raises(CheckFailed) as caught:
        pin_late_inputs(run, wanted)
    messages = [f.message for f in caught.value.findings]
    assert "input rows: no such file or directory" in messages
    assert "input more: this is no training_jsonl" in messages
    assert "and 1 more" in caught.value.what
    assert not (run / late.PINNED_FILE).exists()


def test_a_later_attempt_reads_what_the_first_one_read(run: Path, write_rows: WriteRows) -> None:
    rows = write_rows("chat.jsonl", "training_jsonl")
    wanted = place(rows=by_path(rows))
    first = pin_late_inputs(run, wanted)
    assert pin_late_inputs(run, wanted) == first
    rows.write_text(rows.read_text() * 2)
    with pytest.raises(CheckFailed, match="has changed since the first attempt"):
        pin_late_inputs(run, wanted)


PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(PATHS, PATHS)
@example('"', "\\")
@example("\x85\u2028\ufeff\x7f", "\n\t: {} # @@late:rows@@")
@example("${oc.env:X} !!python/object", "%s \\1 \\g<0>")
def test_any_path_arrives_in_the_config_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, one: str, other: str
) -> None:
    run = tmp_path_factory.mktemp("run")
    (run / "config.yaml.in").write_text(IN)
    fill_config(run, {"rows": one, "rows-2": other})
    found = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert found == {"data": one, "listed": [f"{one}/x", other]}


def test_a_path_that_no_yaml_can_hold_is_refused(run: Path) -> None:
    with pytest.raises(CheckFailed, match="not UTF-8"):
        fill_config(run, {"rows": "/data/\udcff", "rows-2": "x"})


class TestInAJob:
    """The same in a process of its own."""

    def test_a_missing_input_fails_the_attempt_before_the_trainer_starts(
        self, scheduled: ScheduledRun, tmp_path: Path
    ) -> None:
        scheduled.change("place.json", late={"rows": by_path(tmp_path / "nothing")})
        (scheduled.directory / ".secrets").write_text("A=b\0")
        code, _ = scheduled.run()
        assert code == 4
        assert scheduled.starts() == []
        failure = scheduled.read("failure.json")
        assert failure["what"].startswith("input rows: ")
        assert failure["where"].endswith("nothing")
        [(attempt, code, reason)] = scheduled.ends()
        assert (attempt, code, reason) == (1, 4, failure["what"])
        assert not (scheduled.directory / ".secrets").exists()

    def test_what_was_found_is_in_the_records(self, scheduled: ScheduledRun, write_rows: WriteRows) -> None:
        rows = write_rows("chat.jsonl", "training_jsonl")
        scheduled.change("place.json", late={"rows": by_path(rows)})
        (scheduled.directory / "config.yaml.in").write_text('data: "@@late:rows@@"\n')
        assert scheduled.run()[0] == 0
        for record in scheduled.records_dir.rglob("*.json"):
            found = json.loads(record.read_text())["inputs"]["rows"]
            assert (found["path"], found["type"]) == (str(rows), "training_jsonl")

    def test_a_stub_reads_nothing(self, scheduled: ScheduledRun, tmp_path: Path) -> None:
        scheduled.change("place.json", late={"rows": by_path(tmp_path / "nothing")})
        scheduled.change("plan.json", placement={"stub": True})
        assert scheduled.run()[0] == 0
