"""Checkpoints that a framework of another house saved: recorded as artifacts as soon as they are whole."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_bytes, write_json
from nemotron.artifacts.records import ArtifactRecord, stat_fingerprint, timestamp, write_record
from nemotron.artifacts.run_state import read_object
from nemotron.errors import NemotronError

RANKING_FILE = "metric.json"
_STEP = re.compile(r"step_([1-9]\d*|0)")


class SavedCheckpoints:
    """The `step_N` directories of a run's outputs.

    run: its id. planned: the outputs of its plan. ranking: the metric that makes a checkpoint the best, as
    `outputs.select_step` reads it. known: paths of checkpoints that are recorded already, or are somebody
    else's; grows.
    """

    def __init__(
        self,
        directory: Path,
        planned: Sequence[Mapping[str, Any]],
        records_dir: Path,
        ranking: Mapping[str, Any],
        known: Collection[str],
    ) -> None:
        self._run = directory.name
        self._outputs = [
            (directory / each["path"], each) for each in planned if each.get("select") is not None
        ]
        self._records_dir = records_dir
        self._ranking = ranking
        self.known = set(known)

    def pass_over_others(self, directory: Path) -> None:
        """What is there now outside of `directory` was saved by somebody else."""
        self.known |= {str(place) for place, _, _ in self._there() if not place.is_relative_to(directory)}

    def highest_step(self) -> int:
        """The highest step that a whole checkpoint holds, 0 without any."""
        return max((step for root, _ in self._outputs for step in _steps(root)), default=0)

    def record(self) -> bool:
        """Record what is new; whether anything was."""
        new = [each for each in self._there() if str(each[0]) not in self.known]
        for place, step, output in new:
            self.known.add(str(place))
            try:
                self._leave_ranking(output)
                _add_tokenizer(place, step)
                self._record(place, step, output)
            except (NemotronError, OSError) as problem:
                # It may be the one that was just removed to make room; a run does not end for that.
                print(f"checkpoint {place} was not recorded: {problem}", file=sys.stderr)
        return bool(new)

    def _there(self) -> list[tuple[Path, int, Mapping[str, Any]]]:
        """Where each whole checkpoint's artifact is, its step and its output."""
        found = [
            (root / f"step_{step}" / (output["inside"] or ""), step, output)
            for root, output in self._outputs
            for step in _steps(root)
        ]
        return [each for each in found if os.path.exists(each[0])]  # noqa: PTH110 - it never raises

    def _leave_ranking(self, output: Mapping[str, Any]) -> None:
        root = next(path for path, each in self._outputs if each is output)
        wanted = dict(self._ranking)
        if wanted.get("metric_name") is not None and read_object(root / RANKING_FILE) != wanted:
            write_json(root / RANKING_FILE, wanted)

    def _record(self, place: Path, step: int, output: Mapping[str, Any]) -> None:
        name = f"{self._run}.{output['port']}.step_{step}"
        if next(self._records_dir.glob(f"*/artifact-{name}.json"), None) is not None:
            return
        saved = place.stat().st_mtime
        write_record(
            self._records_dir,
            ArtifactRecord(
                id=name,
                type=output["type"],
                path=str(place),
                # Not this moment: whoever records it again, or at once, writes the same record.
                at=timestamp(datetime.fromtimestamp(saved, UTC)),
                fingerprint=stat_fingerprint(place),
                made_by={
                    "run_id": self._run,
                    "port": f"{output['port']}/step_{step}",
                    "step_of_training": step,
                },
            ),
        )


def _add_tokenizer(place: Path, step: int) -> None:
    """Put the tokenizer into a model's directory, where loaders look for it; NeMo-RL has it apart."""
    saved = (
        next(path for path in (place, *place.parents) if path.name == f"step_{step}") / "policy" / "tokenizer"
    )
    if not (place / "config.json").is_file() or not saved.is_dir():
        return
    for file in sorted(saved.iterdir()):
        target = place / file.name
        if file.is_file() and not target.exists():
            write_bytes(target, file.read_bytes())


def _steps(root: Path) -> list[int]:
    """Steps of the whole checkpoints below a directory, ascending; one being written has another name."""
    try:
        names = [path.name for path in root.iterdir()]
    except OSError:
        return []  # nothing was saved yet
    return sorted(int(step[1]) for step in map(_STEP.fullmatch, names) if step)
