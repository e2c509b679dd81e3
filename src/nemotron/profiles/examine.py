"""From the tables of a chain of profiles to one `Profile`, with all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping

from nemotron.profiles.extend import giver, leaf_paths, merged_chain
from nemotron.profiles.files import Entry
from nemotron.profiles.profile import Origin, Profile
from nemotron.profiles.resolve import filled, holds_interpolation
from nemotron.profiles.secrets import without_secrets
from nemotron.profiles.validate import checked


def examined(name: str, chain: tuple[Entry, ...], environ: Mapping[str, str]) -> Profile:
    """The profile that a chain makes, itself first in it; `findings` says what is wrong."""
    written = merged_chain(chain)
    by_path = {path: _origin(giver(path, chain), path) for path in leaf_paths(written)}
    origins = {".".join(path): origin for path, origin in by_path.items()}
    result = filled(written, by_path, environ)
    values, secrets, literals, found = without_secrets(
        result.values, written, result.late, lambda key: _place(origins, key)
    )
    executor = values.pop("executor", None)
    file = chain[0].source.path
    values, wrong = checked(
        executor,
        values,
        origins,
        file,
        interpolated={key for key, value in written.items() if holds_interpolation(value)},
        filled=result.problem is None,
    )
    problem = () if result.problem is None else (result.problem,)
    return Profile(
        name=name,
        executor=executor if isinstance(executor, str) else "",
        file=file,
        extends=tuple(entry.name for entry in chain[1:]),
        values=values,
        origins=origins,
        secrets=tuple(secret for secret in secrets if secret.key.partition(".")[0] in values),
        findings=(*problem, *wrong, *found),
        _literals=literals,
    )


def _origin(entry: Entry, path: tuple[str, ...]) -> Origin:
    return Origin(entry.source.path, entry.line(*path), entry.name)


def _place(origins: Mapping[str, Origin], key: tuple[str | int, ...]) -> str:
    """`file:line` of a value, or of the list or table it is in."""
    while key:
        origin = origins.get(".".join(map(str, key)))
        if origin:
            return origin.place
        key = key[:-1]
    return ""
