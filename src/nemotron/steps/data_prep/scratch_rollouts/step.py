"""Writes the rollouts of the tiny chat world: `step.py --config CONFIG`."""

from __future__ import annotations

import json
from pathlib import Path

from nemotron.artifacts.atomic import os_error, write_text
from nemotron.data.rollouts.tiny import rollout_rows
from nemotron.data.step_config import Config, run_step


def main(config: Config) -> None:
    """Write the one output."""
    place = Path(config["output"]["rollouts"])
    rows = rollout_rows(int(config["prompts"]), int(config["rollouts_per_prompt"]), int(config["seed"]))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise os_error(problem, place.parent) from problem
    write_text(place, text)
    print(f"rollouts: {text.count(chr(10))} rows in {place}")


if __name__ == "__main__":
    run_step(main, __doc__)
