"""Preference data of any known type to `preference_jsonl`: `step.py --config CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemotron.data.preferences.convert import convert_preferences, export_preferences
from nemotron.data.preferences.formats import find_format
from nemotron.data.rowwise import Split, report_text
from nemotron.data.step_config import Config, finish, one_input, run_step
from nemotron.errors import UsageError

EXTRA = {"leave_out": False, "ignore": True}


def main(config: Config) -> None:
    """Write the pairs, and once more in the type that `export` names."""
    path = one_input(config, ("data_path", "raw_path"))
    extra = config["extra_fields"]
    if extra not in EXTRA:
        raise UsageError(f"no way {extra!r:.40}", where="extra_fields", valid=tuple(EXTRA))
    options = config.get("options") or {}
    format = find_format(config["type"], config["method"], options, extra=EXTRA[extra])
    export: dict[str, Any] = config["export"]
    wanted = export["type"]
    back = find_format(wanted, export["method"], export.get("options") or {}) if wanted else None

    output, share = config["output"], float(config["split_validation_size"])
    places = {"rows": Path(output["preferences"])}
    if share:
        places["validation"] = Path(output["validation"])
    split = Split(share, int(config["seed"]), bool(config["dedupe"]))
    label, workers = config["assume_label"], config["workers"]
    report = convert_preferences(path, format, places, split=split, assume_label=label, workers=workers)
    if back is not None:
        place = Path(output["export"])
        report["export"] = export_preferences(places["rows"], back, place, workers=workers)
    finish(report, output["report"])
    if back is not None:
        print(f"as {back.name}: {report_text(report['export'])}")


if __name__ == "__main__":
    run_step(main, __doc__)
