"""Preference data of any known type to `preference_jsonl`: `step.py --config CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemotron.data.hub import Hub, Place, is_hub_name, missing_hub
from nemotron.data.preferences.convert import convert_preferences, export_preferences
from nemotron.data.preferences.formats import Format, find_format
from nemotron.data.rowwise import Split, report_text
from nemotron.data.step_config import Config, finish, input_if_any, run_step
from nemotron.errors import UsageError

KEYS = ("data_path", "raw_path", "hf_dataset")
EXTRA = {"leave_out": False, "ignore": True}


def main(config: Config) -> None:
    """Write the pairs, and once more in the type that `export` names."""
    extra = config["extra_fields"]
    if extra not in EXTRA:
        raise UsageError(f"no way {extra!r:.40}", where="extra_fields", valid=tuple(EXTRA))
    options = config.get("options") or {}
    format = find_format(config["type"], config["method"], options, extra=EXTRA[extra])
    inputs = inputs_of(config, format)
    export: dict[str, Any] = config["export"]
    wanted = export["type"]
    back = find_format(wanted, export["method"], export.get("options") or {}) if wanted else None

    output, share = config["output"], float(config["split_validation_size"])
    places = {"rows": Path(output["preferences"])}
    if share:
        places["validation"] = Path(output["validation"])
    split = Split(share, int(config["seed"]), bool(config["dedupe"]))
    label, workers = config["assume_label"], config["workers"]
    hub = hub_loader() if isinstance(inputs, Place) else None
    report = convert_preferences(
        inputs, format, places, split=split, assume_label=label, workers=workers, hub=hub
    )
    if back is not None:
        place = Path(output["export"])
        report["export"] = export_preferences(places["rows"], back, place, workers=workers)
    finish(report, output["report"])
    if back is not None:
        print(f"as {back.name}: {report_text(report['export'])}")


def inputs_of(config: Config, format: Format) -> str | Place:
    """The file to read, or the place on the hub; types that are one data set know theirs."""
    path, own = input_if_any(config, KEYS), format.on_hub
    if path is None and own is None:
        raise UsageError("no input is named", where=KEYS[0], valid=KEYS)
    if path is not None and (path != config["hf_dataset"] or not is_hub_name(path)):
        return path
    place = own if own is not None and path in (None, own.path) else Place(str(path))
    return Place(place.path, config["subset"] or place.subset, config["split"] or place.split or "train")


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
