"""Rows of any form that asks something to prompt rows: `step.py --config CONFIG`."""

from __future__ import annotations

from pathlib import Path

from nemotron.data.prompts import PromptRows, prompt_work
from nemotron.data.rowwise import Split, convert_files
from nemotron.data.step_config import Config, finish, one_input, run_step


def main(config: Config) -> None:
    """Write the prompts."""
    path = one_input(config, ("data_path", "raw_path"))
    keep = config["keep"]
    rows = PromptRows(
        prompt_key=config["prompt_key"],
        answer_key=config["answer_key"],
        answer_from_chat=bool(config["answer_from_chat"]),
        agent=config["agent"],
        system_key=config["system_key"],
        system_prompt=config["system_prompt"],
        keep=None if keep is None else tuple(keep),
    )
    share = float(config["split_validation_size"])
    places = {"rows": Path(config["output"]["prompts"])}
    if share:
        places["validation"] = Path(config["output"]["validation"])
    split = Split(share, int(config["seed"]), one_per_prompt=bool(config["dedupe"]))
    report = convert_files(path, prompt_work(rows), places, split=split, workers=config["workers"])
    finish(report, config["output"]["report"])


if __name__ == "__main__":
    run_step(main, __doc__)
