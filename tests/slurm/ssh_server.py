"""A real sshd for tests, on loopback of the cluster's network namespace, with keys and a config of its own.

It proves what OpenSSH does with our commands; it proves nothing of networks that are slow or far away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slurm_cluster import Cluster, wait_until
from slurm_packages import SBIN, Unavailable, install_missing

PORT = 2222
SERVER = "/usr/sbin/sshd"

_SSHD = """
    Port {port}
    ListenAddress 127.0.0.1
    HostKey {root}/host
    PidFile {root}/sshd.pid
    AuthorizedKeysFile {root}/user.pub
    PasswordAuthentication no
    KbdInteractiveAuthentication no
    UsePAM no
    StrictModes no
    PermitRootLogin prohibit-password
    SetEnv SLURM_CONF={conf} "PATH={path}"
"""
# `login` is reached through `gate`, as the users of many clusters do.
_CONFIG = """
    Host gate login
        HostName 127.0.0.1
        Port {port}
        User root
        IdentityFile {root}/user
        IdentitiesOnly yes
        UserKnownHostsFile {root}/known
        StrictHostKeyChecking yes
    Host login
        ProxyJump gate
    Host direct
        HostName 127.0.0.1
        Port {port}
        IdentitiesOnly yes
        UserKnownHostsFile {root}/known
        StrictHostKeyChecking yes
"""


@dataclass
class SshServer:
    """A running sshd. config: what the user's own config would be. bin: comes first in the PATH of logins."""

    root: Path
    cluster: Cluster
    daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Take connections."""
        with (self.root / "sshd.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                self.cluster.command(SERVER, "-D", "-e", "-f", self.root / "sshd_config"),
                env=self.cluster.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        ask = ["ssh", "-F", str(self.config), "-o", "BatchMode=yes", "login", "true"]
        wait_until(lambda: self.cluster.run(ask).returncode == 0, (self.root / "sshd.log").read_text())

    def stop(self) -> None:
        """Break all connections, and take no more."""
        if self.daemon is None:
            return
        sessions = self.sessions()
        self.daemon.kill()
        self.daemon.wait()
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemon = None

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    def sessions(self) -> list[int]:
        """The processes that serve a connection each."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if self.daemon is not None and parent == self.daemon.pid:
                found.append(int(entry.name))
        return found


@contextlib.contextmanager
def ssh_server(cluster: Cluster, root: Path) -> Iterator[SshServer]:
    """An sshd in front of a cluster. Raises Unavailable where there can be none."""
    install_missing({SERVER: "openssh-server"})
    root.mkdir()
    (root / "bin").mkdir()
    for name in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(root / name)]
        subprocess.run(make, check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    path = f"{root}/bin:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:{SBIN}"
    values = {"root": root, "port": PORT, "conf": cluster.layout.conf, "path": path}
    (root / "sshd_config").write_text(textwrap.dedent(_SSHD).format(**values))
    (root / "config").write_text(textwrap.dedent(_CONFIG).format(**values))
    host = (root / "host.pub").read_text().rpartition(" ")[0]
    (root / "known").write_text(f"[127.0.0.1]:{PORT} {host}\n")
    server = SshServer(root, cluster)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root)


__all__ = ["PORT", "SshServer", "Unavailable", "ssh_server"]
