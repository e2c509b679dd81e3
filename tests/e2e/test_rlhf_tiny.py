"""RLHF on a laptop, from an empty store with one command: it learns, and it can be accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.digest import digest_path

pytestmark = pytest.mark.slow

CHAIN = {
    *("data_prep/scratch", "model/scratch", "sft/nemo_rl", "convert/hf_to_megatron"),
    *("rm/nemo_rl", "rl/nemo_rl/rlhf"),
}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def json_at(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_reward_rises(lab: Any) -> None:
    run = lab.ended["rlhf"]
    rewards = [row["train/reward"] for row in run.rows() if "train/reward" in row]
    assert len(rewards) == run.config()["grpo"]["max_num_steps"] == run.summary["steps"]
    assert mean(rewards[-5:]) > mean(rewards[:5]) + 1.0
    assert run.summary["first"] == pytest.approx(mean(rewards[:5]))
    assert run.summary["last"] == pytest.approx(mean(rewards[-5:]))


def test_the_aligned_policy_wins_by_the_judge_and_by_rules_nobody_trained_on(lab: Any) -> None:
    comparison = lab.ended["rlhf"].summary["comparison"]
    assert comparison["prompts"] == 220
    assert comparison["judge_win_rate"] >= 0.75
    assert comparison["monitor"] == "warmth"
    assert comparison["monitor_win_rate"] >= 0.75
    assert comparison["monitor_after"] > comparison["monitor_before"]


def test_warmth_is_not_paid_for_with_wrong_answers(lab: Any) -> None:
    comparison = lab.ended["rlhf"].summary["comparison"]
    before, after, n = comparison["right_before"], comparison["right_after"], comparison["prompts"]
    error = ((before * (1 - before) + after * (1 - after)) / n) ** 0.5
    assert after >= before - 2 * error
    assert after > 0.9


def test_the_judge_was_read_all_the_way(lab: Any) -> None:
    assert max(row.get("judge/fallback_rate", 0.0) for row in lab.ended["rlhf"].rows()) <= 0.05


def test_every_file_of_the_run_is_there_and_whole(lab: Any) -> None:
    run = lab.ended["rlhf"]
    place = run.directory
    assert json_at(place / "summary.json") == run.summary
    assert (place / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "train/reward by step" in (place / "curve.txt").read_text(encoding="utf-8")
    assert [p["before"] != p["after"] for p in run.summary["comparison"]["samples"]].count(True) >= 1
    outputs = json_at(place / "outputs.json")
    assert outputs == run.outputs
    policy = outputs["policy"]
    assert policy["type"] == "checkpoint_megatron"
    assert digest_path(Path(policy["path"])).value == policy["digest"]
    validated = [row["step"] for row in run.rows() if "validation/warmth" in row]
    period, steps = run.config()["grpo"]["val_period"], run.summary["steps"]
    assert validated == sorted({*range(0, steps + 1, period), steps})
    assert not list((place / "checkpoints").glob("tmp_*"))


def test_each_run_of_the_chain_is_recorded_once(lab: Any) -> None:
    attempts = [r for r in lab.chain_records if "phase" in r]
    for phase in ("started", "ended"):
        assert sorted(r["step"] for r in attempts if r["phase"] == phase) == sorted(CHAIN)
    assert {r["exit_code"] for r in attempts if r["phase"] == "ended"} == {0}


def test_the_policys_record_names_the_digests_of_all_it_came_from(lab: Any) -> None:
    records = lab.chain_records
    policy = lab.ended["rlhf"].outputs["policy"]
    (artifact,) = [r for r in records if "phase" not in r and r.get("digest") == policy["digest"]]
    run_id = artifact["made_by"]["run_id"]
    assert run_id == lab.ended["rlhf"].run
    assert artifact["made_by"]["step_of_training"] == lab.ended["rlhf"].summary["steps"]
    (ended,) = [r for r in records if r.get("run_id") == run_id and r.get("phase") == "ended"]
    made = {r["digest"]: r for r in records if "phase" not in r and r.get("digest")}
    ports = {"prompts", "validation", "policy", "reward_model"}
    assert ports <= set(ended["inputs"])
    steps = {r["run_id"]: r["step"] for r in records if r.get("phase") == "ended"}
    makers = {}
    for port in ports:
        given = ended["inputs"][port]
        assert digest_path(Path(given["path"])).value == given["digest"]
        makers[port] = steps[made[given["digest"]]["made_by"]["run_id"]]
    assert makers == {
        "prompts": "data_prep/scratch",
        "validation": "data_prep/scratch",
        "policy": "convert/hf_to_megatron",
        "reward_model": "rm/nemo_rl",
    }


def test_the_same_command_again_trains_nothing(lab: Any) -> None:
    first = lab.ended["rlhf"]
    again = lab.run("rl/nemo_rl/rlhf", "-c", "tiny")
    assert (again.outcome, again.run, again.outputs) == ("reused", first.run, first.outputs)
    assert again.cpu_seconds < first.cpu_seconds / 20
