"""The steps that prepare chats, preferences, prompts and packed sequences, each as a whole."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import nemotron
from nemotron.artifacts.checks import check_artifact
from nemotron.data import tiny_chat

STEPS = Path(nemotron.__file__).parent / "steps" / "data_prep"
Row = dict[str, Any]


def script_of(step: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"data_prep_{step}", STEPS / step / "step.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(step: str, **changes: Any) -> Row:
    """The step's default config, changed, in this process alone."""
    text = (STEPS / step / "config" / "default.yaml").read_text(encoding="utf-8")
    return {**yaml.safe_load(text), "workers": 1, **changes}


def run(step: str, place: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Row:
    """Run the step in `place` and return its report."""
    monkeypatch.chdir(place)
    script_of(step).main(config_of(step, **changes))
    found: Row = json.loads(Path("data/report.json").read_text(encoding="utf-8"))
    return found


def write(path: Path, rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_chats_of_any_form_become_an_artifact_with_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"ask": f"{n}?", "say": str(n)} for n in range(50)] + [{"ask": "no answer"}]
    keys = {"dataset_name": "ResponseDataset", "input_key": "ask", "output_key": "say"}
    raw = write(tmp_path / "raw.jsonl", rows)
    report = run("chat", tmp_path, monkeypatch, raw_path=raw, split_validation_size=0.2, **keys)
    assert check_artifact(tmp_path / "data/chat.jsonl", "training_jsonl").ok
    assert report["outputs"]["rows"] + report["outputs"]["validation"] == 50
    assert report["left_out"]["missing_field"]["examples"] == [{"file": raw, "line": 51, "what": "no say"}]
    assert "left out: missing_field" in capsys.readouterr().out


def test_preferences_are_written_in_one_form_and_once_more_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(tiny_chat.preference_rows(60, 0))
    data = write(tmp_path / "in.jsonl", rows)
    export = {"method": "kto", "type": "llama3.ultra", "options": {}}
    report = run("preference", tmp_path, monkeypatch, data_path=data, export=export)
    written = (tmp_path / "data/preferences.jsonl").read_bytes().splitlines()
    assert [json.loads(line) for line in written] == rows, "scores included"
    exported = [json.loads(line) for line in (tmp_path / "data/export.jsonl").read_bytes().splitlines()]
    assert len(exported) == report["export"]["outputs"]["export"] == 120
    assert exported[1].keys() == {"prompt", "completion", "label"} and exported[1]["label"] is False
    back = run(
        "preference", tmp_path, monkeypatch, raw_path=str(tmp_path / "data/export.jsonl"),
        method="kto", type="llama3.ultra",
    )  # fmt: skip
    # Where a prompt came often its answers meet in another order, of which some are the same twice.
    assert 50 < back["outputs"]["rows"] <= 60
    assert back["outputs"]["rows"] + sum(left["rows"] for left in back["left_out"].values()) >= 60


def test_judged_answers_without_a_label_count_as_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "b", "label": False}]
    raw = write(tmp_path / "raw.jsonl", rows)
    kto = {"method": "kto", "type": "chatml.ultra", "raw_path": raw}
    report = run("preference", tmp_path, monkeypatch, assume_label=True, **kto)
    assert report["outputs"] == {"rows": 1} and report["rows_in"] == 2
    with pytest.raises(nemotron.NemotronError) as raised:
        run("preference", tmp_path, monkeypatch, **kto)
    assert "no_label" in raised.value.render() and "no_counterpart" in raised.value.render()
    assert json.loads((tmp_path / "data/report.json").read_text())["outputs"] == {"rows": 1}


def test_prompts_come_once_and_name_their_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "in.jsonl", tiny_chat.chat_rows(700, 0))
    report = run("prompts", tmp_path, monkeypatch, data_path=data, agent="genrm_simple_agent")
    checked = check_artifact(tmp_path / "data/prompts.jsonl", "prompt_jsonl")
    assert checked.ok and not checked.findings
    assert report["outputs"]["rows"] == 308
    assert report["left_out"]["duplicate_prompt"]["rows"] == 392


@pytest.mark.parametrize("step", ["chat", "preference", "prompts"])
def test_two_inputs_or_none_are_refused(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for changes in ({"data_path": "a", "raw_path": "b"}, {}):
        with pytest.raises(nemotron.NemotronError, match=r"input|data_path"):
            run(step, tmp_path, monkeypatch, **changes)


def test_a_mistake_of_the_users_is_told_without_a_traceback(tmp_path: Path) -> None:
    write(tmp_path / "raw.jsonl", [{"a": 1}])
    changes = {"raw_path": "raw.jsonl", "type": "chatml.intle"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_of("preference", **changes)))
    words = [sys.executable, str(STEPS / "preference" / "step.py"), "--config", "config.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "nearest: chatml.intel" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("step", ["chat", "preference", "sft_packing"])
def test_every_option_of_the_code_stands_in_the_default_config(step: str) -> None:
    """What a config does not have cannot be set on the command line."""
    config = config_of(step)
    if step == "chat":
        assert set(script_of(step).KEYS) <= config.keys()
    if step == "preference":
        from nemotron.data.preferences.formats import option_names

        assert option_names() == config["options"].keys()
    if step == "sft_packing":
        from nemotron.data.packing.write import PackOptions

        assert PackOptions(**config["packing"]) == PackOptions()
