"""A look at this machine: what it is, what is installed, what can be reached, and which profiles work."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemotron import __version__
from nemotron.artifacts.store import find_store
from nemotron.doctor.packages import EMBEDDED, look_at
from nemotron.doctor.places import LOOKS, Looker, shown_address
from nemotron.doctor.report import Group, Item, Report
from nemotron.errors import NemotronError
from nemotron.findings import errors_in
from nemotron.profiles.load import Profiles, load_profiles
from nemotron.profiles.profile import Profile

_OLDEST = (3, 11)
# A checkpoint of the smallest model that is worth training.
_LOW_DISK = 10 << 30


def examine(environ: Mapping[str, str], cwd: Path, *, deep: bool = False) -> Report:
    """Look at everything. deep: import the packages, which takes seconds for each.

    Raises UsageError for a store that is set to what can be none.
    """
    profiles = load_profiles(environ, cwd)
    known, broken = _read(profiles)
    looker = Looker(environ, deep)
    executors = []
    for name, look in LOOKS.items():
        own = [each for each in known if each.executor == name]
        executors.append(Group(name, tuple(look(looker, own)), tuple(each.name for each in own)))
    engines = _engines(known, deep=deep)
    judged = [_judged(each, executors, engines) for each in known]
    files = [Item(str(f.where), "broken", f.message, f.fix) for f in errors_in(profiles.findings)]
    found = (*judged, *broken, *files)
    return Report(_here(environ, cwd), engines, tuple(executors), found, imported=deep)


def _here(environ: Mapping[str, str], cwd: Path) -> tuple[Item, ...]:
    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info[:2] < _OLDEST
    found = [
        Item("nemotron", "ok", __version__),
        Item(
            "python",
            "broken" if old else "ok",
            f"{version} at {sys.executable}",
            "python 3.11 or later" if old else None,
        ),
        Item(
            "machine",
            "ok",
            f"{os.uname().nodename}: {os.uname().sysname} {os.uname().machine}, {_cpus()} CPUs",
        ),
    ]
    root = find_store(environ, cwd).root
    there = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(there).free
    low = free < _LOW_DISK
    said = f"{root}, {free / (1 << 30):.0f} GiB free"
    if not os.access(there, os.W_OK):
        found.append(Item("store", "broken", f"{root} cannot be written to", "NEMOTRON_HOME=DIR"))
    else:
        found.append(Item("store", "ok", said, "a checkpoint may not fit there" if low else None))
    return tuple(found)


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _engines(profiles: Sequence[Profile], *, deep: bool) -> tuple[Group, ...]:
    from nemotron.engines.base import find_engine

    items = {
        "embedded": tuple(look_at(each, deep=deep) for each in EMBEDDED),
        **{name: (_framework(name),) for name in ("megatron_bridge", "nemo_rl")},
        "script": (Item("python", "ok", find_engine("script").version()),),
    }
    return tuple(
        Group(name, found, tuple(p.name for p in profiles if p.get("engine") == name))
        for name, found in items.items()
    )


def _framework(engine: str) -> Item:
    from nemotron.engines.base import find_engine

    why = find_engine(engine).why_not_here()
    return Item("framework", "missing" if why else "ok", why or "can be imported here")


def _read(profiles: Profiles) -> tuple[list[Profile], list[Item]]:
    """Every profile in reach, and those that cannot even be read."""
    known: list[Profile] = []
    broken: list[Item] = []
    for listed in profiles.listed():
        try:
            known.append(profiles.examine(listed.name))
        except NemotronError as problem:
            broken.append(Item(listed.name, "broken", problem.what, problem.next))
    return known, broken


def _judged(profile: Profile, executors: Sequence[Group], engines: Sequence[Group]) -> Item:
    """Whether a profile can be launched on from here, with the first reason why not."""
    errors = errors_in(profile.findings)
    if errors:
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        return Item(
            profile.name, "broken", errors[0].message + more, f"nemotron profiles check {profile.name}"
        )
    needs = [g for g in executors if g.title == profile.executor]
    if not needs:
        said = f"nothing can be launched on {profile.executor or 'it'}"
        return Item(profile.name, "broken", said, "another executor")
    if profile.executor == "local":
        # Elsewhere the framework is the image's.
        needs += [g for g in engines if g.title == profile.get("engine")]
    for group in needs:
        for item in group.items:
            if item.state != "ok" and not _is_of_others(item, profile):
                said = f"{group.title}: {item.name}: {item.said}"
                return Item(profile.name, "broken", said, item.next)
    return Item(profile.name, "ok", f"{profile.executor}: all that it needs is here")


def _is_of_others(item: Item, profile: Profile) -> bool:
    """Whether what is wrong matters to other profiles of the executor only."""
    if profile.executor == "slurm":
        of_tunnels = item.name == "ssh" or item.name.startswith("login ")
        if profile.get("tunnel"):
            return not of_tunnels or item.name not in ("ssh", f"login {profile.get('host')}")
        return of_tunnels
    if profile.executor == "lepton":
        return item.name != "workspace" and profile.get("launcher") != "nemo_run"
    if profile.executor == "ray":
        shown = shown_address(str(profile.get("address") or ""))
        return item.name != "cluster" or not item.said.startswith(shown)
    return False
