"""What each executor needs on this machine, and whether what it speaks to answers.

Somebody else's machine is asked only when a profile in reach, or the environment, names it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nemotron.doctor.packages import KUBERNETES, LEPTONAI, NEMO_RUN, RAY, SKYPILOT, Package, look_at
from nemotron.doctor.report import Item, State
from nemotron.errors import NemotronError
from nemotron.profiles.profile import Profile

_SECONDS = 4.0
_SLURM = ("sbatch", "squeue", "scancel", "sacct", "sinfo")


@dataclass(frozen=True)
class Looker:
    """Looks at what an executor needs. profiles: those of this executor."""

    environ: Mapping[str, str]
    deep: bool

    def local(self, profiles: Sequence[Profile]) -> list[Item]:
        """Nothing is needed; torchrun only for steps that are launched by it."""
        return [Item("python", "ok", "runs here")]

    def slurm(self, profiles: Sequence[Profile]) -> list[Item]:
        """Its commands, the controller, and ssh for profiles with a tunnel."""
        tunnels = [p for p in profiles if p.get("tunnel")]
        found = []
        if tunnels:
            found.append(_command("ssh", "install an OpenSSH client"))
        if profiles and len(tunnels) == len(profiles):
            return found
        missing = [name for name in _SLURM if shutil.which(name) is None]
        if missing:
            said = f"not on PATH: {', '.join(missing)}"
            next_ = 'log in to a login node, or reach one from here: tunnel = "ssh" in the profile'
            return [*found, Item("commands", "missing", said, next_)]
        found.append(Item("commands", "ok", _said(["sinfo", "--version"])[1]))
        state, said = _said(["sinfo", "--noheader", "--format=%R"])
        partitions = sorted(set(said.split())) if state == "ok" else []
        told = f"partitions {', '.join(partitions[:8])}" if partitions else said
        return [*found, Item("controller", state, told, None if state == "ok" else "sinfo")]

    def ray(self, profiles: Sequence[Profile]) -> list[Item]:
        """The Jobs API of each cluster that is named."""
        asked = {str(p.get("address")) for p in profiles if p.get("address")}
        if self.environ.get("RAY_API_SERVER_ADDRESS"):
            asked.add(self.environ["RAY_API_SERVER_ADDRESS"])
        clusters = [_ray(address) for address in sorted(asked)]
        package = look_at(RAY, deep=self.deep)
        # The Jobs API is spoken to without it; a cluster on this machine needs it.
        return [*clusters, package] if package.state != "missing" or not clusters else clusters

    def lepton(self, profiles: Sequence[Profile]) -> list[Item]:
        """The workspace, and nemo-run where a profile wants it."""
        found = [self._workspace(asked=bool(profiles))]
        wanted = any(p.get("launcher") == "nemo_run" for p in profiles)
        packages = [look_at(each, deep=self.deep) for each in (NEMO_RUN, LEPTONAI)]
        return found + [each for each in packages if wanted or each.state != "missing"]

    def dgxcloud(self, profiles: Sequence[Profile]) -> list[Item]:
        """nemo-run."""
        return self._packages(NEMO_RUN, LEPTONAI)

    def skypilot(self, profiles: Sequence[Profile]) -> list[Item]:
        """nemo-run, and SkyPilot."""
        return self._packages(NEMO_RUN, LEPTONAI, SKYPILOT)

    def kuberay(self, profiles: Sequence[Profile]) -> list[Item]:
        """nemo-run, and the client of Kubernetes."""
        return self._packages(NEMO_RUN, LEPTONAI, KUBERNETES)

    def _packages(self, *packages: Package) -> list[Item]:
        return [look_at(each, deep=self.deep) for each in packages]

    def _workspace(self, *, asked: bool) -> Item:
        from nemotron.launch.lepton.api import Lepton
        from nemotron.launch.lepton.workspace import find_workspace

        try:
            workspace = find_workspace(self.environ)
        except NemotronError as problem:
            return Item("workspace", "missing", problem.what, problem.next)
        where = f"{workspace.name} at {workspace.url}"
        if not asked:
            return Item("workspace", "ok", f"{where}; no profile asks for it")
        try:
            groups = Lepton(workspace, seconds=_SECONDS).node_groups()
        except NemotronError as problem:
            return Item("workspace", "broken", f"{where}: {problem.what}", problem.next)
        names = ", ".join(group.name for group in groups) or "none"
        return Item("workspace", "ok", f"{where}; node groups: {names}")


Look = Callable[[Looker, Sequence[Profile]], list[Item]]
LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "local": Looker.local,
        "slurm": Looker.slurm,
        "ray": Looker.ray,
        "lepton": Looker.lepton,
        "dgxcloud": Looker.dgxcloud,
        "skypilot": Looker.skypilot,
        "kuberay": Looker.kuberay,
    }
)


def _command(name: str, next_: str) -> Item:
    path = shutil.which(name)
    return Item(name, "ok", path) if path else Item(name, "missing", f"{name} is not on PATH", next_)


def _said(words: list[str]) -> tuple[State, str]:
    """What a command prints, on one line; its last words where it fails."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "broken", f"{words[0]} did not answer within {_SECONDS:.0f} s"
    except OSError as problem:
        return "broken", f"{words[0]}: {problem}"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return "broken", lines[-1] if lines else f"{words[0]} ended with exit code {done.returncode}"
    return "ok", " ".join(done.stdout.split())


def shown_address(address: str) -> str:
    """Host and port of an address: the rest of it may hold a password."""
    from urllib.parse import urlsplit

    try:
        split = urlsplit(address)
        return f"{split.hostname}:{split.port}" if split.port else str(split.hostname)
    except ValueError:
        return "an address that is none"


def _ray(address: str) -> Item:
    """Whether a Jobs API answers."""
    import json
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    shown = shown_address(address)
    if not address.startswith(("http://", "https://")):
        said = f"{shown} is no address of a Jobs API"
        return Item("cluster", "broken", said, 'address = "http://HOST:8265"')
    next_ = "ray start --head, or address = ... in the profile"
    try:
        with urlopen(Request(address.rstrip("/") + "/api/version"), timeout=_SECONDS) as reply:
            said_there: Any = json.loads(reply.read(1 << 16))
    except (URLError, OSError) as problem:
        return Item("cluster", "broken", f"{shown}: {getattr(problem, 'reason', None) or problem}", next_)
    except ValueError:
        return Item("cluster", "broken", f"{shown} does not answer as a Jobs API does", next_)
    version = said_there.get("ray_version") if isinstance(said_there, dict) else None
    return Item("cluster", "ok", f"{shown}: ray {version or '?'}")
