"""Rewards as a picture of plain characters."""

from __future__ import annotations

from collections import Counter

_BINS = 10
_WIDTH = 40


def bins_of(rewards: Counter[float]) -> list[tuple[float, float, int]]:
    """Ten equal bins from the lowest to the highest reward: from, to, rows. Of few values one bin a value."""
    if not rewards:
        return []
    low, high = min(rewards), max(rewards)
    if len(rewards) <= _BINS:
        return [(value, value, rows) for value, rows in sorted(rewards.items())]
    width = (high - low) / _BINS
    counts = [0] * _BINS
    for value, rows in rewards.items():
        # Rewards in tenths stand on the borders of bins, a rounding error above or below.
        counts[min(int((value - low) / width + 1e-9), _BINS - 1)] += rows
    return [(low + i * width, low + (i + 1) * width, rows) for i, rows in enumerate(counts)]


def render_bins(bins: list[tuple[float, float, int]], threshold: float | None) -> list[str]:
    """One line a bin; `|` marks the bins that the threshold lets through."""
    most = max((rows for _, _, rows in bins), default=0)
    lines = []
    for low, high, rows in bins:
        name = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        bar = "#" * max(round(_WIDTH * rows / most), 1 if rows else 0)
        mark = "|" if threshold is not None and high >= threshold else " "
        lines.append(f"  {name:>22} {mark} {bar:<{_WIDTH}} {rows:,}")
    return lines


def summary(rewards: Counter[float]) -> dict[str, float | int]:
    """Rows, lowest, highest, mean and median."""
    total = rewards.total()
    if not total:
        return {"rows": 0}
    middle, seen, median = (total + 1) // 2, 0, 0.0
    for value in sorted(rewards):
        seen += rewards[value]
        if seen >= middle:
            median = value
            break
    mean = sum(value * rows for value, rows in rewards.items()) / total
    return {"rows": total, "min": min(rewards), "max": max(rewards), "mean": mean, "median": median}
