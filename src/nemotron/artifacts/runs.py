"""What a run directory says: its state, and the artifacts it left.

A run directory is written by the launcher (`plan.json`, `recipe`), by the job inside it (`record.json`,
logs) and, once content identity is computed, by `settle` (`outputs.json`, which makes the run whole).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron.errors import NemotronError

from .atomic import os_error, write_new
from .digest import digest_path, level_of
from .records import stat_fingerprint
from .run_state import LOCK_FILE as LOCK_FILE
from .run_state import RECORD_FILE as RECORD_FILE
from .run_state import RunState, Standing, read_object, standing
from .run_state import ended_state as ended_state
from .run_state import is_locked as is_locked
from .store import Store, age

PLAN_FILE = "plan.json"
PLACE_FILE = "place.json"
RECIPE_FILE = "recipe"
OUTPUTS_FILE = "outputs.json"


@dataclass(frozen=True)
class Run:
    """One run directory of a store."""

    directory: Path

    @property
    def id(self) -> str:
        """The run's id: the name of its directory."""
        return self.directory.name

    @property
    def recipe_digest(self) -> str | None:
        """The digest of the recipe it runs; None for a directory that was never completed."""
        try:
            return (self.directory / RECIPE_FILE).read_text(encoding="ascii").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    @property
    def plan(self) -> dict[str, Any]:
        """Its `plan.json`, empty when there is none."""
        return read_object(self.directory / PLAN_FILE)

    @property
    def place(self) -> dict[str, Any]:
        """Its `place.json`: what differs from run to run of one plan; empty when there is none."""
        return read_object(self.directory / PLACE_FILE)

    @property
    def record(self) -> dict[str, Any]:
        """The record of its last ended attempt, empty while there is none."""
        return read_object(self.directory / RECORD_FILE)

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Its artifacts by port, with identity; empty until the run is settled."""
        return read_object(self.directory / OUTPUTS_FILE)

    @property
    def is_settled(self) -> bool:
        """Whether the identity of its outputs is computed and recorded."""
        return (self.directory / OUTPUTS_FILE).is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """What the trainer says of the whole run."""
        return read_object(self.directory / "summary.json")

    @property
    def failure(self) -> dict[str, Any]:
        """The trainer's own word on why it failed."""
        return read_object(self.directory / "failure.json")

    @property
    def attempts(self) -> int:
        """How many attempts have begun."""
        return sum(1 for _ in (self.directory / "logs").glob("attempt-*.log"))

    def latest_log(self) -> Path | None:
        """The log of its newest attempt, None while it has none."""
        logs = (self.directory / "logs").glob("attempt-*.log")
        return max(logs, key=lambda path: int(path.stem.partition("-")[2]), default=None)

    def state(self) -> RunState:
        """What the run is doing, told from its lock and its files."""
        return self.standing().state

    def standing(self) -> Standing:
        """Its state and what that rests on; no scheduler is asked."""
        return standing(self.directory)

    def changed_outputs(self) -> tuple[str, ...]:
        """The ports whose artifact is gone or has another content than the run left.

        Sizes and times are compared first; the content is read only where they differ.
        """
        return tuple(port for port, output in self.outputs.items() if not output_intact(output))

    def outputs_intact(self) -> bool:
        """Whether it left artifacts, and every one is still there with the same content."""
        outputs = self.outputs
        return bool(outputs) and all(output_intact(o) for o in outputs.values())


def all_runs(store: Store) -> Iterator[Run]:
    """Every run of a store, newest first."""
    for run_id in store.run_ids():
        yield Run(store.runs_dir / run_id)


def runs_of_recipe(store: Store, recipe_digest: str) -> Iterator[Run]:
    """Runs with this recipe, newest first; only they are looked at, however many others there are.

    Errors: see `os_error`.
    """
    try:
        with os.scandir(_marks(store, recipe_digest)) as entries:
            names = [e.name for e in entries if not e.name.startswith(".")]
    except FileNotFoundError:
        names = [] if store.recipes_dir.is_dir() else list(store.run_ids())
    except OSError as exc:
        raise os_error(exc, store.recipes_dir) from exc
    runs = (Run(store.runs_dir / name) for name in sorted(names, key=age, reverse=True))
    return (run for run in runs if run.recipe_digest == recipe_digest)


def mark_recipe(store: Store, run_id: str, recipe_digest: str) -> None:
    """Let `runs_of_recipe` find a run. What the run's own `recipe` says counts: a mark alone makes no run.

    Errors: see `os_error`.
    """
    place = _marks(store, recipe_digest)
    try:
        if not store.recipes_dir.is_dir():
            _mark_all(store)
        place.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise os_error(exc, place) from exc
    write_new(place / run_id, b"")


def _mark_all(store: Store) -> None:
    """Make the directory of marks, whole at once, for the runs that are there."""
    import shutil  # 3 ms that listing runs does not need

    new = store.root / f".recipes.{os.urandom(6).hex()}.tmp"
    new.mkdir(parents=True)
    try:
        for run in all_runs(store):
            if run.recipe_digest is not None:
                place = new / _marks(store, run.recipe_digest).name
                place.mkdir(exist_ok=True)
                (place / run.id).touch()
        new.rename(store.recipes_dir)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else somebody was faster, with the same marks
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _marks(store: Store, recipe_digest: str) -> Path:
    return store.recipes_dir / recipe_digest.rpartition(":")[2][:32]


def digest_tail(digest: str) -> str:
    """The first twelve digits of a digest, as ids and listings show it."""
    return digest.partition(":")[2][:12]


def output_intact(output: Mapping[str, Any]) -> bool:
    """Whether one entry of `Run.outputs` is still there with the same content."""
    path = Path(str(output.get("path")))
    try:
        if stat_fingerprint(path) == output.get("fingerprint"):
            return True
        known = str(output.get("digest"))
        return digest_path(path, level=level_of(known)).value == known
    except (NemotronError, OSError):
        return False
