"""What Slurm can be asked before anything is submitted."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.errors import SchedulerError
from nemotron.findings import Finding
from nemotron.launch.slurm.call import HERE, Transport, said
from nemotron.launch.slurm.options import header
from nemotron.profiles.check import Partition
from nemotron.profiles.profile import Profile

_SECONDS = 20.0
_GPUS = re.compile(r"gpu(?::[A-Za-z][^:(,]*)?:(\d+)", re.ASCII)
_START = re.compile(r"to start at (\S+)")


@dataclass(frozen=True)
class SlurmProbe:
    """Asks a cluster; every answer is a call of its own.

    login: its login node; this machine where none is given. user: the name there, where it is another.
    """

    login: Transport = HERE
    user: str | None = None

    def partitions(self) -> Mapping[str, Partition]:
        """All partitions that this user may see, by name. Raises SchedulerError."""
        done = self.login.call(["sinfo", "--noheader", "--format=%R|%D|%G"], seconds=_SECONDS)
        if done.returncode != 0:
            raise SchedulerError(f"sinfo: {said(done)}")
        nodes: dict[str, int] = {}
        gpus: dict[str, list[int]] = {}
        for line in done.stdout.splitlines():
            name, _, rest = line.partition("|")
            count, _, resources = rest.partition("|")
            nodes[name] = nodes.get(name, 0) + (int(count) if count.isdigit() else 0)
            # One line for each kind of node in it.
            gpus.setdefault(name, []).extend(map(int, _GPUS.findall(resources)))
        # A cluster that knows of no GPUs at all may have them all the same.
        counted = any(gpus.values())
        return {n: Partition(n, nodes[n], max(gpus[n], default=0) if counted else None) for n in nodes}

    def accounts(self) -> tuple[str, ...] | None:
        """The accounts this user may charge; None where the cluster keeps none, or nobody can say."""
        words = ["show", "associations", f"user={self._user()}", "format=account"]
        try:
            done = self.login.call(["sacctmgr", "--noheader", "--parsable2", *words], seconds=_SECONDS)
        except SchedulerError:
            return None  # a cluster without accounting has no sacctmgr, or one that finds nobody to ask
        found = tuple(dict.fromkeys(line.strip() for line in done.stdout.splitlines() if line.strip()))
        return found if done.returncode == 0 and found else None

    def start_time(self, profile: Profile) -> str | None:
        """When a job of this shape would start, in local time. Raises SchedulerError, with the reason, for
        one that Slurm would not take.
        """
        nodes, gpus = profile.get("nodes", 1), profile.get("gpus_per_node", 0)
        options = header(profile.values, int(nodes), int(gpus), None)
        done = self.login.call(
            ["sbatch", "--test-only", *options, "--output=/dev/null", "--wrap=true"], seconds=_SECONDS
        )
        if done.returncode != 0:
            raise SchedulerError(f"Slurm would not take a job of this profile: {said(done)}")
        found = _START.search(done.stderr)
        return found[1] if found else None

    def _user(self) -> str:
        if self.user is not None or self.login is HERE:
            return self.user or getpass.getuser()
        return self.login.call(["id", "-un"], seconds=_SECONDS).stdout.strip()

    def findings(self, options: Mapping[str, Any], nodes: int, gpus_per_node: int) -> tuple[Finding, ...]:
        """Nothing else: sbatch itself is asked for the start of a job of this shape."""
        return ()
