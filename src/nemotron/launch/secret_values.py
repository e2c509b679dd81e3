"""The values of a plan's secrets, read when it is submitted and handed to the job's own file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nemotron.errors import NotFound, UsageError
from nemotron.planning.plan import Plan
from nemotron.profiles.load import load_profiles
from nemotron.profiles.profile import Profile


def secret_values(plan: Plan, environ: Mapping[str, str], cwd: Path) -> dict[str, str]:
    """Name to value, for every secret that is set.

    The profile says which variable holds one, or holds it itself; else the variable of that name is read.
    Raises UsageError for one that is not set and not optional.
    """
    names = plan.placement.secrets
    if not names:
        return {}
    profile = _profile(plan, environ, cwd)
    known = {secret.name: secret for secret in profile.secrets} if profile else {}
    found = {}
    for name in names:
        if profile is not None and name in known:
            value = profile.secret_value(known[name], environ)
        else:
            value = environ.get(name)
        if value is not None and "\0" in value:
            raise UsageError(f"{name} holds a NUL character", where="environment")
        if value:
            found[name] = value
    return found


def _profile(plan: Plan, environ: Mapping[str, str], cwd: Path) -> Profile | None:
    if plan.placement.profile is None:
        return None
    try:
        return load_profiles(environ, cwd).get(plan.placement.profile)
    except NotFound:
        return None  # a saved plan, far from its profiles: the environment has to do
