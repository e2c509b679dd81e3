"""A login node, spoken to by the user's own ssh: config, keys, agents and jump hosts are those of the user.

One connection is made and kept for a while; every command is a session in it, some 20 ms. Nothing is ever
asked for: where a password or the trust in a host key is needed, the user has to see to it first.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nemotron.artifacts.atomic import os_error
from nemotron.errors import NemotronError, SchedulerError, UsageError
from nemotron.launch.backend import Unanswered
from nemotron.launch.ssh.words import MARK, remote_command

CONFIG = "NEMOTRON_SSH_CONFIG"
"""Names another file than ~/.ssh/config."""

# For how long an idle connection is kept, and when one that is silent is taken for broken.
_PERSIST_SECONDS, _CONNECT_SECONDS, _ALIVE_SECONDS, _ALIVE_COUNT = 120, 20, 10, 3
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": str(_CONNECT_SECONDS),
    "ServerAliveInterval": str(_ALIVE_SECONDS),
    "ServerAliveCountMax": str(_ALIVE_COUNT),
    # What a person's config may say of sessions with a terminal.
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "PermitLocalCommand": "no",
    # What a machine says to everybody who logs in is no reason why it could not be done.
    "LogLevel": "ERROR",
}
_FAILED = 255
_DESTINATION = re.compile(r"[^-\s\x00-\x1f\x7f][^\s\x00-\x1f\x7f]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+\\-]*\$?", re.ASCII)
_NOT_IN_IDENTITY = re.compile(r"\$\{|[\x00-\x1f\x7f]")
# The path of a socket has 107 characters; ssh adds 17 while it makes one, and reads more than names into it.
_PLACE = re.compile(r"/[A-Za-z0-9/._-]{0,58}", re.ASCII)
# Of what ssh says at its end: the reason may stand above the consequence.
_LAST_LINES, _MOST_SAID = 4, 500

Feed = Callable[[IO[bytes]], None]


@dataclass(frozen=True)
class Login:
    """A machine to log in to. host: as ssh takes it, an alias of the user's config included."""

    host: str
    user: str | None = None
    identity: str | None = None

    @property
    def title(self) -> str:
        """How a person finds it."""
        return f"{self.user}@{self.host}" if self.user else self.host

    def call(
        self, argv: Sequence[str], *, seconds: float, cwd: Path | None = None, utc: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end, whatever its exit code. utc: times in what it prints are in UTC.

        Raises Unanswered when the connection cannot be made, breaks, or nothing is heard for `seconds`:
        whether the command did its work is not known then.
        """
        code, out, err = self._run(argv, seconds=seconds, cwd=cwd, utc=utc)
        if code == 127:
            raise SchedulerError(
                f"{argv[0]} is not on PATH on {self.title}",
                where=self.title,
                next=f"ssh {self.title} 'which {argv[0]}' has to find it; ~/.bashrc there sets its PATH",
            )
        text = out.decode("utf-8", "replace")
        return subprocess.CompletedProcess(list(argv), code, text, err)

    def pipe(self, argv: Sequence[str], *, seconds: float, feed: Feed | None = None) -> bytes:
        """What a command there prints. feed: writes to its standard input.

        Raises SchedulerError when it fails, Unanswered as `call`.
        """
        code, out, err = self._run(argv, seconds=seconds, feed=feed)
        if code != 0:
            said = "; ".join(err.split("\n")).strip("; ") or f"exit code {code}"
            raise SchedulerError(f"on {self.title}: {said}", where=self.title)
        return out

    def _run(
        self,
        argv: Sequence[str],
        *,
        seconds: float,
        cwd: Path | None = None,
        utc: bool = False,
        feed: Feed | None = None,
    ) -> tuple[int, bytes, str]:
        text = remote_command(argv, cwd=None if cwd is None else str(cwd), utc=utc)
        command = ["ssh", *self._words(kept=True), "--", self.host, text]
        # Files, not pipes: the kept connection is a process that may hold them open for long.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = _started(command, subprocess.PIPE if feed else subprocess.DEVNULL, out, err)
            except FileNotFoundError as problem:
                raise SchedulerError("ssh is not on PATH", next="install OpenSSH's client") from problem
            fed, trouble = _fed(process, feed)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired as problem:
                raise self._unanswered(f"no answer within {seconds:.0f} s") from problem
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                fed.join()
            if trouble:
                raise trouble[0]
            told = _read(out)
            said = _read(err).decode("utf-8", "replace").strip()
        _, mark, own = told.partition(f"{MARK}\n".encode())
        if code == _FAILED:
            raise self._unanswered((_reason(said) if mark else self._why()) or "the connection broke")
        return code, own, said

    def _why(self) -> str:
        """Why no connection is made: where one is to be kept, ssh hides what its jump host's ssh says."""
        command = ["ssh", *self._words(kept=False), "--", self.host, "true"]
        with tempfile.TemporaryFile() as err:
            process = _started(command, subprocess.DEVNULL, subprocess.DEVNULL, err)
            try:
                process.wait(2 * _CONNECT_SECONDS)
            except subprocess.TimeoutExpired:
                return f"no answer within {2 * _CONNECT_SECONDS} s"
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            return _reason(_read(err).decode("utf-8", "replace"))

    def _words(self, *, kept: bool) -> list[str]:
        keeps = {
            "ControlMaster": "auto",
            "ControlPersist": str(_PERSIST_SECONDS),
            "ControlPath": str(_sockets() / self._socket_name()),
        }
        options = {**_OPTIONS, **(keeps if kept else {"ControlMaster": "no", "ControlPath": "none"})}
        words = ["-T", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
        config = os.environ.get(CONFIG)
        words += ["-F", config] if config else []
        words += ["-l", self.user] if self.user else []
        if self.identity:
            # Who is meant by ~somebody nobody here need know: ssh says so.
            path = os.path.expanduser(self.identity)  # noqa: PTH111 - pathlib raises for those
            words += ["-i", path.replace("%", "%%")]
        return words

    def _socket_name(self) -> str:
        told = "\0".join([self.host, self.user or "", self.identity or "", os.environ.get(CONFIG, "")])
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def _unanswered(self, what: str) -> Unanswered:
        return Unanswered(
            f"{self.title}: {what}",
            where=self.title,
            next=f"ssh -o BatchMode=yes {self.title} true has to work",
        )


def login_of(values: Mapping[str, Any]) -> Login | None:
    """The login node that a profile's options, or a connection in a journal, name; None without a tunnel.

    Raises UsageError for what ssh would read as something else.
    """
    if not values.get("tunnel"):
        return None
    host, user, identity = (values.get(name) for name in ("host", "user", "identity"))
    if not host:
        raise UsageError(
            "tunnel needs the login node's name", where="host", next='host = "login.example.com"'
        )
    for name, value, form in (("host", host, _DESTINATION), ("user", user, _USER)):
        if value and not form.fullmatch(str(value)):
            raise UsageError(f"{value!r} is no {name} that ssh could be told", where=name)
    if identity and _NOT_IN_IDENTITY.search(str(identity)):
        raise UsageError(f"{identity!r} is no path that ssh could be told", where="identity")
    return Login(str(host), str(user) if user else None, str(identity) if identity else None)


def _sockets() -> Path:
    """A directory of the user alone, with a short path."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(own) if own and _PLACE.fullmatch(own) and Path(own).is_dir() else Path("/tmp")
    place = base / f"nemotron-ssh-{os.getuid()}"
    try:
        with suppress(FileExistsError):
            place.mkdir(mode=0o700)
        found = place.lstat()
    except OSError as problem:
        raise os_error(problem, place) from problem
    if found.st_uid != os.getuid() or found.st_mode & 0o77 or not place.is_dir() or place.is_symlink():
        raise SchedulerError("a place for connections has to be yours alone", where=str(place))
    return place


def _fed(process: subprocess.Popen[bytes], feed: Feed | None) -> tuple[threading.Thread, list[Exception]]:
    """A thread that writes what the command reads, and why it could not; who reads no more has said why."""
    trouble: list[Exception] = []

    def write() -> None:
        if feed is None or process.stdin is None:
            return
        try:
            with suppress(BrokenPipeError), process.stdin:
                feed(process.stdin)
        except (OSError, NemotronError) as problem:
            trouble.append(problem)

    thread = threading.Thread(target=write, daemon=True, name="ssh input")
    thread.start()
    return thread, trouble


def _started(
    command: Sequence[str], reads: int, out: IO[bytes] | int, err: IO[bytes]
) -> subprocess.Popen[bytes]:
    """ssh, in no terminal: that of a jump host knows nothing of BatchMode, and would ask there."""
    environ = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
    return subprocess.Popen(command, stdin=reads, stdout=out, stderr=err, env=environ, start_new_session=True)


def _reason(said: str) -> str:
    """The last things that ssh said, on one line."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip(" @\r")]
    return "; ".join(lines[-_LAST_LINES:])[-_MOST_SAID:]


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
