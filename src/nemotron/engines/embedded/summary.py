"""The end of a run: what changed, in numbers, in samples and in a picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json, write_text
from nemotron.engines.embedded import rows
from nemotron.engines.embedded.metrics import read_metrics
from nemotron.engines.embedded.reading import data_path, lookup
from nemotron.engines.embedded.training import Run

MAIN_METRIC = {"grpo": "train/reward", "sft": "train/loss", "rm": "train/loss", "dpo": "train/loss"}
SAMPLES = 3


def write_summary(run: Run, algorithm: str, comparison: dict[str, Any] | None) -> None:
    """`summary.json` and the curve's picture, from the metrics on disk and a comparison if there is one."""
    history = read_metrics(run.directory / "metrics.jsonl")
    metric = MAIN_METRIC[algorithm]
    curve = [(row["step"], row[metric]) for row in history if metric in row]
    last: dict[str, float] = {}
    for row in history:
        last |= {k: v for k, v in row.items() if k != "step"}
    picture = None
    if curve:
        picture = "curve.png"
        draw(run.directory / picture, metric, curve, _second_curve(history))
        write_text(run.directory / "curve.txt", terminal_curve(metric, curve))
    write_json(
        run.directory / "summary.json",
        {
            "algorithm": algorithm,
            "steps": curve[-1][0] if curve else 0,
            "metric": metric,
            "first": _mean(curve[:5]),
            "last": _mean(curve[-5:]),
            "curve": curve,
            "picture": picture,
            "final_metrics": last,
            "comparison": comparison,
            "unread_verdicts": _mean_of(history, "judge/fallback_rate"),
        },
    )


def compare_policies(run: Run, judge: Any) -> dict[str, Any] | None:
    """Held-out prompts answered by the policy before and after, judged in both orders.

    None without validation prompts. Rates are shares of 1; a win rate counts a tie as half.
    """
    from nemotron.engines.embedded.grpo import answer_prompts, fitting_prompts, right_share
    from nemotron.engines.embedded.models import load_causal, load_tokenizer
    from nemotron.engines.embedded.monitor import load_monitor

    config = run.config
    if data_path(config, "validation") is None:
        return None
    run.metrics.phase("comparing the policy before and after")
    tokenizer = load_tokenizer(config)
    prompts = fitting_prompts(tokenizer, rows.prompt_rows(config, "validation"), config)
    limit = lookup(config, "embedded.compare_prompts")
    prompts = prompts if limit is None else prompts[: int(limit)]
    if not prompts:
        return None
    final = run.checkpoints.model(run.checkpoints.steps()[-1], run.work / "final")
    answers = {}
    for name, path in (("before", str(lookup(config, "policy.model_name"))), ("after", str(final))):
        model = load_causal(config, path, "policy.model_name").eval()
        answers[name] = answer_prompts(model, tokenizer, prompts, run)
    before, after = answers["before"], answers["after"]
    wins = judge.preferences([(p["prompt"], a, b) for p, a, b in zip(prompts, after, before, strict=True)])
    found: dict[str, Any] = {"prompts": len(prompts), "judge_win_rate": sum(wins) / len(wins)}
    for name, texts in answers.items():
        right = right_share(texts, prompts)
        if right is not None:
            found[f"right_{name}"] = right
    monitor = load_monitor(config)
    if monitor is not None:
        scored = [(monitor.score(a), monitor.score(b)) for a, b in zip(after, before, strict=True)]
        found["monitor"] = monitor.name
        found["monitor_before"] = sum(b for _, b in scored) / len(scored)
        found["monitor_after"] = sum(a for a, _ in scored) / len(scored)
        found["monitor_win_rate"] = sum(0.5 if a == b else float(a > b) for a, b in scored) / len(scored)
    shown = random.Random(run.seed).sample(range(len(prompts)), min(SAMPLES, len(prompts)))
    found["samples"] = [
        {"prompt": prompts[i]["prompt"][-1]["content"], "before": before[i], "after": after[i]} for i in shown
    ]
    return found


def draw(
    path: Path, metric: str, curve: Sequence[tuple[int, float]], second: dict[str, list[tuple[int, float]]]
) -> None:
    """The curve as a PNG, with the watched score beside it where there is one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axis = figure.add_subplot()
    axis.plot([s for s, _ in curve], [v for _, v in curve], color="#2a6fbb", label=metric)
    axis.set_xlabel("step")
    axis.set_ylabel(metric)
    axis.grid(alpha=0.3)
    if second:
        other = axis.twinx()
        for (name, points), color in zip(second.items(), ("#c4622d", "#3a8f5c"), strict=False):
            other.plot(
                [s for s, _ in points], [v for _, v in points], color=color, linestyle="--", label=name
            )
        other.set_ylabel("share (not trained on)")
        other.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    temporary = path.with_suffix(".png.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def terminal_curve(metric: str, curve: Sequence[tuple[int, float]]) -> str:
    """The curve as text, 66 columns wide."""
    import uniplot

    text = uniplot.plot_to_string(
        xs=[s for s, _ in curve],
        ys=[v for _, v in curve],
        lines=True,
        width=56,
        height=10,
        title=f"{metric} by step",
        character_set="braille",
    )
    lines = text if isinstance(text, list) else str(text).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _mean_of(history: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in history if name in row]
    return sum(values) / len(values) if values else None


def _second_curve(history: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    names = dict.fromkeys(
        k for row in history for k in row if k.startswith("monitor/") or k == "validation/accuracy"
    )
    return {n: [(row["step"], row[n]) for row in history if n in row] for n in names}


def _mean(points: Sequence[tuple[int, float]]) -> float | None:
    return sum(v for _, v in points) / len(points) if points else None
