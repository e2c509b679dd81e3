"""GRPO against a judge, with the rewards and the loss a NeMo-RL config names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from nemotron.engines.embedded import rows
from nemotron.engines.embedded.batches import BatchPlan, grpo_batches
from nemotron.engines.embedded.generation import generate
from nemotron.engines.embedded.judge import GenerativeJudge, Group, Judge, load_judge
from nemotron.engines.embedded.models import load_causal, load_tokenizer
from nemotron.engines.embedded.monitor import load_monitor
from nemotron.engines.embedded.reading import data_path, lookup
from nemotron.engines.embedded.training import (
    ConfiguredOptimizer,
    Run,
    RunCallback,
    arguments,
    saved_state,
    train,
)
from nemotron.errors import CheckFailed

VERDICTS_FILE = "verdicts.json"


class _Prompts(RepeatSampler):
    """Draws the order of an epoch from its number: a run resumed in a later epoch sees the same prompts."""

    def set_epoch(self, epoch: int) -> None:
        """The order of this epoch comes next."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class _Trainer(ConfiguredOptimizer, GRPOTrainer):
    """GRPOTrainer with the config's optimizer."""

    def _get_train_sampler(self, dataset: Dataset | None = None) -> _Prompts:
        made = super()._get_train_sampler(dataset)
        return _Prompts(
            made.data_source,
            mini_repeat_count=made.mini_repeat_count,
            batch_size=made.batch_size,
            repeat_count=made.repeat_count,
            shuffle=made.shuffle,
            seed=made.seed,
        )


def run_grpo(run: Run) -> Judge:
    """Align the policy of the config against its judge; returns the judge, for comparing afterwards."""
    config = run.config
    tokenizer = load_tokenizer(config)
    prompts = fitting_prompts(tokenizer, rows.prompt_rows(config, "train"), config)
    batches = grpo_batches(config, len(prompts))
    run.metrics.phase("loading the judge")
    judge = load_judge(config)
    if isinstance(judge, GenerativeJudge):
        judge.cache.update(saved_state(run, VERDICTS_FILE) or {})
        run.extra_state[VERDICTS_FILE] = lambda: judge.cache
    run.metrics.phase("loading the policy")
    model = load_causal(config, str(lookup(config, "policy.model_name")), "policy.model_name")
    if isinstance(judge, GenerativeJudge):
        judge.probe(prompts[0]["prompt"], *answer_prompts(model, tokenizer, [prompts[0]] * 2, run))
    settings = arguments(run, batches, "grpo") | _grpo_arguments(config, batches)
    callback = _ValidatingCallback(run, batches, tokenizer)
    trainer = _Trainer(
        model=model,
        reward_funcs=[_Reward(config, judge)],
        args=GRPOConfig(**settings),
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.run, trainer.batches = run, batches
    trainer.model.config.use_cache = True
    callback.validate_at_start(trainer.model)
    run.metrics.phase("training")
    train(run, trainer, batches)
    return judge


def _grpo_arguments(config: Mapping[str, Any], batches: BatchPlan) -> dict[str, Any]:
    top_k = lookup(config, "policy.generation.top_k")
    clip_c = lookup(config, "loss_fn.ratio_clip_c")
    return {
        "eval_strategy": "no",
        "num_generations": int(lookup(config, "grpo.num_generations_per_prompt")),
        "steps_per_generation": batches.accumulation * batches.optimizer_steps_per_step,
        "max_completion_length": int(lookup(config, "policy.generation.max_new_tokens")),
        "temperature": float(lookup(config, "policy.generation.temperature", 1.0)),
        "top_p": float(lookup(config, "policy.generation.top_p", 1.0)),
        "top_k": 0 if top_k in (None, -1) else int(top_k),
        "generation_kwargs": _stop_tokens(config),
        "shuffle_dataset": bool(lookup(config, "data.shuffle", True)),
        "beta": float(lookup(config, "loss_fn.reference_policy_kl_penalty", 0.0)),
        "epsilon": float(lookup(config, "loss_fn.ratio_clip_min", 0.2)),
        "epsilon_high": float(lookup(config, "loss_fn.ratio_clip_max", 0.2)),
        "delta": None if clip_c is None else float(clip_c),
        "loss_type": "dapo" if lookup(config, "loss_fn.token_level_loss", True) else "grpo",
        "importance_sampling_level": "sequence"
        if lookup(config, "loss_fn.sequence_level_importance_ratios", False)
        else "token",
        "scale_rewards": "group" if lookup(config, "grpo.normalize_rewards", True) else "none",
        "mask_truncated_completions": bool(lookup(config, "grpo.overlong_filtering", False)),
        "disable_dropout": True,
    }


def _stop_tokens(config: Mapping[str, Any]) -> dict[str, Any] | None:
    stops = lookup(config, "policy.generation.stop_token_ids")
    return {"eos_token_id": [int(s) for s in stops]} if stops else None


def fitting_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[dict[str, Any]], config: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The prompts that leave room for an answer within `policy.max_total_sequence_length`."""
    room = int(lookup(config, "policy.max_total_sequence_length")) - int(
        lookup(config, "policy.generation.max_new_tokens")
    )
    kept = [p for p in prompts if _length(tokenizer, p["prompt"]) <= room]
    if len(kept) < len(prompts):
        print(
            f"left out: {len(prompts) - len(kept)} of {len(prompts)} prompts are longer than {room} tokens",
            flush=True,
        )
    if not kept:
        raise CheckFailed(
            f"no prompt leaves room for an answer: at most {room} tokens remain for it",
            where="policy.max_total_sequence_length",
            next="raise policy.max_total_sequence_length or lower policy.generation.max_new_tokens",
        )
    return kept


def _length(tokenizer: PreTrainedTokenizerBase, messages: list[rows.Message]) -> int:
    made = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return len(made["input_ids"])


class _Reward:
    """The reward function trl calls: judge, then NeMo-RL's reward scaling and length shaping."""

    __name__ = "judge"

    def __init__(self, config: Mapping[str, Any], judge: Judge) -> None:
        self._judge = judge
        self._group = int(lookup(config, "grpo.num_generations_per_prompt"))
        self._scaling = lookup(config, "grpo.reward_scaling", {})
        self._shaping = lookup(config, "grpo.reward_shaping", {})
        self._monitor = load_monitor(config)

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        principle: list[str],
        log_metric: Any,
        **_: Any,
    ) -> list[float]:
        """One reward a completion. Completions of one prompt follow each other, `num_generations` of them."""
        texts = [c[-1]["content"] if isinstance(c, list) else str(c) for c in completions]
        groups = [
            Group(prompts[i], tuple(texts[i : i + self._group]), principle[i])
            for i in range(0, len(texts), self._group)
        ]
        judged = self._judge.rewards(groups)
        log_metric("judge/fallback_rate", _mean([g.fallback_rate for g in judged]))
        log_metric("judge/tie_rate", _mean([g.tie_rate for g in judged]))
        if self._monitor is not None:
            log_metric(f"monitor/{self._monitor.name}", _mean([self._monitor.score(t) for t in texts]))
        rewards = [r for g in judged for r in g.rewards]
        return [
            self._shape(self._scale(reward), len(ids))
            for reward, ids in zip(rewards, completion_ids, strict=True)
        ]

    def _scale(self, reward: float) -> float:
        """`grpo.reward_scaling`: clamped to the source interval, mapped linearly onto the target."""
        if not self._scaling.get("enabled"):
            return reward
        low, high = float(self._scaling["source_min"]), float(self._scaling["source_max"])
        to_low, to_high = float(self._scaling["target_min"]), float(self._scaling["target_max"])
        return to_low + (min(max(reward, low), high) - low) / (high - low) * (to_high - to_low)

    def _shape(self, reward: float, length: int) -> float:
        """`grpo.reward_shaping`: DAPO's penalty on the last tokens before the limit (Yu et al., 2025)."""
        if not self._shaping.get("enabled"):
            return reward
        buffer = int(self._shaping["overlong_buffer_length"])
        limit = int(self._shaping["max_response_length"])
        over = (limit - buffer - length) / buffer * float(self._shaping["overlong_buffer_penalty"])
        return reward + min(0.0, over)


class _ValidatingCallback(RunCallback):
    """Answers the held-out prompts now and then and writes how many are right and how they sound."""

    def __init__(self, run: Run, batches: BatchPlan, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(run, batches)
        self._tokenizer = tokenizer
        self._last_step = batches.steps
        config = run.config
        self._period = int(lookup(config, "grpo.val_period", 0))
        wanted = data_path(config, "validation") is not None
        limit = lookup(config, "grpo.max_val_samples")
        prompts = fitting_prompts(tokenizer, rows.prompt_rows(config, "validation"), config) if wanted else []
        self._prompts = prompts if limit is None else prompts[: int(limit)]
        self._monitor = load_monitor(config)

    def validate_at_start(self, model: Any) -> None:
        """`grpo.val_at_start`, before the first step of a run that does not resume."""
        wanted = self._prompts and lookup(self._run.config, "grpo.val_at_start", False)
        self._starting = self._scores(model) if wanted and not self._run.checkpoints.steps() else {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the scores before the first step."""
        if self._starting:
            self._run.metrics.write(0, self._starting)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the row of a step, the validation of that step where one is due."""
        super().on_log(args, state, control, **kwargs)
        step = self._step(state)
        if state.global_step % self._per_step or "loss" not in (kwargs.get("logs") or {}):
            return
        at_end = step == self._last_step and lookup(self._run.config, "grpo.val_at_end", False)
        if self._prompts and (at_end or (self._period > 0 and step % self._period == 0)):
            scores = self._scores(kwargs["model"])
            self._latest.update(scores)
            if scores:
                self._run.metrics.write(step, scores)

    def _scores(self, model: Any) -> dict[str, float]:
        texts = answer_prompts(model, self._tokenizer, self._prompts, self._run)
        scores = {}
        right = right_share(texts, self._prompts)
        if right is not None:
            scores["validation/accuracy"] = right
        if self._monitor is not None:
            scores[f"validation/{self._monitor.name}"] = _mean([self._monitor.score(t) for t in texts])
        return scores


def answer_prompts(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[dict[str, Any]], run: Run
) -> list[str]:
    """One sampled answer to each prompt, with random numbers of its own: training is not disturbed."""
    config = run.config
    texts = [
        str(tokenizer.apply_chat_template(p["prompt"], tokenize=False, add_generation_prompt=True))
        for p in prompts
    ]
    size = int(lookup(config, "grpo.val_batch_size", 0)) or 64
    was_training = model.training
    model.eval()
    found: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        for start in range(0, len(texts), size):
            found += generate(
                model,
                tokenizer,
                texts[start : start + size],
                max_new_tokens=int(lookup(config, "policy.generation.max_new_tokens")),
                temperature=float(lookup(config, "policy.generation.temperature", 1.0)),
                top_p=float(lookup(config, "policy.generation.top_p", 1.0)),
                top_k=lookup(config, "policy.generation.top_k"),
                stop_token_ids=lookup(config, "policy.generation.stop_token_ids"),
            )
    model.train(was_training)
    return found


def right_share(texts: Sequence[str], prompts: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of right answers among the prompts that come with an expected one; None without such prompts."""
    asked = [(text, p["expected_answer"]) for text, p in zip(texts, prompts, strict=True)]
    right = [float(is_right(text, expected)) for text, expected in asked if expected]
    return _mean(right) if right else None


def is_right(text: str, expected: str) -> bool:
    """Whether the expected word stands in the text as a word of its own."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    wanted = "".join(c if c.isalnum() else " " for c in expected.lower()).split()
    return bool(wanted) and any(words[i : i + len(wanted)] == wanted for i in range(len(words)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
