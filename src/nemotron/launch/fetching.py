"""What a launch brings here: models from the Hugging Face hub, and files behind URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from nemotron.artifacts.checks import check_artifact
from nemotron.artifacts.digest import digest_json, digest_path
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.artifacts.references import URL_SCHEMES, Reference, parse_reference
from nemotron.artifacts.store import Store, find_store
from nemotron.errors import CheckFailed, NotFound, SchedulerError
from nemotron.findings import errors_in
from nemotron.planning.pinning import plan_facts
from nemotron.planning.plan import PlannedInput

Progress = Callable[[int, int], None]

_COMMIT = re.compile(r"[0-9a-f]{40}")


def can_fetch(each: PlannedInput) -> bool:
    """Whether a late input is one that a launch here can bring: a hub model, or what lies behind a URL."""
    return _is_url(each) or is_hub_model(each)


def is_hub_model(each: PlannedInput) -> bool:
    """Whether an input is a model of the Hugging Face hub."""
    return each.reference is not None and each.reference.startswith("hf://")


def fetch_input(
    each: PlannedInput,
    environ: Mapping[str, str],
    store: Store | None = None,
    progress: Progress | None = None,
) -> PlannedInput:
    """The input pinned: a hub model to the snapshot of its commit, its identity; a file to its content.

    store: where files behind URLs are kept; the one that `environ` names when not given. progress: see
    `downloads.fetch_url`.
    Raises NotFound (no such model, revision or file), SchedulerError (no network), CheckFailed (not what the
    port takes), and the errors of `downloads.fetch_url`.
    """
    if _is_url(each):
        return _fetch_url_input(each, environ, store or find_store(environ, Path.cwd()), progress)
    reference = parse_reference(str(each.reference))
    snapshot = cached_snapshot(reference, environ) or download(reference)
    checked = check_artifact(snapshot, each.types)
    errors = errors_in(checked.findings)
    if errors:
        raise CheckFailed(
            f"input {each.port}: {reference} does not fit", where=str(snapshot), findings=errors
        )
    digest = digest_json({"hub": reference.name, "commit": snapshot.name})
    facts = plan_facts(checked.facts)
    return replace(each, state="pinned", type=checked.type, path=str(snapshot), digest=digest, facts=facts)


def _is_url(each: PlannedInput) -> bool:
    scheme, separator, _ = (each.path or "").partition("://")
    return bool(separator) and scheme.lower() in URL_SCHEMES


def _fetch_url_input(
    each: PlannedInput, environ: Mapping[str, str], store: Store, progress: Progress | None
) -> PlannedInput:
    from nemotron.launch.downloads import fetch_url  # threads, and 10 ms that most launches do not need

    path = fetch_url(str(each.path), store.root, environ, progress)
    checked = check_artifact(path, each.types)
    errors = errors_in(checked.findings)
    if errors:
        raise CheckFailed(
            f"input {each.port}: {each.reference} does not fit", where=str(path), findings=errors
        )
    with DigestCache.for_user(environ) as cache:
        digest = digest_path(path, cache=cache).value
    facts = plan_facts(checked.facts)
    return replace(each, state="pinned", type=checked.type, path=str(path), digest=digest, facts=facts)


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
