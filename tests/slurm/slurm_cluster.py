"""A real Slurm on this machine, for tests: two nodes with eight pretended GPUs each, accounting included.

    python tests/slurm/slurm_cluster.py COMMAND...     runs a command inside one, then takes it down

munge, MariaDB, slurmdbd, slurmctld and two slurmd run as children of this process, in a network namespace
that has nothing but loopback: the daemons listen on all interfaces. Whoever speaks to them has to be inside
it too, see `Cluster.run` and `Cluster.inside`. It proves what a scheduler does with our scripts; it proves
nothing of real GPUs, of container images (container_stub.c) or of several machines.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slurm_config import ACCOUNT, CLUSTER, DATABASE, GPUS, NODES, Layout
from slurm_packages import SBIN, Unavailable, install_packages

_PATIENCE = 60.0
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
# What the pretended GPUs are: regular files would leave CUDA_VISIBLE_DEVICES empty.
_NULL = os.makedev(1, 3)
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE")


@dataclass
class Cluster:
    """A running cluster. environ: that of every command; PATH has Slurm's commands and this Python's."""

    layout: Layout
    namespace: subprocess.Popen[bytes]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "NEMOTRON_"))}
        path = f"{Path(sys.executable).parent}:{kept.get('PATH', '/usr/bin:/bin')}:{SBIN}"
        return kept | {"SLURM_CONF": str(self.layout.conf), "PATH": path}

    def command(self, *argv: str | Path) -> list[str]:
        """An argument list that runs `argv` inside."""
        return ["nsenter", f"--net=/proc/{self.namespace.pid}/ns/net", "--", *map(str, argv)]

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = _PATIENCE,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end. env: variables added to `environ`."""
        done = subprocess.run(
            self.command(*argv),
            env=self.environ | dict(env or {}),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """A command inside that goes on; its stdout and stderr are pipes. Whoever starts it ends it."""
        return subprocess.Popen(
            self.command(*argv),
            env=self.environ | dict(env or {}),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, inside the namespace; the environment is the caller's affair."""
        with Path("/proc/thread-self/ns/net").open() as home, self._door().open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def state(self, job: str) -> str:
        """The state of a job in Slurm's words, such as `RUNNING`; "" for one that it does not know."""
        shown = self.run(
            ["squeue", "-h", "--states=all", f"--jobs={job}", "--Format=State:32"]
        ).stdout.strip()
        return shown.split("\n")[0].strip()

    def wait(self, job: str, states: Sequence[str] = ENDED, seconds: float = 90.0) -> str:
        """The state of a job as soon as it is one of `states`; fails after so many seconds."""
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) not in states:
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job} is {state}, none of {states}\n{self.describe(job)}")
            time.sleep(0.1)
        return state

    def describe(self, job: str) -> str:
        """All that the controller says of a job, for an error message."""
        return self.run(["scontrol", "show", "job", job]).stdout

    def exit_code(self, job: str) -> str:
        """`CODE:SIGNAL` of a job that has ended, as scontrol shows it."""
        shown = self.run(["scontrol", "show", "job", job, "-o"]).stdout
        return shown.partition(" ExitCode=")[2].split(" ")[0]

    def drain(self, node: str, reason: str = "drained by a test") -> None:
        """No more jobs for a node; those on it go on."""
        update = ["scontrol", "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason}"]
        self.run(update, check=True)

    def resume(self, node: str) -> None:
        """Jobs for a node again."""
        self.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=True)

    def fail_node(self, node: str) -> None:
        """What the controller does when a node crashes: its jobs end with NODE_FAIL, or are requeued."""
        down = ["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=failed by a test"]
        self.run(down, check=True)

    def stop_controller(self) -> None:
        """The scheduler does not answer until `start_controller`."""
        self._stop("slurmctld")

    def start_controller(self) -> None:
        """Its state is what it was."""
        self._daemon("slurmctld", "slurmctld", "-D")
        wait_until(self.is_up, "slurmctld does not answer")

    def restart_controller(self) -> None:
        """Stop and start the controller."""
        self.stop_controller()
        self.start_controller()

    def is_up(self) -> bool:
        """Whether the controller answers."""
        return "is UP" in self.run(["scontrol", "ping"]).stdout

    def clear(self) -> None:
        """Cancel all jobs, wait for their end, and take nodes back: the state that a test expects."""
        if not self.is_up():
            self.restart_controller()
        jobs = self.run(["squeue", "-h", "-o", "%A"]).stdout.split()
        if jobs:
            self.run(["scancel", *jobs])
            wait_until(lambda: not self.run(["squeue", "-h"]).stdout.strip(), "jobs do not end")
        states = self.run(["sinfo", "-h", "-N", "-o", "%N %t"]).stdout
        for node in {line.split()[0] for line in states.splitlines() if line.split()[1] != "idle"}:
            self.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"])
        wait_until(self._idle, "nodes do not come back")

    def logs(self) -> str:
        """The last of what every daemon wrote, for an error message."""
        texts = (f"{p.name}: {p.read_text(errors='replace')[-800:]}" for p in self.layout.logs.iterdir())
        return "\n".join(texts)

    def _door(self) -> Path:
        return Path(f"/proc/{self.namespace.pid}/ns/net")

    def _idle(self) -> bool:
        return self.run(["sinfo", "-h", "-N", "-p", "batch", "-o", "%t"]).stdout.split() == ["idle"] * NODES

    def _daemon(self, name: str, *argv: str | Path) -> None:
        with (self.layout.logs / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                self.command(*argv),
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _stop(self, name: str, seconds: float = 20.0) -> None:
        process = self.daemons.pop(name)
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def boot(root: Path) -> Cluster:
    """Start a cluster in a directory that is not there yet. Raises Unavailable where there can be none."""
    install_packages()
    layout = Layout(root)
    layout.write()
    layout.munge_key.write_bytes(secrets.token_bytes(1024))
    layout.munge_key.chmod(0o600)
    for number in range(GPUS):
        try:
            os.mknod(layout.devices / f"gpu{number}", 0o666 | stat.S_IFCHR, _NULL)
        except PermissionError as refused:
            raise Unavailable("device nodes cannot be made here") from refused
    source = Path(__file__).with_name("container_stub.c")
    compile_stub = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(layout.plugin), str(source)]
    subprocess.run(compile_stub, check=True, capture_output=True)
    cluster = Cluster(layout, _namespace())
    try:
        _start_accounting(cluster)
        cluster.start_controller()
        for number in range(1, NODES + 1):
            cluster._daemon(f"slurmd-n{number}", "slurmd", "-D", "-N", f"n{number}")
        wait_until(cluster._idle, "nodes do not come up")
    except BaseException:
        print(cluster.logs(), file=sys.stderr)
        take_down(cluster)
        raise
    return cluster


def take_down(cluster: Cluster) -> None:
    """End all jobs and every process of a cluster, and remove its directory."""
    with contextlib.suppress(Exception):
        cluster.clear()
    for name in reversed(list(cluster.daemons)):
        cluster._stop(name)
    cluster.namespace.kill()
    cluster.namespace.wait()
    shutil.rmtree(cluster.layout.root, ignore_errors=True)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> None:
    """Return as soon as `condition` holds; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} (waited {seconds:.0f} s)")
        time.sleep(0.1)


def _start_accounting(cluster: Cluster) -> None:
    at = cluster.layout
    cluster._daemon(
        "munged",
        *("munged", "--foreground", "--force", f"--key-file={at.munge_key}", f"--socket={at.munge}"),
        *(f"--pid-file={at.root}/munge/run/pid", f"--seed-file={at.root}/munge/lib/seed"),
        f"--log-file={at.logs}/munged.log",
    )
    wait_until(lambda: cluster.run(["munge", "-n", "-S", at.munge]).returncode == 0, "munged does not answer")
    data, socket = at.database / "data", at.database / "socket"
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db"]
    cluster.run([*install, "--auth-root-authentication-method=normal"], check=True)
    cluster._daemon(
        "mariadbd",
        *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={socket}"),
        *(f"--pid-file={at.database}/pid", "--bind-address=127.0.0.1", f"--port={DATABASE}"),
        *("--skip-name-resolve", "--skip-log-bin", "--innodb-buffer-pool-size=64M"),
        *("--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"),
    )
    sql = ["mariadb", "--no-defaults", "-u", "root", f"--socket={socket}", "-e"]
    make_user = (
        "create database accounting; create user slurm@'127.0.0.1' identified by 'slurm';"
        "grant all on accounting.* to slurm@'127.0.0.1';"
    )
    wait_until(lambda: cluster.run([*sql, "select 1"]).returncode == 0, "mariadbd does not answer")
    cluster.run([*sql, make_user], check=True)
    cluster._daemon("slurmdbd", "slurmdbd", "-D")
    manage = ["sacctmgr", "-i", "-Q"]
    wait_until(lambda: cluster.run([*manage, "show", "cluster"]).returncode == 0, "slurmdbd does not answer")
    for words in (
        ["cluster", CLUSTER],
        ["account", ACCOUNT, "Description=tests", "Organization=tests"],
        ["user", "root", f"Account={ACCOUNT}"],
    ):
        cluster.run([*manage, "add", *words], check=True)


def _namespace() -> subprocess.Popen[bytes]:
    # Slurm does not take 127.0.0.1 alone for an address of the machine.
    script = "ip link set lo up && ip addr add 127.0.0.2/8 dev lo && echo up && exec sleep infinity"
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_die_with_parent,
    )
    assert holder.stdout is not None and holder.stderr is not None
    if holder.stdout.readline() != b"up\n":
        raise Unavailable(f"no network namespace: {holder.stderr.read().decode(errors='replace').strip()}")
    return holder


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def main() -> int:
    """Boot, run the command of the command line inside, take down."""
    begun = time.monotonic()
    cluster = boot(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp")) / "c")
    print(f"up after {time.monotonic() - begun:.1f} s, SLURM_CONF={cluster.layout.conf}", file=sys.stderr)
    try:
        done = subprocess.run(cluster.command(*sys.argv[1:]), env=cluster.environ)
    finally:
        take_down(cluster)
        cluster.layout.root.parent.rmdir()
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
