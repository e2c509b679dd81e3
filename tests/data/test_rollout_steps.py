"""The steps data_prep/gym_rollouts and data_prep/scratch_rollouts as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import nemotron
from nemotron.artifacts.checks import check_artifact
from nemotron.data.rollouts.options import CHOICES, ExportOptions
from nemotron.data.rollouts.tiny import rollout_rows

STEPS = Path(nemotron.__file__).parent / "steps" / "data_prep"
OUTPUTS = {
    "chat": "training_jsonl",
    "validation": "training_jsonl",
    "preferences": "preference_jsonl",
    "prompts": "prompt_jsonl",
}


def config_of(step: str, **changes: Any) -> dict[str, Any]:
    loaded = yaml.safe_load((STEPS / step / "config" / "default.yaml").read_text(encoding="utf-8"))
    return {**loaded, **changes}


def run(step: str, place: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    (place / "config.yaml").write_text(yaml.safe_dump(config_of(step, **changes)), encoding="utf-8")
    words = [sys.executable, str(STEPS / step / "step.py"), "--config", "config.yaml"]
    return subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=120, check=False)


def tiny(place: Path, name: str = "rollouts.jsonl") -> str:
    (place / name).write_text("".join(json.dumps(row) + "\n" for row in rollout_rows(60, 4, 0)))
    return name


def test_tiny_rollouts_are_what_their_type_says(tmp_path: Path) -> None:
    done = run("scratch_rollouts", tmp_path, prompts=6, rollouts_per_prompt=3)
    assert (done.returncode, done.stderr) == (0, "")
    checked = check_artifact(tmp_path / "data" / "rollouts.jsonl", "rollout_jsonl")
    assert checked.ok
    assert checked.facts["rows"] == 18
    rows = [json.loads(line) for line in (tmp_path / "data" / "rollouts.jsonl").read_text().splitlines()]
    assert len({row["response"]["id"] for row in rows}) == 18


def test_everything_is_made_of_tiny_rollouts(tmp_path: Path) -> None:
    make = ["chat", "preferences", "prompts"]
    done = run("gym_rollouts", tmp_path, rollouts=tiny(tmp_path), make=make, validation_share=0.2)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    facts = {}
    for name, type_ in OUTPUTS.items():
        checked = check_artifact(tmp_path / "data" / f"{name}.jsonl", type_)
        assert checked.findings == ()
        facts[name] = checked.facts["rows"]
    assert report["rows"] == 240
    assert facts["chat"] + facts["validation"] == report["outputs"]["chat"]["kept"]
    assert facts["prompts"] == 60
    assert 10 < facts["preferences"] == report["outputs"]["preferences"]["kept"] < 60
    assert f"chat: {report['outputs']['chat']['kept']} rows written" in done.stdout
    assert "reward of 240 rows" in done.stdout


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({}, 2, "no input is named (rollouts)"),
        ({"rollouts": "r.jsonl", "files": ["r.jsonl"]}, 2, "both an input and files are named"),
        ({"files": "r.jsonl"}, 2, "files is no list of paths"),
        ({"rollouts": "gone.jsonl"}, 3, "no such file or directory (gone.jsonl)"),
        (
            {"rollouts": "r.jsonl", "reward_threshold": 7},
            4,
            "chat has no row of 240: 240 reward_below_threshold",
        ),
        ({"rollouts": "r.jsonl", "reward_treshold": 7}, 2, "did you mean reward_threshold"),
        ({"rollouts": "r.jsonl", "workers": 0}, 2, "workers is 0"),
        ({"rollouts": "r.jsonl", "make": ["chats"]}, 2, "'chats' is nothing that is made of rollouts (make)"),
        ({"rollouts": "r.jsonl", "output": {"chat": "config.yaml/chat.jsonl"}}, 2, "a file stands where"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    tmp_path: Path, changes: dict[str, Any], code: int, says: str
) -> None:
    tiny(tmp_path, "r.jsonl")
    done = run("gym_rollouts", tmp_path, **changes)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "chat.jsonl").exists()
    if code == 4:
        assert "r.jsonl:1: the reward is" in done.stderr, "the report tells why"


def test_the_config_has_every_option_with_its_default_and_the_manifest_its_choices() -> None:
    ours = {"rollouts", "raw_rollouts", "files", "make", "workers", "output"}
    config = {key: value for key, value in config_of("gym_rollouts").items() if key not in ours}
    assert ExportOptions.from_config(config) == ExportOptions()
    assert config.keys() == ExportOptions.__dataclass_fields__.keys()
    manifest = tomllib.loads((STEPS / "gym_rollouts" / "step.toml").read_text())
    choices = {p["name"]: tuple(p["choices"]) for p in manifest["parameters"] if "choices" in p}
    assert {name: set(given) for name, given in choices.items()} == {n: set(c) for n, c in CHOICES.items()}
    readme = (STEPS / "gym_rollouts" / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in OUTPUTS)
