"""What a run directory says: its state, and the artifacts it left.

A run directory is written by the launcher (`plan.json`, `recipe`), by the job inside it (`record.json`,
logs) and, once content identity is computed, by `settle` (`outputs.json`, which makes the run whole).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nemotron.errors import NemotronError
from nemotron.findings import Finding, errors_in

from .atomic import write_json
from .checks import check_artifact
from .digest import digest_path
from .digest_cache import DigestCache
from .records import ArtifactRecord, stat_fingerprint, write_record
from .store import Store

RunState = Literal["running", "succeeded", "failed", "interrupted", "prepared"]

PLAN_FILE = "plan.json"
RECIPE_FILE = "recipe"
RECORD_FILE = "record.json"
OUTPUTS_FILE = "outputs.json"
LOCK_FILE = "lock"


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
        return _read_json(self.directory / PLAN_FILE)

    @property
    def record(self) -> dict[str, Any]:
        """The record of its last ended attempt, empty while there is none."""
        return _read_json(self.directory / RECORD_FILE)

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Its artifacts by port, with identity; empty until the run is settled."""
        return _read_json(self.directory / OUTPUTS_FILE)

    @property
    def is_settled(self) -> bool:
        """Whether the identity of its outputs is computed and recorded."""
        return (self.directory / OUTPUTS_FILE).is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """What the trainer says of the whole run."""
        return _read_json(self.directory / "summary.json")

    @property
    def failure(self) -> dict[str, Any]:
        """The trainer's own word on why it failed."""
        return _read_json(self.directory / "failure.json")

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
        if is_locked(self.directory / LOCK_FILE):
            return "running"
        record = self.record
        if record:
            if record.get("exit_code") == 0:
                return "succeeded"
            return "interrupted" if record.get("reason") == "interrupted" else "failed"
        return "interrupted" if (self.directory / "logs").is_dir() else "prepared"

    def outputs_intact(self) -> bool:
        """Whether every artifact it left is still there with the same content.

        Sizes and times are compared first; the content is read only where they differ.
        """
        outputs = self.outputs
        return bool(outputs) and all(output_intact(o) for o in outputs.values())


def all_runs(store: Store) -> Iterator[Run]:
    """Every run of a store, newest first."""
    for run_id in store.run_ids():
        yield Run(store.runs_dir / run_id)


def runs_of_recipe(store: Store, recipe_digest: str) -> Iterator[Run]:
    """Runs with this recipe, newest first."""
    return (run for run in all_runs(store) if run.recipe_digest == recipe_digest)


def settle(store: Store, run: Run, environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """Check the outputs of a run that ended well, compute their identity and record them.

    Returns what the checks found; with an error among them the run is not settled. Settling again
    changes nothing. Errors: those of `write_record`.
    """
    if run.is_settled:
        return ()
    record = run.record
    settled: dict[str, dict[str, Any]] = {}
    findings: list[Finding] = []
    cache = DigestCache.for_user(environ)
    try:
        for port, made in (record.get("outputs") or {}).items():
            path = Path(made["path"])
            checked = check_artifact(path, made["type"])
            findings += checked.findings
            digest = digest_path(path, cache=cache)
            settled[port] = {
                "type": made["type"],
                "path": str(path),
                "digest": digest.value,
                "files": digest.files,
                "bytes": digest.bytes,
                "fingerprint": stat_fingerprint(path),
                "facts": dict(checked.facts),
            }
    finally:
        cache.close()
    if errors_in(findings):
        return tuple(findings)
    for port, output in settled.items():
        made_by = {"run_id": run.id, "attempt": record.get("attempt"), "port": port}
        step = record.get("outputs", {}).get(port, {}).get("step_of_training")
        if step is not None:
            made_by["step_of_training"] = step
        write_record(
            store.records_dir,
            ArtifactRecord(
                id=f"{run.id}.{port}.{digest_tail(output['digest'])}",
                type=output["type"],
                path=output["path"],
                # Not this moment: whoever settles the same run, again or at once, writes the same record.
                at=str(record.get("at")),
                digest=output["digest"],
                fingerprint=output["fingerprint"],
                facts=output["facts"],
                made_by=made_by,
            ),
        )
    write_json(run.directory / OUTPUTS_FILE, settled)
    return tuple(findings)


def digest_tail(digest: str) -> str:
    """The first twelve digits of a digest, as ids and listings show it."""
    return digest.partition(":")[2][:12]


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock file; false where there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a colleague's run is not ours to write
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as problem:
        return problem.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(handle)
    return False


def output_intact(output: Mapping[str, Any]) -> bool:
    """Whether one entry of `Run.outputs` is still there with the same content."""
    path = Path(str(output.get("path")))
    try:
        if stat_fingerprint(path) == output.get("fingerprint"):
            return True
        return digest_path(path).value == output.get("digest")
    except (NemotronError, OSError):
        return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
