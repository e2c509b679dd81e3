"""One Ray cluster over the nodes of a job: the commands that bring it up, and when it is complete.

Whatever `ray` is on PATH in the job is used; the dashboard is not. Ports lie where judge servers of the
trainers (5000-5999, 11001-20000) and the system's own choice for outgoing connections do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemotron.errors import SchedulerError

# The first for what is bound for good, the second for workers; 8265 is the dashboard's, even without one.
_PORTS, _WORKER_PORTS = range(1200, 5000), range(6000, 8265)
_NODE_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
)
# By this resource NeMo-RL knows a cluster that somebody else made; without it, it starts one of its own.
MARK = "slurm_managed_ray_cluster"
# A whole Ray log directory can be many GB: of each file and of all of them no more than this is kept.
_KEPT_OF_FILE, _KEPT_OF_ALL = 32 << 20, 512 << 20
_STATUS_SECONDS = 30.0


def ray_program() -> str:
    """The `ray` on PATH. Raises SchedulerError when there is none."""
    found = shutil.which("ray")
    if found is None:
        raise SchedulerError(
            "the step is launched by Ray, and there is no `ray` on PATH in the job",
            where=f"PATH={os.environ.get('PATH', '')}",
            next="an image that has Ray, or a startup line in the profile that puts it on PATH",
        )
    return found


def free_ports(count: int) -> list[int]:
    """So many ports that nobody on this node listens on, at this moment."""
    held: list[socket.socket] = []
    try:
        for port in random.sample(_PORTS, len(_PORTS)):
            taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                taken.bind(("", port))
            except OSError:
                taken.close()
                continue
            held.append(taken)
            if len(held) == count:
                return [each.getsockname()[1] for each in held]
        raise SchedulerError(f"fewer than {count} free ports between {_PORTS.start} and {_PORTS.stop}")
    finally:
        for each in held:
            each.close()


def visible_gpus(environ: Mapping[str, str]) -> int | None:
    """How many GPUs this node gives to the job, None where nothing tells."""
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed:
        return sum(1 for each in listed.split(",") if each.strip() not in ("", "-1", "NoDevFiles"))
    with contextlib.suppress(KeyError, ValueError):
        return int(environ["SLURM_GPUS_ON_NODE"])
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) or None


def gpu_words(wanted: int, environ: Mapping[str, str]) -> list[str]:
    """How `ray start` is told of the GPUs; Ray looks itself where nothing here tells how many there are.

    Raises SchedulerError for fewer than wanted: the trainer would wait for the others for ever.
    """
    seen = visible_gpus(environ)
    if wanted == 0 or seen is None:
        return []
    if seen < wanted:
        raise SchedulerError(
            f"{seen} of {wanted} GPUs are visible on this node",
            where="CUDA_VISIBLE_DEVICES, SLURM_GPUS_ON_NODE or /dev/nvidia*",
            next="ask the scheduler for them (gpus_per_node in the profile), or leave this node out",
        )
    return [f"--num-gpus={wanted}"]


def head_words(address: str, port: int, temporary: str, gpus: int) -> list[str]:
    """The command of the head."""
    client, *ports = free_ports(1 + len(_NODE_PORTS))
    return [
        *(ray_program(), "start", "--head", f"--port={port}", f"--ray-client-server-port={client}"),
        *("--include-dashboard=false", f"--temp-dir={temporary}/r"),
        *_common_words(address, ports, gpus),
    ]


def worker_words(head: str, address: str, gpus: int) -> list[str]:
    """The command of any other node; `head` is HOST:PORT."""
    ports = free_ports(len(_NODE_PORTS))
    return [ray_program(), "start", f"--address={head}", *_common_words(address, ports, gpus)]


def _common_words(address: str, ports: Sequence[int], gpus: int) -> list[str]:
    resources = {MARK: 1} | ({"worker_units": gpus} if gpus else {})
    return [
        f"--node-ip-address={address}",
        f"--resources={json.dumps(resources)}",
        *gpu_words(gpus, os.environ),
        *(f"--{name}={port}" for name, port in zip(_NODE_PORTS, ports, strict=True)),
        f"--min-worker-port={_WORKER_PORTS.start}",
        f"--max-worker-port={_WORKER_PORTS.stop - 1}",
        "--disable-usage-stats",
        "--block",
    ]


def make_temporary(path: str) -> None:
    """The directory for Ray's sockets, ours alone; a node on the head's machine has it already."""
    place = Path(path)
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        if place.stat().st_uid != os.getuid() or place.is_symlink():
            raise SchedulerError("somebody else's directory stands where Ray's would be", where=path)
    except OSError as problem:
        raise SchedulerError(f"no place for Ray's sockets: {problem.strerror}", where=path) from problem


def is_listening(address: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((address, port), timeout=2.0).close()
    except OSError:
        return False
    return True


def nodes_alive(head: str, environment: Mapping[str, str]) -> int:
    """How many nodes are in the cluster; 0 while nobody can tell."""
    try:
        asked = subprocess.run(
            [ray_program(), "status", f"--address={head}"],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_STATUS_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(rb"/(\d+)(?:\.\d+)? " + MARK.encode(), asked.stdout)
    return int(found[1]) if found else 0


def keep_logs(temporary: str, target: Path) -> None:
    """Copy what Ray's processes wrote on this node; the ends of long files. A full disk ends it quietly."""
    left = _KEPT_OF_ALL
    for source in sorted(Path(temporary, "r", "session_latest", "logs").rglob("*")):
        try:
            if source.is_symlink() or not source.is_file():
                continue
            size = min(source.stat().st_size, _KEPT_OF_FILE, left)
            if size == 0:
                continue
            place = target / source.relative_to(Path(temporary, "r", "session_latest", "logs"))
            place.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as whole, place.open("wb") as copy:
                whole.seek(-size, os.SEEK_END)
                copy.write(whole.read(size))
            left -= size
        except OSError:
            return
