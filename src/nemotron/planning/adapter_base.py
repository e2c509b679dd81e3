"""Whether an adapter is put on the model that it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nemotron.artifacts.digest import digest_json, digest_path
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.artifacts.paths import printable
from nemotron.artifacts.references import bare_hub_id
from nemotron.artifacts.runs import digest_tail
from nemotron.errors import NemotronError
from nemotron.findings import Finding
from nemotron.planning.plan import PlannedInput
from nemotron.planning.words import shell_words

_CACHED = re.compile(r"(?:^|/)models--([^/]+?)--([^/]+)/snapshots/")
_SHOWN_NAME = 200


def base_findings(adapter: PlannedInput, model: PlannedInput, environ: Mapping[str, str]) -> list[Finding]:
    """`model.base_differs` or `model.base_unknown` for a pinned adapter and the model it is put on.

    Where the base that `adapter_config.json` names is a directory here, the weights of the two are compared
    by content; else the hub ids are.
    """
    base = adapter.facts.get("base")
    if not isinstance(base, str) or not base.strip("/"):
        return [_unknown(adapter, model, f"input {adapter.port} does not tell its base model")]
    place = _directory(base)
    if place is None:
        return _by_name(base, adapter, model)
    if place == _directory(str(model.path)):
        return []
    try:
        mine, theirs = _weights(place, Path(str(model.path)), environ)
    except (NemotronError, OSError) as problem:
        what = problem.what if isinstance(problem, NemotronError) else problem.strerror
        return [_unknown(adapter, model, f"the base of input {adapter.port} cannot be read: {what}")]
    if not mine or not theirs:
        what = (
            f"input {adapter.port} adapts {_seen(base)}, whose weights cannot be compared with {model.port}'s"
        )
        return [_unknown(adapter, model, what)]
    return [] if mine == theirs else [_differs(adapter, model, base, mine, theirs)]


def _directory(name: str) -> Path | None:
    """The model directory of this name, links followed; None where there is none that can be looked at."""
    try:
        place = Path(name).expanduser().resolve()
        return place if (place / "config.json").is_file() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _weights(base: Path, model: Path, environ: Mapping[str, str]) -> tuple[str, str]:
    """A digest of the weights in each of two directories, empty for one without any.

    Only weights count: another README or chat template makes no other base. The base is any path that an
    adapter cares to name, so nothing below it is looked at, and of files that differ in name or size no byte
    is read.
    """
    base_files, model_files = _weight_files(base), _weight_files(model)
    sizes = [{p.name: p.stat().st_size for p in files} for files in (base_files, model_files)]
    if sizes[0] != sizes[1] or not base_files:
        return digest_json(sizes[0]) if base_files else "", digest_json(sizes[1]) if model_files else ""
    with DigestCache.for_user(environ) as cache:
        return _content(base_files, cache), _content(model_files, cache)


def _weight_files(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("*.safetensors") if path.is_file())


def _content(files: list[Path], cache: DigestCache) -> str:
    return digest_json({path.name: digest_path(path, cache=cache).value for path in files})


def _by_name(base: str, adapter: PlannedInput, model: PlannedInput) -> list[Finding]:
    """For a base that is not here: the hub id is all there is to compare."""
    wanted, given = _hub_name(base), _hub_name(str(model.reference)) or _hub_name(str(model.path))
    if wanted is not None and given is not None:
        same = wanted.lower() == given.lower()  # the hub makes no difference
        return [] if same else [_differs(adapter, model, f"hf://{wanted}", f"hf://{wanted}", f"hf://{given}")]
    what = f"input {adapter.port} adapts {_seen(base)}, which is not here to be compared with {model.port}"
    if wanted is not None and _hub_name(str(model.facts.get("base_model") or "")) == wanted:
        what = (
            f"input {adapter.port} adapts {wanted}; {model.port} comes from it, but may have been trained on"
        )
    return [_unknown(adapter, model, what)]


def _hub_name(text: str) -> str | None:
    """The hub id in a bare id, in a reference, or in a path of the hub client's cache."""
    cached = _CACHED.search(text)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    named = bare_hub_id(text.removeprefix("hf://"))
    return named.name if named else None


def _differs(adapter: PlannedInput, model: PlannedInput, base: str, mine: str, theirs: str) -> Finding:
    """mine, theirs: digests of weights, or hub references."""
    short = [each if each.startswith("hf://") else f"weights {digest_tail(each)}" for each in (mine, theirs)]
    named = "" if mine == base else f", {_seen(base)}"
    return Finding(
        "model.base_differs",
        "error",
        f"input {adapter.port} adapts another model ({short[0]}{named}) than {model.port} ({short[1]})",
        where=adapter.key or adapter.port,
        valid=f"an adapter of {model.reference}, or the model it was trained on",
        fix=printable(shell_words(["-i", f"{model.port}={base}"])),
    )


def _unknown(adapter: PlannedInput, model: PlannedInput, what: str) -> Finding:
    return Finding(
        "model.base_unknown",
        "warning",
        f"{what}: whether it fits {model.port} is not known",
        where=adapter.key or adapter.port,
        valid=f"an adapter of {model.reference}",
    )


def _seen(name: str) -> str:
    """A name out of an untrusted file, on one line and not without end."""
    return printable(name[:_SHOWN_NAME]) + ("..." if len(name) > _SHOWN_NAME else "")
