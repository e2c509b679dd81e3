"""Chat data of any of the known forms to `training_jsonl`: `step.py --config CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemotron.data.chats.datasets import ChatDataset
from nemotron.data.chats.registry import load_chats, write_chats
from nemotron.data.hub import Hub, is_hub_name, missing_hub
from nemotron.data.step_config import Config, finish, input_if_any, run_step

# Keys of the config that are the data set's own; null leaves each at what the data set has.
KEYS = (
    "val_data_path", "subset", "split", "val_split", "split_validation_size", "seed", "input_key",
    "output_key", "chat_key", "system_key", "system_prompt", "tool_key", "use_preserving_dataset",
    "media_data_dir", "trim",
)  # fmt: skip


def main(config: Config) -> None:
    """Write the training rows, and the validation rows where there are any."""
    keys: dict[str, Any] = {key: config[key] for key in KEYS if config.get(key) is not None}
    path = input_if_any(config, ("data_path", "raw_path", "hf_dataset"))
    if path is not None:
        keys["data_path"] = path
    # A data set that the hub has under its own name needs no path; where there is none, it is loaded so.
    needs_hub = path is None or is_hub_name(path)
    dataset = load_chats(
        config["dataset_name"],
        {**keys, **(config.get("dataset_kwargs") or {})},
        hub=hub_loader() if needs_hub else None,
    )
    places = {"rows": Path(config["output"]["chat"])}
    if has_validation(dataset):
        places["validation"] = Path(config["output"]["validation"])
    report = write_chats(dataset, places, dedupe=bool(config["dedupe"]), workers=config["workers"])
    finish(report, config["output"]["report"])


def has_validation(dataset: Any) -> bool:
    """Whether there are rows to measure on."""
    if isinstance(dataset, ChatDataset):
        return dataset.validation is not None or dataset.share > 0
    return dataset.formatted_ds.get("validation") is not None


def hub_loader() -> Hub:
    """What loads data sets from the hub."""
    try:
        from datasets import load_dataset
    except ImportError as exc:
        return missing_hub(exc)
    loaded: Hub = load_dataset
    return loaded


if __name__ == "__main__":
    run_step(main, __doc__)
