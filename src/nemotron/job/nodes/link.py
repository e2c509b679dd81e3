"""How the nodes of one allocation find node 0 and talk with it: a file on the shared disk, then TCP.

    RUN/logs/nodes/rendezvous-JOB-RESTARTS.json     0600: addresses, port, token; or {"over": true}

The name holds the allocation, so that the file of an earlier one is never taken for this one's. Both sides
prove that they hold the token, and every message carries a keyed digest with its place in the sequence:
what node 0 says is done by the others, so nobody else on the network may say it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import os_error
from nemotron.job.allocation import Allocation

# How often either side says that it is there, and after how much silence the other believes it gone.
BEAT_SECONDS, SILENCE_SECONDS = 10.0, 120.0
_HANDSHAKE_SECONDS = 10.0
_LONGEST_LINE = 4 << 20
_SIOCGIFADDR = 0x8915
# Interfaces of containers and virtual machines: other nodes cannot reach them.
_INNER_INTERFACES = ("docker", "br-", "virbr", "veth", "cni", "podman", "flannel", "cali")


def node_name() -> str:
    """What the scheduler calls this node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def boot_id() -> str:
    """The same for all containers and virtual nodes of one machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def rendezvous_file(directory: Path) -> Path:
    """Where the nodes of this allocation look for node 0."""
    here = Allocation.read(os.environ)
    job = (here.job or "none").replace("/", "_")
    return directory / "logs" / "nodes" / f"rendezvous-{job}-{here.restarts}.json"


def publish(path: Path, value: Mapping[str, Any]) -> None:
    """Put `value` at `path`, readable for its owner alone. Errors: see `os_error`."""
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(handle)
        temporary.replace(path)
    except OSError as problem:
        raise os_error(problem, path) from problem


def published(path: Path) -> dict[str, Any] | None:
    """What is at `path`, None when nothing whole is."""
    with contextlib.suppress(OSError, ValueError):
        # NFS remembers for a while that a file is not there, unless its directory is read.
        if path.name in os.listdir(path.parent):  # noqa: PTH208
            found = json.loads(path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
    return None


def own_addresses() -> list[str]:
    """IPv4 addresses by which other nodes may reach this one, likeliest first, loopback last."""
    found: list[str] = []
    for name in (node_name(), socket.gethostname()):
        with contextlib.suppress(OSError, UnicodeError):
            found += socket.gethostbyname_ex(name)[2]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, interface in socket.if_nameindex():
            if not interface.startswith(_INNER_INTERFACES):
                with contextlib.suppress(OSError):
                    question = struct.pack("256s", interface.encode()[:15])
                    answer = fcntl.ioctl(asker.fileno(), _SIOCGIFADDR, question)
                    found.append(socket.inet_ntoa(answer[20:24]))
    return sorted(dict.fromkeys(found), key=lambda a: a.startswith("127.")) or ["127.0.0.1"]


def address_towards(other: str) -> str:
    """This node's own address on the way to `other`; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect((other, 9))
        return str(asker.getsockname()[0])


class Link:
    """One end of a connection whose messages are JSON objects, each with a keyed digest.

    Sending and receiving may happen in two threads. Errors are OSError; the connection is of no use then.
    """

    def __init__(self, connection: socket.socket, key: bytes, mine: bytes, theirs: bytes) -> None:
        self._connection = connection
        self._key, self._mine, self._theirs = key, mine, theirs
        self._sent = self._received = 0
        self._rest = b""
        self._sending = threading.Lock()
        self.heard = time.monotonic()

    @property
    def peer(self) -> str:
        """Address of the other end."""
        return str(self._connection.getpeername()[0])

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message."""
        body = json.dumps(message).encode()
        with self._sending:
            self._connection.settimeout(SILENCE_SECONDS)
            self._connection.sendall(self._digest(self._mine, self._sent, body) + b" " + body + b"\n")
            self._sent += 1

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, None when none came in `seconds`. Raises ConnectionError when it is closed."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._connection], [], [], left)[0]:
                return None
            got = self._connection.recv(65536)
            if not got or len(self._rest) > _LONGEST_LINE:
                raise ConnectionError("the connection was closed")
            self._rest += got
        line, self._rest = self._rest.split(b"\n", 1)
        digest, _, body = line.partition(b" ")
        if not hmac.compare_digest(digest, self._digest(self._theirs, self._received, body)):
            raise ConnectionError("a message that is not from the other end")
        self._received += 1
        self.heard = time.monotonic()
        message = json.loads(body)
        if not isinstance(message, dict):
            raise ConnectionError("a message of another kind")
        return message

    def close(self) -> None:
        """Close it; the other end sees that."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _digest(self, side: bytes, number: int, body: bytes) -> bytes:
        return hmac.new(self._key, b"%s %d " % (side, number) + body, "sha256").hexdigest().encode()


def answer(connection: socket.socket, token: str) -> tuple[Link, dict[str, Any]]:
    """Node 0's part of the greeting: the link, and what the other node says of itself.

    Raises ConnectionError for somebody who does not hold the token.
    """
    link = _greet(connection, token, b"0", b"n")
    hello = link.receive(_HANDSHAKE_SECONDS)
    if hello is None:
        raise ConnectionError("no greeting")
    link.send({"do": "welcome"})
    return link, hello


def call(address: str, port: int, token: str, hello: Mapping[str, Any]) -> Link:
    """A link to node 0. Raises OSError when it cannot be reached, or is somebody else."""
    connection = socket.create_connection((address, port), timeout=_HANDSHAKE_SECONDS)
    try:
        link = _greet(connection, token, b"n", b"0")
        link.send(hello)
        if link.receive(_HANDSHAKE_SECONDS) is None:
            raise ConnectionError("no answer to the greeting")
        return link
    except BaseException:
        connection.close()
        raise


def _greet(connection: socket.socket, token: str, mine: bytes, theirs: bytes) -> Link:
    connection.settimeout(_HANDSHAKE_SECONDS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    nonce = os.urandom(32)
    connection.sendall(nonce)
    other = b""
    while len(other) < len(nonce):
        got = connection.recv(len(nonce) - len(other))
        if not got:
            raise ConnectionError("the connection was closed")
        other += got
    first, second = (nonce, other) if mine == b"0" else (other, nonce)
    key = hmac.new(token.encode(), b"nemotron nodes " + first + second, "sha256").digest()
    return Link(connection, key, mine, theirs)
