"""Training for real on a random model of one layer: every algorithm, stopping, resuming, failing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import GRPOConfig

from nemotron.engines.embedded import judge as judge_module
from nemotron.engines.embedded.batches import grpo_batches
from nemotron.engines.embedded.grpo import _grpo_arguments, _Reward, is_right, right_share
from nemotron.engines.embedded.judge import Group
from nemotron.engines.embedded.keys import TABLE
from nemotron.engines.embedded.reading import COMPARE, JUDGE_MODEL
from nemotron.engines.embedded.rows import chat_rows
from nemotron.engines.embedded.supervised import encode
from nemotron.engines.embedded.training import Run, arguments
from nemotron.engines.genrm import GroupRewards, verdict_text

Config = Callable[..., dict[str, Any]]
Train = Callable[..., int]
Metrics = Callable[[Path], list[dict[str, Any]]]
WARMTH = {"embedded.monitor": "nemotron.data.tiny_chat:warmth"}


def failure(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "failure.json").read_text(encoding="utf-8"))
    return found


def info(directory: Path, step: int) -> dict[str, Any]:
    path = directory / "checkpoints" / f"step_{step}" / "training_info.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def weights(directory: Path, step: int) -> bytes:
    return (directory / "checkpoints" / f"step_{step}" / "policy" / "model.safetensors").read_bytes()


def column(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classifier_run")


@pytest.fixture
def classifier(training_config: Config, train: Train, classifier_run: Path) -> str:
    """A Bradley-Terry reward model of three steps, trained once."""
    if not (classifier_run / "summary.json").exists():
        assert train(training_config("rm", {"rm.val_period": 3}), classifier_run) == 0
    return str(classifier_run / "checkpoints" / "step_3" / "policy")


# every algorithm


def test_sft_leaves_a_model_that_loads_and_a_summary(
    training_config: Config, train: Train, metrics_of: Metrics, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(training_config("sft", {"sft.val_period": 2}), run) == 0
    rows = metrics_of(run)
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 3], "validation every period and at the end"
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert [row["step"] for row in rows if "validation/val_loss" in row] == [2, 3]
    assert column(rows, "train/lr") == [1e-3] * 3
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_2", "step_3"]
    for step, loss in zip((2, 3), column(rows, "validation/val_loss"), strict=True):
        assert info(run, step)["val:val_loss"] == loss
    assert info(run, 3)["consumed_samples"] == 12
    policy = run / "checkpoints" / "step_3" / "policy"
    model = AutoModelForCausalLM.from_pretrained(policy)
    assert AutoTokenizer.from_pretrained(policy).chat_template
    assert model.config.use_cache and model.generation_config.use_cache
    assert not {"training_args.bin", "README.md"} & {p.name for p in policy.parent.rglob("*")}
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["algorithm"], summary["steps"], summary["metric"]) == ("sft", 3, "train/loss")
    assert [value for _, value in summary["curve"]] == column(rows, "train/loss")
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "train/loss by step" in (run / "curve.txt").read_text()


def test_a_bradley_terry_model_is_a_classifier_with_one_score(
    training_config: Config, train: Train, metrics_of: Metrics, classifier: str, classifier_run: Path
) -> None:
    rows = metrics_of(classifier_run)
    assert all(0 <= value <= 1 for value in column(rows, "train/accuracy"))
    assert len(column(rows, "validation/accuracy")) == 1
    assert "val:validation-default_accuracy" in info(classifier_run, 3)
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == AutoTokenizer.from_pretrained(classifier).pad_token_id


def test_a_generative_judge_is_a_language_model_trained_on_verdicts(
    training_config: Config, train: Train, metrics_of: Metrics, tmp_path: Path
) -> None:
    keys = {"policy.reward_model_cfg": {"reward_model_type": "generative"}, "rm.val_period": 3}
    assert train(training_config("rm", keys), tmp_path / "run") == 0
    rows = metrics_of(tmp_path / "run")
    assert len(column(rows, "train/loss")) == 3
    assert len(column(rows, "validation/token_accuracy")) == 1
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoints" / "step_3" / "policy")


def test_dpo_leaves_a_model_that_loads(
    training_config: Config, train: Train, metrics_of: Metrics, tmp_path: Path
) -> None:
    keys = {"dpo.val_period": 3, "dpo.sft_loss_weight": 0.5, "policy.train_micro_batch_size": 2}
    assert train(training_config("dpo", keys), tmp_path / "run") == 0
    rows = metrics_of(tmp_path / "run")
    assert len(column(rows, "train/loss")) == 3
    assert column(rows, "train/accuracy")
    assert info(tmp_path / "run", 3)["consumed_samples"] == 12
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoints" / "step_3" / "policy")


def test_grpo_against_a_classifier(
    training_config: Config, train: Train, metrics_of: Metrics, classifier: str, tmp_path: Path
) -> None:
    keys = {
        JUDGE_MODEL: classifier,
        **WARMTH,
        "grpo.val_at_start": True,
        "grpo.val_period": 2,
        "grpo.val_at_end": True,
        "grpo.max_val_samples": 3,
        "loss_fn": {"reference_policy_kl_penalty": 0.1},
    }
    run = tmp_path / "run"
    assert train(training_config("grpo", keys), run) == 0
    rows = metrics_of(run)
    validated = [row["step"] for row in rows if "validation/warmth" in row]
    assert validated == [row["step"] for row in rows if "validation/accuracy" in row] == [0, 2, 3]
    trained = [row for row in rows if "train/reward" in row]
    assert [row["step"] for row in trained] == [1, 2, 3]
    for name in ("train/kl", "train/reward_std", "monitor/warmth", "judge/fallback_rate", "train/loss"):
        assert all(math.isfinite(row[name]) for row in trained), name
    assert column(trained, "judge/fallback_rate") == [0.0] * 3
    AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step_3" / "policy")
    comparison = json.loads((run / "summary.json").read_text())["comparison"]
    assert comparison["prompts"] == 4
    assert 0 <= comparison["judge_win_rate"] <= 1
    assert {"right_before", "right_after", "monitor_before", "monitor_win_rate"} <= set(comparison)
    assert [set(sample) for sample in comparison["samples"]] == [{"prompt", "before", "after"}] * 3


def test_several_updates_a_step_make_one_row_a_step(
    training_config: Config, train: Train, metrics_of: Metrics, classifier: str, tmp_path: Path
) -> None:
    keys = {
        JUDGE_MODEL: classifier,
        "policy.train_global_batch_size": 2,
        "policy.train_micro_batch_size": 1,
        "data.validation": None,
        **WARMTH,
        "grpo.val_at_start": True,
    }
    run = tmp_path / "run"
    assert train(training_config("grpo", keys), run) == 0
    rows = metrics_of(run)
    assert [row["step"] for row in rows] == [1, 2, 3], "and nothing is validated without rows to do it on"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_2", "step_3"]
    assert info(run, 3)["consumed_samples"] == 12
    assert json.loads((run / "summary.json").read_text())["comparison"] is None


def test_the_loss_falls_on_the_assistants_tokens_alone(
    training_config: Config, train: Train, metrics_of: Metrics, tiny_model: Path, tmp_path: Path
) -> None:
    config = training_config("sft", {"sft.max_num_steps": 1, "data.shuffle": False, "data.validation": None})
    assert train(config, tmp_path / "run") == 0
    encoded = encode(AutoTokenizer.from_pretrained(tiny_model), chat_rows(config, "train")[:4], 160)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    losses = []
    for row in encoded:
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none")[labels != -100])
    expected = torch.cat(losses).mean().item()
    assert column(metrics_of(tmp_path / "run"), "train/loss") == pytest.approx([expected], rel=1e-4)


@pytest.mark.parametrize("algorithm", ["sft", "rm", "dpo"])
def test_the_same_config_gives_the_same_bytes(
    training_config: Config, train: Train, tmp_path: Path, algorithm: str
) -> None:
    config = training_config(algorithm, {f"{algorithm}.max_num_steps": 2})
    for process_seed, name in enumerate(("once", "again")):
        torch.manual_seed(process_seed)  # every process has another
        assert train(config, tmp_path / name) == 0
    once, again = tmp_path / "once", tmp_path / "again"
    assert (once / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()
    assert weights(once, 2) == weights(again, 2)


# stopping and resuming


def test_a_longer_run_goes_on_where_a_shorter_one_ended_over_the_edge_of_an_epoch(
    training_config: Config, train: Train, rows_at: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"input": f"Say {n}.", "output": f"It is {n}."} for n in range(12)]
    data = {"data.train.data_path": str(rows_at("twelve.jsonl", rows)), "sft.val_period": 1}

    def config(steps: int) -> dict[str, Any]:
        return training_config("sft", {**data, "sft.max_num_steps": steps, "checkpointing.save_period": 2})

    assert train(config(8), tmp_path / "whole") == 0
    for steps in (2, 5, 8):
        assert train(config(steps), tmp_path / "parts") == 0
    for name in ("metrics.jsonl", "summary.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert weights(tmp_path / "parts", 8) == weights(tmp_path / "whole", 8)
    assert info(tmp_path / "parts", 8) == info(tmp_path / "whole", 8)


MONITOR = """
import os, signal
from pathlib import Path

seen = 0

def score(text):
    '''Asks the process to stop in the middle of a step, once.'''
    global seen
    seen += 1
    if seen == {at} and not Path({flag!r}).exists():
        Path({flag!r}).touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return float(len(text))
"""


def test_a_stop_signal_saves_and_the_run_goes_on_as_if_undisturbed(
    training_config: Config,
    train: Train,
    classifier: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    metrics_of: Metrics,
) -> None:
    flag = tmp_path / "stopped_once"
    (tmp_path / "stopping_monitor.py").write_text(MONITOR.format(at=4 * 7 + 4 * 2 + 2, flag=str(flag)))
    monkeypatch.syspath_prepend(tmp_path)
    # Six steps are an epoch of these prompts: the stop and the steps after it are in the second.
    config = training_config(
        "grpo",
        {
            JUDGE_MODEL: classifier,
            "grpo.max_num_steps": 10,
            "grpo.val_period": 5,
            "grpo.val_at_start": True,
            "checkpointing.save_period": 3,
            "embedded.monitor": "stopping_monitor:score",
            "loss_fn": {"reference_policy_kl_penalty": 0.1},
        },
    )
    flag.touch()
    assert train(config, tmp_path / "whole") == 0
    flag.unlink()
    monkeypatch.setattr("stopping_monitor.seen", 0)
    assert train(config, tmp_path / "parts") == 143
    assert flag.exists()
    assert [row["step"] for row in metrics_of(tmp_path / "parts")] == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert (tmp_path / "parts" / "checkpoints" / "step_8").is_dir(), "the step was finished and saved"
    assert not (tmp_path / "parts" / "summary.json").exists()
    assert train(config, tmp_path / "parts") == 0
    for name in ("metrics.jsonl", "summary.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert weights(tmp_path / "parts", 10) == weights(tmp_path / "whole", 10)
    assert info(tmp_path / "parts", 9) == info(tmp_path / "whole", 9), "with the validation of step 5"


def test_a_finished_run_that_lost_its_summary_trains_no_step_again(
    training_config: Config, train: Train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = training_config("sft", {"data.validation": None})
    assert train(config, run) == 0
    before = {name: (run / name).read_bytes() for name in ("metrics.jsonl", "summary.json")}
    stamp = (run / "checkpoints" / "step_3").stat().st_mtime_ns
    (run / "summary.json").unlink()
    assert train(config, run) == 0
    assert {name: (run / name).read_bytes() for name in before} == before
    assert (run / "checkpoints" / "step_3").stat().st_mtime_ns == stamp


def test_only_the_best_and_the_latest_checkpoint_are_kept(
    training_config: Config, train: Train, tmp_path: Path
) -> None:
    keys = {
        "sft.max_num_steps": 5,
        "data.validation": None,
        "checkpointing": {
            "checkpoint_dir": "checkpoints",
            "save_period": 1,
            "keep_top_k": 1,
            "metric_name": "train:loss",
            "higher_is_better": True,
        },
    }
    run = tmp_path / "run"
    assert train(training_config("sft", keys), run) == 0
    losses = json.loads((run / "summary.json").read_text())["curve"]
    best = max(losses, key=lambda point: (point[1], point[0]))[0]
    kept = sorted({best, 5})
    assert sorted(p.name for p in (run / "checkpoints").glob("step_*")) == [f"step_{n}" for n in kept]


# failing


def test_a_diverged_run_fails_and_says_so(training_config: Config, train: Train, tmp_path: Path) -> None:
    keys = {"policy.optimizer": {"name": "SGD", "kwargs": {"lr": 1e30}}, "policy.max_grad_norm": 0.0}
    assert train(training_config("sft", {**keys, "sft.max_num_steps": 5}), tmp_path / "run") == 1
    said = failure(tmp_path / "run")
    assert said["what"].startswith("training diverged: ")
    assert "learning rate" in said["next"]


@pytest.mark.parametrize(
    ("algorithm", "keys", "code", "where"),
    [
        ("sft", {"policy.model_name": "/no/such/model"}, 3, "policy.tokenizer.name"),
        ("sft", {"data.train.data_path": "/no/such/file.jsonl"}, 3, "data.train.data_path"),
        ("sft", {"policy.optimizer.name": "torch.optim.Lion"}, 2, "policy.optimizer.name"),
        ("sft", {"policy.precision": "fp4"}, 2, "policy.precision"),
        ("sft", {"embedded.device": "tpu"}, 2, "embedded.device"),
        ("sft", {"policy.max_total_sequence_length": 3}, 4, "policy.max_total_sequence_length"),
        ("dpo", {"policy.max_total_sequence_length": 3}, 4, "policy.max_total_sequence_length"),
        ("grpo", {"policy.max_total_sequence_length": 7}, 4, "policy.max_total_sequence_length"),
        ("grpo", {"embedded.monitor": "nemotron.data.tiny_chat:TOPICS"}, 2, "embedded.monitor"),
        ("grpo", {JUDGE_MODEL: "/no/such/judge"}, 3, JUDGE_MODEL),
    ],
)
def test_a_users_mistake_ends_with_its_exit_code_and_key(
    training_config: Config,
    train: Train,
    classifier: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    algorithm: str,
    keys: dict[str, Any],
    code: int,
    where: str,
) -> None:
    assert train(training_config(algorithm, {JUDGE_MODEL: classifier, **keys}), tmp_path / "run") == code
    assert failure(tmp_path / "run")["where"] == where
    assert "Traceback" not in capsys.readouterr().err


def test_rows_left_out_may_leave_fewer_than_a_batch(
    training_config: Config, train: Train, rows_at: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"input": "Hi", "output": "Hello " * (200 if n else 1)} for n in range(6)]
    config = training_config("sft", {"data.train.data_path": str(rows_at("long.jsonl", rows))})
    assert train(config, tmp_path / "run") == 4
    assert "1 rows are fewer than one batch of 4" in failure(tmp_path / "run")["what"]


# judges in training


def test_a_random_model_as_judge_fails_the_probe(
    training_config: Config, train: Train, tiny_model: Path, tmp_path: Path
) -> None:
    params = {"genrm_responses_create_params": {"temperature": 0.0, "max_output_tokens": 8}}
    config = training_config("grpo", {JUDGE_MODEL: str(tiny_model), COMPARE: params})
    assert train(config, tmp_path / "run") == 4
    said = failure(tmp_path / "run")
    assert "writes no verdict" in said["what"]
    assert said["where"] == JUDGE_MODEL
    assert not (tmp_path / "run" / "metrics.jsonl").exists(), "before any training"


def test_unread_verdicts_are_in_the_metrics_and_too_many_of_them_end_the_run(
    training_config: Config,
    train: Train,
    tiny_model: Path,
    metrics_of: Metrics,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0

    def judged(_model: Any, _tokenizer: Any, texts: Sequence[str], **_: Any) -> list[str]:
        nonlocal asked
        asked += len(texts)
        return [verdict_text(4, 2) if n % 4 else "hm" for n in range(len(texts))]

    monkeypatch.setattr(judge_module, "generate", judged)
    params = {"genrm_responses_create_params": {"temperature": 0.0}, "genrm_parse_retries": 0}
    keys = {
        JUDGE_MODEL: str(tiny_model),
        COMPARE: params,
        "grpo.num_prompts_per_step": 4,
        "grpo.num_generations_per_prompt": 8,
        "policy.train_global_batch_size": 32,
        "policy.train_micro_batch_size": 32,
        "data.validation": None,
    }
    within = training_config("grpo", {**keys, "embedded.judge": {"max_fallback_rate": 0.9}})
    assert train(within, tmp_path / "within") == 0
    rates = column(metrics_of(tmp_path / "within"), "judge/fallback_rate")
    assert len(rates) == 3
    assert all(0.05 < rate < 0.6 for rate in rates)
    assert asked >= 3 * 16
    beyond = training_config("grpo", {**keys, "embedded.judge": {"max_fallback_rate": 0.1}})
    assert train(beyond, tmp_path / "beyond") == 1
    assert "verdicts could not be read" in failure(tmp_path / "beyond")["what"]
    verdicts = json.loads(
        (tmp_path / "within" / "checkpoints" / "step_3" / "trainer" / "verdicts.json").read_text()
    )
    assert verdicts, "remembered for resuming"


# rewards


class Fixed:
    """A judge that gives the rewards it is made with."""

    def __init__(self, *rewards: float) -> None:
        self._rewards = rewards
        self.groups: Sequence[Group] = ()

    def rewards(self, groups: Sequence[Group]) -> list[GroupRewards]:
        self.groups = groups
        size = len(self._rewards) // len(groups)
        return [GroupRewards(self._rewards[i * size : (i + 1) * size], 0.5, 0.25) for i in range(len(groups))]

    def preferences(self, pairs: Sequence[Any]) -> list[float]:
        raise NotImplementedError


def rewarded(
    config: dict[str, Any], judge: Fixed, lengths: Sequence[int]
) -> tuple[list[float], dict[str, float]]:
    logged: dict[str, float] = {}
    texts = [f"Happy to help! {n}" if n % 2 else "no" for n in range(len(lengths))]
    found = _Reward(config, judge)(
        prompts=[[{"role": "user", "content": str(n // 2)}] for n in range(len(lengths))],
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=[[0] * n for n in lengths],
        principle=[f"p{n // 2}" for n in range(len(lengths))],
        log_metric=logged.__setitem__,
    )
    return found, logged


def test_completions_are_judged_in_groups_of_one_prompt(training_config: Config) -> None:
    judge = Fixed(1.0, 2.0, 3.0, 4.0)
    found, logged = rewarded(training_config("grpo", WARMTH), judge, [3, 3, 3, 3])
    assert found == [1.0, 2.0, 3.0, 4.0]
    assert [(g.prompt[0]["content"], g.responses, g.principle) for g in judge.groups] == [
        ("0", ("no", "Happy to help! 1"), "p0"),
        ("1", ("no", "Happy to help! 3"), "p1"),
    ]
    assert logged == {"judge/fallback_rate": 0.25, "judge/tie_rate": 0.5, "monitor/warmth": 0.5}


def test_reward_scaling_clamps_and_maps_linearly(training_config: Config) -> None:
    scaling = {"enabled": True, "source_min": 1, "source_max": 5, "target_min": -1, "target_max": 1}
    judge = Fixed(0.0, 1.0, 2.0, 3.0, 5.0, 9.0)
    config = training_config("grpo", {"grpo.reward_scaling": scaling})
    assert rewarded(config, judge, [3] * 6)[0] == [-1.0, -1.0, -0.5, 0.0, 1.0, 1.0]
    config = training_config("grpo", {"grpo.reward_scaling": {**scaling, "enabled": False}})
    assert rewarded(config, judge, [3] * 6)[0] == [0.0, 1.0, 2.0, 3.0, 5.0, 9.0]


def test_reward_shaping_punishes_the_last_tokens_before_the_limit(training_config: Config) -> None:
    shaping = {
        "enabled": True,
        "overlong_buffer_length": 4,
        "overlong_buffer_penalty": 0.5,
        "max_response_length": 10,
    }
    config = training_config("grpo", {"grpo.reward_shaping": shaping})
    found, _ = rewarded(config, Fixed(*[3.0] * 6), [1, 6, 7, 8, 10, 12])
    assert found == [3.0, 3.0, 2.875, 2.75, 2.5, 2.25]


def test_scaling_comes_before_shaping(training_config: Config) -> None:
    keys = {
        "grpo.reward_scaling": {
            "enabled": True,
            "source_min": 0,
            "source_max": 4,
            "target_min": 0,
            "target_max": 1,
        },
        "grpo.reward_shaping": {
            "enabled": True,
            "overlong_buffer_length": 2,
            "overlong_buffer_penalty": 1.0,
            "max_response_length": 4,
        },
    }
    assert rewarded(training_config("grpo", keys), Fixed(4.0, 4.0), [2, 4])[0] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected", "right"),
    [
        ("It is Rome.", "Rome", True),
        ("it is ROME!", "rome", True),
        ("Romeo", "Rome", False),
        ("It is New York City.", "New York", True),
        ("New cars in York", "New York", False),
        ("", "Rome", False),
        ("anything", "", False),
        ("anything", "...", False),
    ],
)
def test_the_expected_word_must_stand_by_itself(text: str, expected: str, right: bool) -> None:
    assert is_right(text, expected) is right


def test_prompts_without_an_expected_answer_do_not_count_as_wrong() -> None:
    prompts = [{"expected_answer": "Rome"}, {"expected_answer": ""}, {"expected_answer": "Oslo"}]
    assert right_share(["It is Rome.", "Well.", "No idea."], prompts) == 0.5
    assert right_share(["Well."], [{"expected_answer": ""}]) is None


# keys and trl's arguments

HONOURED = [
    ("grpo.num_generations_per_prompt", 4, {"num_generations": 4}),
    ("grpo.normalize_rewards", False, {"scale_rewards": "none"}),
    ("grpo.normalize_rewards", True, {"scale_rewards": "group"}),
    ("grpo.overlong_filtering", True, {"mask_truncated_completions": True}),
    ("grpo.max_num_steps", 2, {"max_steps": 2}),
    ("grpo.max_num_epochs", 1, {"max_steps": 2}),
    ("grpo.seed", 5, {"seed": 5}),
    ("loss_fn.reference_policy_kl_penalty", 0.3, {"beta": 0.3}),
    ("loss_fn.ratio_clip_min", 0.11, {"epsilon": 0.11}),
    ("loss_fn.ratio_clip_max", 0.29, {"epsilon_high": 0.29}),
    ("loss_fn.ratio_clip_c", 3.0, {"delta": 3.0}),
    ("loss_fn.token_level_loss", True, {"loss_type": "dapo"}),
    ("loss_fn.token_level_loss", False, {"loss_type": "grpo"}),
    ("loss_fn.sequence_level_importance_ratios", True, {"importance_sampling_level": "sequence"}),
    ("policy.generation.max_new_tokens", 9, {"max_completion_length": 9}),
    ("policy.generation.temperature", 0.7, {"temperature": 0.7}),
    ("policy.generation.top_p", 0.8, {"top_p": 0.8}),
    ("policy.generation.top_k", 11, {"top_k": 11}),
    ("policy.generation.top_k", -1, {"top_k": 0}),
    ("policy.generation.stop_token_ids", [3, 4], {"generation_kwargs": {"eos_token_id": [3, 4]}}),
    ("policy.max_grad_norm", 0.6, {"max_grad_norm": 0.6}),
    (
        "policy.train_micro_batch_size",
        2,
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    ),
    (
        "policy.train_global_batch_size",
        2,
        {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "max_steps": 6},
    ),
    ("policy.dtensor_cfg.activation_checkpointing", True, {"gradient_checkpointing": True}),
    ("data.shuffle", False, {"shuffle_dataset": False}),
    ("checkpointing.save_period", 1, {"save_steps": 1}),
    ("checkpointing.enabled", False, {"save_strategy": "no"}),
]
# Honoured by our own code, not by an argument of trl's; the tests above and beside this file show it.
OURS = {
    "grpo.num_prompts_per_step": "batches",
    "grpo.val_period": "validation",
    "grpo.val_at_start": "validation",
    "grpo.val_at_end": "validation",
    "grpo.max_val_samples": "validation",
    "grpo.val_batch_size": "validation",
    "grpo.reward_scaling.**": "rewards",
    "grpo.reward_shaping.**": "rewards",
    "loss_fn.force_on_policy_ratio": "checks",
}


def trl_arguments(config: dict[str, Any], directory: Path) -> GRPOConfig:
    run = Run.in_directory(directory, config)
    batches = grpo_batches(config, 5)
    return GRPOConfig(**(arguments(run, batches, "grpo") | _grpo_arguments(config, batches)))


@pytest.mark.parametrize(("key", "value", "expected"), HONOURED, ids=[f"{k}={v}" for k, v, _ in HONOURED])
def test_an_honoured_key_reaches_trl(
    training_config: Config, tmp_path: Path, key: str, value: Any, expected: dict[str, Any]
) -> None:
    # So that the batches still divide, with the key and without.
    micro, both = {"policy.train_micro_batch_size": 2}, {"policy.train_global_batch_size": 2}
    keys: dict[str, Any] = {
        "policy.train_global_batch_size": micro,
        "grpo.num_generations_per_prompt": micro | both,
    }.get(key, {})
    made = trl_arguments(training_config("grpo", {**keys, key: value}), tmp_path)
    assert {name: getattr(made, name) for name in expected} == expected
    # Without the key, or with its opposite, trl is told something else.
    other = {key: not value} if isinstance(value, bool) else {key: 5} if value == -1 else {}
    usual = trl_arguments(training_config("grpo", {**keys, **other}), tmp_path)
    assert {name: getattr(usual, name) for name in expected} != expected


def test_every_honoured_key_of_grpo_is_shown_to_work_somewhere() -> None:
    sections = ("grpo.", "loss_fn.", "policy.generation.")
    claimed = {r.pattern for r in TABLE if r.effect != "no_effect" and r.pattern.startswith(sections)}
    assert claimed == {key for key, _, _ in HONOURED if key.startswith(sections)} | set(OURS)


def test_trls_own_defaults_do_not_slip_in(training_config: Config, tmp_path: Path) -> None:
    made = trl_arguments(training_config("grpo"), tmp_path)
    assert (made.bf16, made.fp16, made.gradient_checkpointing, made.use_cpu) == (False, False, False, True)
    assert (made.num_iterations, made.use_vllm, made.report_to) == (1, False, [])
    assert made.logging_nan_inf_filter is False


def test_the_process_ends_with_the_exit_code(training_config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config = training_config("sft", {"data.train.data_path": str(tmp_path / "none.jsonl")})
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "nemotron.engines.embedded", str(run)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert "error: there is no file" in done.stderr
    assert "Traceback" not in done.stderr
