"""From what a person typed or pasted to the artifact that is meant: an id, a digest, a path, a name."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemotron.artifacts.index.queries import LATEST, Index
from nemotron.artifacts.paths import printable
from nemotron.artifacts.references import Reference, parse_reference
from nemotron.artifacts.verify import holds
from nemotron.errors import NotFound, UsageError, nearest

_SHORT = re.compile(r"[0-9a-f]{4,64}")
_NAME = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._/-]*)(?::([A-Za-z0-9_.-]+)|@((?:[a-z]+:)?[0-9a-f]{8,64}))?")
_VERSION = re.compile(r"v(\d+)")
_DIGESTS = ("blake3:", "sampled:")
_LISTING = "nemotron artifacts list"
_SHOWN = 12


@dataclass(frozen=True)
class Found:
    """The artifacts that a text means: one, or all that one run left. how: by what it was found."""

    idents: tuple[str, ...]
    how: str

    def one(self) -> str:
        """The only artifact. Raises UsageError when a run left several."""
        if len(self.idents) > 1:
            raise UsageError(
                f"{len(self.idents)} artifacts are meant", valid=self.idents, next="name one: run://RUN/PORT"
            )
        return self.idents[0]


def find_artifact(
    index: Index, text: str, *, cwd: Path, environ: Mapping[str, str], as_recorded: bool = False
) -> Found:
    """What `text` means: a reference, a record's id, a name, a digest or its beginning, a run's id or its
    beginning, a path.

    A path means what is there now: it is read, and found by its content if that is known. as_recorded: it
    means what was recorded there last instead, also when something else is there now. Raises NotFound with
    the nearest names, UsageError when several artifacts are meant.
    """
    by_path = functools.partial(_by_path, index, environ=environ, as_recorded=as_recorded)
    if "://" in text:
        return _by_reference(index, parse_reference(text, cwd=cwd), by_path)
    found = None
    if text.isascii() or printable(text) == text:  # no id, name or digest holds anything else
        found = _by_record(index, text) or _by_name(index, text)
    path = parse_reference(text, cwd=cwd).path
    # Something that is there is meant before what only begins like it.
    if found is None and path.exists():
        found = by_path(path)
    if found is None and text.isascii():
        found = _by_digest(index, text) or _by_run(index, text, None)
    if found is None:
        found = by_path(path)
    if found is None:
        raise _nothing(index, text)
    return found


def named_version(index: Index, reference: Reference) -> str:
    """The artifact that an `art://` reference means now; without version or digest the latest version.

    Raises NotFound for a name, version or alias that was never given.
    """
    versions = index.versions(reference.name)
    where = f"art://{reference.name}"
    if not versions:
        raise NotFound(
            f"no artifact is named {reference.name}",
            nearest=nearest(reference.name, index.names()),
            next=f"nemotron artifacts alias REF {reference.name}",
        )
    if reference.digest is not None:
        wanted = reference.digest.rpartition(":")[2]
        fitting = {v.subject for v in versions if v.subject.rpartition(":")[2].startswith(wanted)}
        if len(fitting) != 1:
            valid = [f"@{v.subject.rpartition(':')[2][:12]}" for v in versions[-_SHOWN:]]
            raise NotFound(f"{len(fitting)} versions have this digest", where=str(reference), valid=valid)
        return fitting.pop()
    aliases = index.aliases(reference.name)
    word = reference.version or LATEST
    if word in aliases:
        return aliases[word]
    if word == LATEST:
        return versions[-1].subject
    found = _VERSION.fullmatch(word)
    for each in versions:
        if found and each.version == int(found[1]):
            return each.subject
    words = [f"v{v.version}" for v in versions[-_SHOWN:]] + sorted(aliases)
    raise NotFound(f"{where} has no {word}", nearest=nearest(word, words), valid=words)


def _by_reference(index: Index, reference: Reference, by_path: Callable[[Path], Found | None]) -> Found:
    if reference.kind == "art":
        return Found((named_version(index, reference),), "name")
    if reference.kind == "run":
        found = _by_run(index, reference.name, reference.port)
        if found is None:
            raise NotFound(f"no run {reference.name} is recorded", next="nemotron runs list")
        return found
    if reference.kind == "path":
        found = by_path(reference.path)
        if found is not None:
            return found
    elif index.has(f"ref:{reference}"):
        return Found((f"ref:{reference}",), "reference")
    if reference.kind == "step":
        raise UsageError(
            "a step reference says how to make an artifact",
            where=str(reference),
            next=f"nemotron steps run {reference.name} -d shows which run made it",
        )
    raise _nothing(index, str(reference))


def _by_record(index: Index, text: str) -> Found | None:
    ident = index.ident_of_record(text)
    if ident is None and index.has(text):
        ident = text
    return Found((ident,), "record") if ident is not None else None


def _by_name(index: Index, text: str) -> Found | None:
    words = _NAME.fullmatch(text)
    if words is None or words[1] not in index.names():
        return None
    digest = (words[3] if ":" in words[3] else f"blake3:{words[3]}") if words[3] else None
    return Found((named_version(index, Reference("art", words[1], version=words[2], digest=digest)),), "name")


def _by_digest(index: Index, text: str) -> Found | None:
    algorithm, colon, digits = text.rpartition(":")
    if not _SHORT.fullmatch(digits) or (colon and f"{algorithm}:" not in _DIGESTS):
        return None
    prefixes = [f"{algorithm}:"] if colon else list(_DIGESTS)
    fitting = [ident for prefix in prefixes for ident in index.idents_by_prefix(prefix + digits, _SHOWN + 1)]
    if len(fitting) > 1:
        more = ("...",) if len(fitting) > _SHOWN else ()
        raise UsageError(
            f"several artifacts begin with {text}",
            valid=(*fitting[:_SHOWN], *more),
            next="type more of the digest",
        )
    return Found((fitting[0],), "digest") if fitting else None


def _by_run(index: Index, prefix: str, port: str | None) -> Found | None:
    runs = index.run_ids(prefix, _SHOWN + 1)
    if prefix in runs:
        runs = (prefix,)
    if not runs:
        return None
    if len(runs) > 1:
        more = ("...",) if len(runs) > _SHOWN else ()
        raise UsageError(
            f"several runs begin with {prefix}", valid=(*runs[:_SHOWN], *more), next="type more of the id"
        )
    outputs = index.outputs_of(runs[0])
    if port is not None and port not in outputs:
        what = f"run {runs[0]} left nothing at {port}"
        raise NotFound(what, nearest=nearest(port, outputs), valid=tuple(outputs))
    if not outputs:
        raise NotFound(f"run {runs[0]} has left nothing", next=f"nemotron runs show {runs[0]}")
    final = [ident for name, ident in outputs.items() if "/" not in name] or list(outputs.values())
    return Found((outputs[port],) if port else tuple(dict.fromkeys(final)), "run")


def _by_path(index: Index, path: Path, *, environ: Mapping[str, str], as_recorded: bool) -> Found | None:
    real = Path(os.path.realpath(path))
    for place in dict.fromkeys((path, real, *path.parents, *real.parents)):
        for ident in index.idents_at(str(place)):
            where = next((p for p in index.locations(ident) if p.path == str(place)), None)
            # What was recorded there and is there no more is not what a path means.
            if where is not None and (as_recorded or not place.exists() or holds(where, ident, environ)):
                return Found((ident,), "path")
    if index.has(f"ref:{path}"):
        return Found((f"ref:{path}",), "reference")
    if not path.exists():
        return None
    from nemotron.artifacts.digest import AUTO, digest_path
    from nemotron.artifacts.digest_cache import DigestCache

    with DigestCache.for_user(environ) as cache:
        for level in (AUTO, "sampled"):
            digest = digest_path(path, cache=cache, level=level).value
            if index.has(digest):
                return Found((digest,), "content")
    return None


def _nothing(index: Index, text: str) -> NotFound:
    near = nearest(text.partition(":")[0], index.names()) or index.run_ids(text[:8])[:3]
    return NotFound(f"nothing is recorded of {printable(text)}", nearest=near, next=_LISTING)
