"""What a run left becomes artifacts: checked, identified by content, recorded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nemotron.errors import NemotronError
from nemotron.findings import Finding, errors_in

from .atomic import write_json
from .checks import check_artifact
from .digest import digest_path
from .digest_cache import DigestCache
from .records import ArtifactRecord, stat_fingerprint, write_record
from .runs import OUTPUTS_FILE, Run, digest_tail
from .store import Store

Progress = Callable[[int, int], None]

_STEP = re.compile(r"step_(\d+)")


def settle(
    store: Store, run: Run, environ: Mapping[str, str], progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Check the outputs of a run that ended well, compute their identity and record them.

    Returns what the checks found; with an error among them the run is not settled. Settling again
    changes nothing. progress: see `digest_path`. Errors: those of `write_record`.
    """
    if run.is_settled:
        return ()
    made = run.record.get("outputs") or {}
    settled: dict[str, dict[str, Any]] = {}
    findings: list[Finding] = []
    with DigestCache.for_user(environ) as cache:
        for port, output in made.items():
            checked = check_artifact(Path(output["path"]), output["type"])
            findings += checked.findings
            settled[port] = _identified(output, checked.facts, cache, progress)
    if errors_in(findings):
        return tuple(findings)
    for port, output in settled.items():
        step = made[port].get("step_of_training")
        write_record(store.records_dir, _record(run, port, output, step))
        if step is not None:
            _record_checkpoints(store, run, port, output, step)
    write_json(run.directory / OUTPUTS_FILE, settled)
    return tuple(findings)


def _identified(
    output: Mapping[str, Any], facts: Mapping[str, Any], cache: DigestCache, progress: Progress | None
) -> dict[str, Any]:
    path = Path(output["path"])
    # Before the content is read: a file that changes meanwhile must not pass for unchanged later.
    fingerprint = stat_fingerprint(path)
    digest = digest_path(path, cache=cache, progress=progress)
    return {
        "type": output["type"],
        "path": str(path),
        "digest": digest.value,
        "files": digest.files,
        "bytes": digest.bytes,
        "fingerprint": fingerprint,
        "facts": dict(facts),
    }


def _record(run: Run, port: str, output: Mapping[str, Any], step: int | None) -> ArtifactRecord:
    made_by = {"run_id": run.id, "attempt": run.record.get("attempt"), "port": port}
    if step is not None:
        made_by["step_of_training"] = step
    return ArtifactRecord(
        id=f"{run.id}.{port}.{digest_tail(output['digest'])}",
        type=output["type"],
        path=output["path"],
        # Not this moment: whoever settles the same run, again or at once, writes the same record.
        at=str(run.record.get("at")),
        digest=output["digest"],
        fingerprint=output["fingerprint"],
        facts=output["facts"],
        files=output["files"],
        bytes=output["bytes"],
        made_by=made_by,
    )


def _record_checkpoints(store: Store, run: Run, port: str, output: Mapping[str, Any], chosen: int) -> None:
    """A record for each checkpoint beside the chosen one; their content is read when somebody uses them."""
    at = Path(output["path"])
    root = next(p for p in (at, *at.parents) if p.name == f"step_{chosen}")
    for directory in sorted(root.parent.glob("step_*")):
        found = _STEP.fullmatch(directory.name)
        place = directory / at.relative_to(root)
        if found is None or directory == root or not place.exists():
            continue
        step = int(found[1])
        name = f"{run.id}.{port}.step_{step}"
        if next(store.records_dir.glob(f"*/artifact-{name}.json"), None) is not None:
            continue  # the job recorded it when it was saved
        try:
            fingerprint = stat_fingerprint(place)
        except NemotronError:
            continue  # being removed, as the oldest are: nothing that could be used
        write_record(
            store.records_dir,
            ArtifactRecord(
                id=name,
                type=output["type"],
                path=str(place),
                at=str(run.record.get("at")),
                fingerprint=fingerprint,
                made_by={"run_id": run.id, "port": f"{port}/step_{step}", "step_of_training": step},
            ),
        )
