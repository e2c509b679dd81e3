"""Where the files of a run are on the other machine, and which of its inputs have to go there with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nemotron.artifacts.paths import printable
from nemotron.artifacts.records import PENDING
from nemotron.artifacts.submissions import Journal
from nemotron.artifacts.walk import walk_files
from nemotron.errors import CheckFailed, UsageError
from nemotron.launch.ssh.login import Login, login_of
from nemotron.planning.plan import Plan, PlannedInput

ROOT = "remote_job_dir"
"""The profile's key, and a connection's, for the directory of runs there."""

# What travels with a run at most; more has to be brought by whoever knows the way.
MOST_BYTES = 1 << 30
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", re.ASCII)
_NOT_IN_PATHS = re.compile(r"[\x00-\x1f\x7f\\]|[\ud800-\udfff]")
_ASK_SECONDS = 120.0
# One entry a file: its path below the input, its size, and when it was changed, to the second.
_LIST = """\
for path in "$@"; do
    if [ -e "$path" ]; then
        echo there
        if [ -d "$path" ]; then name=%P; else name=; fi
        find -L "$path" -type f ! -name '*.tmp' -printf "$name\\0%s %T@\\0" | od -An -v -tx1 | tr -d ' \\n'
    else
        echo missing
    fi
    echo
done
"""


@dataclass(frozen=True)
class Site:
    """The directory of runs on another machine."""

    login: Login
    root: str

    def directory(self, run: str) -> str:
        """Where a run of this id is. Raises UsageError for what cannot be one."""
        if not _RUN.fullmatch(run):
            raise UsageError(f"{run[:80]!r} is no run's id")
        return f"{self.root}/{run}"


@dataclass(frozen=True)
class Inputs:
    """paths: where the job finds each input that is known; carried: what goes with the run, by port."""

    paths: Mapping[str, str]
    carried: Mapping[str, Path]


def site_of(values: Mapping[str, Any]) -> Site | None:
    """The other machine that a profile's options or a connection name; None without a tunnel.

    Raises UsageError where nothing says where runs may be kept there.
    """
    login = login_of(values)
    if login is None:
        return None
    root = str(values.get(ROOT) or "")
    if not root.startswith("/") or _NOT_IN_PATHS.search(root) or ".." in PurePosixPath(root).parts:
        raise UsageError(
            f"through a tunnel runs need a directory on {login.title}, by its absolute path"
            + (f", not {root!r}" if root else ""),
            where=ROOT,
            next=f'{ROOT} = "/lustre/me/runs" in the profile; all nodes have to see it',
        )
    return Site(login, root.rstrip("/"))


def find_inputs(site: Site, directory: str, plan: Plan, late: Sequence[str]) -> Inputs:
    """See to it that the job reads what the plan pinned.

    What lies at the same path there with the same sizes and times is the same; else it is carried. Raises
    CheckFailed for more than `MOST_BYTES`, SchedulerError where the other machine cannot be asked.
    """
    wanted = [i for i in plan.inputs if i.path is not None and i.port not in late]
    known = [] if plan.placement.stub else [i for i in wanted if i.digest not in (None, PENDING)]
    local = [i for i in known if Path(str(i.path)).exists()]
    paths = {i.port: str(i.path) for i in wanted}
    carried: dict[str, Path] = {}
    there = _listed_there(site, [str(i.path) for i in local])
    size = 0
    for each, listed in zip(local, there, strict=True):
        here = _listed_here(Path(str(each.path)))
        if listed == here:
            continue
        amount = sum(int(told.partition(b" ")[0]) for told in here.values())
        size += amount
        if size > MOST_BYTES:
            raise _too_much(each, amount, site)
        carried[each.port] = Path(str(each.path))
        paths[each.port] = f"{directory}/inputs/{each.port}/{carried[each.port].name}"
    return Inputs(paths, carried)


def late_there(site: Site, late: Mapping[str, Mapping[str, Any]], runs: Path) -> dict[str, dict[str, Any]]:
    """What the job pins, with the directories of other runs as they are there.

    runs: the directory of runs of the store. Raises UsageError for a run that is not there.
    """
    found = {}
    for port, each in late.items():
        told = dict(each)
        if "run" in told:
            told["directory"] = _directory_of(site, runs / str(told["run"]))
        found[port] = told
    return found


def _directory_of(site: Site, run: Path) -> str:
    for job in Journal(run).submitted():
        other = site_of(job.connection)
        if other is not None and other.login.host == site.login.host:
            return other.directory(run.name)
    raise UsageError(f"run {run.name} is not on {site.login.title}", next=f"nemotron runs wait {run.name}")


def _listed_here(path: Path) -> dict[bytes, bytes]:
    return {f.relpath: f"{f.stat.st_size} {f.stat.st_mtime_ns // 10**9}".encode() for f in walk_files(path)}


def _listed_there(site: Site, paths: Sequence[str]) -> list[dict[bytes, bytes] | None]:
    if not paths:
        return []
    words = ["/bin/sh", "-c", _LIST, "sh", *paths]
    lines = site.login.pipe(words, seconds=_ASK_SECONDS).split(b"\n")
    found: list[dict[bytes, bytes] | None] = []
    for said, listed in zip(lines[::2], lines[1::2], strict=False):
        found.append(_entries(bytes.fromhex(listed.decode())) if said == b"there" else None)
    return found


def _entries(listed: bytes) -> dict[bytes, bytes]:
    parts = listed.split(b"\0")
    return {name: told.partition(b".")[0] for name, told in zip(parts[::2], parts[1::2], strict=False)}


def _too_much(each: PlannedInput, amount: int, site: Site) -> CheckFailed:
    return CheckFailed(
        f"input {each.port} is {amount / (1 << 30):.1f} GiB, and is not on {site.login.title} as it is here",
        where=printable(str(each.path)),
        next=f"rsync -a it to {site.login.title}, and name it there: -i {each.port}=PATH-THERE",
    )
