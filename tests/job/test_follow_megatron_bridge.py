"""Scalars that Megatron-Bridge leaves, taken over while it writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tensorboard_writer import EventWriter

from nemotron.job.following.megatron_bridge import MegatronBridgeFollower

OUTPUT = {
    "port": "model",
    "type": "checkpoint_megatron",
    "path": "checkpoints",
    "select": None,
    "inside": None,
    "required": True,
}


def test_losses_of_all_starts_become_one_line_a_step(tmp_path: Path) -> None:
    run = tmp_path / "run-1"
    (run / "logs").mkdir(parents=True)
    (run / "place.json").write_text(
        json.dumps({"records_dir": str(tmp_path / "records"), "planned_steps": 3})
    )
    plan: dict[str, Any] = {
        "recipe": {"engine": "megatron_bridge", "config": {"logger": {"tensorboard_dir": "tensorboard"}}},
        "placement": {"config": {"logger.tensorboard_dir": "{run_dir}/tensorboard"}},
        "outputs": [OUTPUT],
    }
    first = MegatronBridgeFollower(run, plan)
    first.poll()
    assert not (run / "metrics.jsonl").exists(), "nothing was started yet"
    writer = EventWriter(run / "tensorboard", 1000.0)
    for step in (1, 2):
        writer.scalar("lm loss", 4.0 - step, step, 1000.0 + step)
        writer.scalar("lm loss vs samples", 4.0 - step, 8 * step, 1000.0 + step)
    first.poll()
    first.close()
    later = EventWriter(run / "tensorboard", 2000.0)
    later.scalar("lm loss", 1.0, 3, 2001.0)
    again = MegatronBridgeFollower(run, plan)
    again.poll()
    again.close()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["lm loss"]) for row in rows] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert all("lm loss vs samples" not in row for row in rows)
    timings = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
    assert timings[0] == {"event": "start", "step": 0, "total_steps": 3}
    assert not again.left_in_time(1e9)
