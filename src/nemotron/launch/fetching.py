"""Models from the Hugging Face hub: found in the local cache, or downloaded when a run is launched."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nemotron.artifacts.checks import check_artifact
from nemotron.artifacts.digest import digest_json
from nemotron.artifacts.references import Reference, parse_reference
from nemotron.errors import CheckFailed, NotFound, SchedulerError
from nemotron.findings import errors_in
from nemotron.planning.plan import PlannedInput

_COMMIT = re.compile(r"[0-9a-f]{40}")


def can_fetch(each: PlannedInput) -> bool:
    """Whether a late input is one that a launch here can bring: a hub model."""
    return each.reference is not None and each.reference.startswith("hf://")


def fetch_input(each: PlannedInput, environ: Mapping[str, str]) -> PlannedInput:
    """The input pinned to a local snapshot of its commit; the commit is its identity.

    Raises NotFound (no such model or revision), SchedulerError (no network), CheckFailed (not what the
    port takes).
    """
    reference = parse_reference(str(each.reference))
    snapshot = cached_snapshot(reference, environ) or download(reference)
    checked = check_artifact(snapshot, each.types)
    errors = errors_in(checked.findings)
    if errors:
        raise CheckFailed(
            f"input {each.port}: {reference} does not fit", where=str(snapshot), findings=errors
        )
    digest = digest_json({"hub": reference.name, "commit": snapshot.name})
    return replace(each, state="pinned", type=checked.type, path=str(snapshot), digest=digest)


def cached_snapshot(reference: Reference, environ: Mapping[str, str]) -> Path | None:
    """The snapshot directory of a hub model in the local cache, None when it is not there.

    The cache's layout is the hub client's: `models--ORG--NAME/{refs,snapshots}`.
    """
    home = environ.get("HF_HUB_CACHE")
    base = Path(home) if home else Path(environ.get("HF_HOME") or Path.home() / ".cache/huggingface") / "hub"
    model = base / ("models--" + reference.name.replace("/", "--"))
    revision = reference.version or "main"
    commit = revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = (model / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
    snapshot = model / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and (snapshot / "config.json").exists() else None


def download(reference: Reference) -> Path:
    """Bring a model from the hub into the cache. Raises NotFound or SchedulerError."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as problem:
        raise CheckFailed(
            f"{reference} cannot be fetched: {problem}", next="pip install 'nemotron[embedded]'"
        ) from problem
    try:
        place = snapshot_download(
            reference.name,
            revision=reference.version,
            allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model"],
        )
    except RepositoryNotFoundError as problem:
        raise NotFound(f"the hub has no model {reference.name}", where=str(reference)) from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        offline = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "is there a network?"
        raise SchedulerError(
            f"{reference.name} is not in the local cache and the hub does not answer ({offline})",
            where=str(reference),
            next="give a directory instead: -i PORT=PATH",
        ) from problem
    return Path(place)
