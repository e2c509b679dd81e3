"""The end of a run as a person reads it: what changed, samples, the curve, where things are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemotron.artifacts.runs import Run


def summary_text(run: Run, outcome: str) -> str:
    """All that a finished run has to say."""
    lines = [""]
    if outcome == "reused":
        lines += [f"nothing changed since run {run.id}; for a new one: --no-cache", ""]
    lines += told_by_trainer(run)
    places = {port: f"{output['type']}  {output['path']}" for port, output in run.outputs.items()}
    places["run"] = str(run.directory)
    if (run.directory / "curve.png").is_file():
        places["curve"] = str(run.directory / "curve.png")
    width = max(12, *(len(name) for name in places))
    lines += [f"{name:<{width}} {place}" for name, place in places.items()]
    lines += ["", "next", f"  nemotron runs show {run.id}", f"  nemotron runs logs {run.id}"]
    return "\n".join(lines)


def told_by_trainer(run: Run) -> list[str]:
    """The curve and the comparison, where the trainer left them."""
    summary = run.summary if _is_ours(run.summary) else {}
    return [*_curve(run, summary), *_comparison(summary.get("comparison") or {})] if summary else []


def _is_ours(summary: Mapping[str, Any]) -> bool:
    """Whether one of our trainers wrote it; a step's own program may write a file of that name."""
    match summary:
        case {"algorithm": str(), "metric": str(), "comparison": None | {"judge_win_rate": float()}}:
            return True
    return False


def _curve(run: Run, summary: Mapping[str, Any]) -> list[str]:
    first, last = summary.get("first"), summary.get("last")
    if first is None or last is None:
        return []
    unread = summary.get("unread_verdicts")
    lines = [f"{summary['metric']}: {first:.3f} -> {last:.3f} (means of the first and last five steps)"]
    if unread is not None:
        lines.append(f"verdicts of the judge that could not be read: {unread:.1%}")
    lines.append("")
    drawn = run.directory / "curve.txt"
    if drawn.is_file():
        lines += [*drawn.read_text(encoding="utf-8").rstrip("\n").splitlines(), ""]
    return lines


def _comparison(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    lines = [f"{found['prompts']} held-out prompts, answered before and after:"]
    lines.append(
        f"  the judge prefers the new answer      {found['judge_win_rate']:.1%} (both orders, a tie is half)"
    )
    if "monitor_win_rate" in found:
        name, rate = found["monitor"], found["monitor_win_rate"]
        before, after = found["monitor_before"], found["monitor_after"]
        lines.append(
            f"  {name + ', not trained on':<36}  {rate:.1%} wins, {before:.0%} -> {after:.0%} of the answers"
        )
    if "right_before" in found:
        right = f"{found['right_before']:.1%} -> {found['right_after']:.1%}"
        lines.append(f"  right answers                         {right}")
    lines.append("")
    for sample in found.get("samples", []):
        lines += [
            f"  {sample['prompt']}",
            f"    before  {sample['before']}",
            f"    after   {sample['after']}",
        ]
    return [*lines, ""]
