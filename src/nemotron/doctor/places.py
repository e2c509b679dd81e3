"""What each executor needs on this machine, and whether what it speaks to answers.

Somebody else's machine is asked only when a profile in reach, or the environment, names it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from nemotron.doctor.packages import KUBERNETES, LEPTONAI, NEMO_RUN, RAY, SKYPILOT, Package, look_at
from nemotron.doctor.report import Item, State
from nemotron.errors import NemotronError
from nemotron.profiles.profile import Profile

# Jump hosts take seconds each.
_SECONDS, _LOGIN_SECONDS = 4.0, 20.0
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
            if found[0].state == "ok":
                found += list(dict.fromkeys(login_item(each) for each in tunnels))
        if profiles and len(tunnels) == len(profiles):
            return found
        missing = [name for name in _SLURM if shutil.which(name) is None]
        if missing:
            said = f"not on PATH: {', '.join(missing)}"
            next_ = 'log in to a login node, or reach one from here: tunnel = "ssh" in the profile'
            return [*found, Item("commands", "missing", said, next_)]
        state, said = _said(["sinfo", "--version"])
        found.append(Item("commands", state, said, None if state == "ok" else "sinfo --version"))
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


def login_item(profile: Profile) -> Item:
    """Whether the login node of a profile lets us in, and has Slurm's commands."""
    from nemotron.launch.ssh.login import login_of

    name = f"login {profile.get('host')}"
    try:
        login = login_of({key: profile.get(key) for key in ("tunnel", "host", "user", "identity")})
        assert login is not None
        done = login.call(["sinfo", "--version"], seconds=_LOGIN_SECONDS)
    except NemotronError as problem:
        return Item(name, "broken", problem.what, problem.next)
    said = " ".join((done.stdout or done.stderr).split())
    return Item(name, "ok" if done.returncode == 0 else "broken", said)


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
    """Whether a Jobs API answers, asked as a launch asks it."""
    from nemotron.launch.ray_jobs.api import Jobs, api_address

    shown = shown_address(address)
    try:
        said = Jobs(api_address(address), seconds=_SECONDS).get("/api/version")
    except NemotronError as problem:
        return Item("cluster", "broken", f"{shown}: {problem.what}", problem.next)
    if not isinstance(said, dict):
        return Item("cluster", "broken", f"{shown} does not answer as a Jobs API does", 'address = "..."')
    return Item("cluster", "ok", f"{shown}: ray {said.get('ray_version') or '?'}")
