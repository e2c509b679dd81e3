"""A real Ray cluster of one node for tests, in a network namespace that has nothing but loopback.

Ray listens on all interfaces whatever it is told, so that nothing but the namespace keeps it from others. It
ends with the process that keeps it, by parentage; `ray stop` would end every Ray of the machine. Its eight
GPUs are numbers: it proves what Ray does with jobs, and nothing of real GPUs or of several machines.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nemotron.errors import SchedulerError
from nemotron.job.keeper import Kept
from nemotron.launch.ray_jobs.api import Jobs
from nemotron.launch.ray_jobs.probe import RayProbe

GPUS = 8
ADDRESS = "http://127.0.0.1:8265"
PROFILES = f"""
[ray]
executor = "ray"
address = "{ADDRESS}"
[ray.env_vars]
HF_TOKEN = "${{oc.env:HF_TOKEN,}}"
FLAVOUR = "it's $(touch x) `y` \\" $z"
"""
_CLONE_NEWNET = 0x40000000
_PATIENCE = 300.0
_LIBC = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """Why there can be no Ray cluster on this machine."""


@dataclass
class RayServer:
    """A running cluster; its Jobs API is at ADDRESS, inside. token: what it asks everybody for."""

    root: Path
    namespace: subprocess.Popen[bytes]
    head: Kept | None = None
    starts: int = 0
    token: str | None = None

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, inside the namespace."""
        with (
            Path("/proc/thread-self/ns/net").open() as home,
            Path(f"/proc/{self.namespace.pid}/ns/net").open() as there,
        ):
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def start(self) -> None:
        """Start the head, and wait until its API takes jobs."""
        program = shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if program is None:
            raise Unavailable("there is no ray on PATH")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "NEMOTRON_", "HF_"))}
        # Its usual minute is not enough for a busy machine.
        environ = {**kept, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240"}
        # Whatever ~/.ray has.
        environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if self.token else {}
        environ.setdefault("RAY_AUTH_MODE", "disabled")
        words = [program, "start", "--head", "--block", f"--num-gpus={GPUS}", "--num-cpus=8"]
        words += ["--port=6379", "--dashboard-port=8265", f"--temp-dir={self.root}/r{self.starts}"]
        words += ["--object-store-memory=100000000", "--disable-usage-stats"]
        # A directory that another head used makes this one look for that one.
        self.starts += 1
        enter = ["nsenter", f"--net=/proc/{self.namespace.pid}/ns/net", "--"]
        self.head = Kept([*enter, *words], self.root / "ray.log", environ, self.root)
        deadline = time.monotonic() + _PATIENCE
        while not self._takes_jobs():
            if self.head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.root / "ray.log").read_text(errors="replace")[-4000:])
            time.sleep(0.5)

    def stop(self) -> None:
        """End the head and all that it started."""
        if self.head is not None:
            self.head.stop(1.0)
            self.head = None

    def _takes_jobs(self) -> bool:
        with self.inside():
            try:
                jobs = Jobs(ADDRESS)
                return jobs.jobs() == [] and len(RayProbe(jobs).nodes()) == 1
            except SchedulerError:
                return False


@contextlib.contextmanager
def ray_server(token: str | None = None) -> Iterator[RayServer]:
    """A cluster for as long as the block runs. Raises Unavailable where there can be none."""
    # Short: the path of a socket below it has 107 characters at most.
    root = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    made = None
    try:
        made = RayServer(root, _namespace(), token=token)
        made.start()
        yield made
    finally:
        if made is not None:
            made.stop()
            made.namespace.kill()
            made.namespace.wait()
        shutil.rmtree(root, ignore_errors=True)


def _namespace() -> subprocess.Popen[bytes]:
    script = "ip link set lo up && echo up && exec sleep infinity"
    try:
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError as problem:
        raise Unavailable("no unshare") from problem
    assert holder.stdout is not None and holder.stderr is not None
    if holder.stdout.readline() != b"up\n":
        raise Unavailable(f"no network namespace: {holder.stderr.read().decode(errors='replace').strip()}")
    return holder


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
