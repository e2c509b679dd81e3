"""Runs one command and ends all that descends from it, whatever becomes of the process that asked for it.

    python -I keeper.py LIFELINE_FD COMMAND...

The keeper is a session of its own and adopts the orphans of its descendants, so that a cluster manager whose
workers leave its process group still goes as a whole. SIGTERM, SIGINT and SIGUSR1 are handed to the command.
When the command ends, or nobody holds the other end of LIFELINE_FD any more, what is left is killed. The exit
code is the command's, 128 + n after signal n, 127 when it cannot be started.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

# What the others get to end by themselves, once the command itself has.
_LEFTOVER_SECONDS = 2.0
# Ray and the loaders of large data sets open thousands of files; the usual soft limit is 1024.
_OPEN_FILES = 65535
_PR_SET_CHILD_SUBREAPER = 36


class Kept:
    """A command under a keeper, its output appended to `log`. Raises OSError where that cannot be opened."""

    def __init__(self, argv: Sequence[str], log: Path, environment: Mapping[str, str], cwd: Path) -> None:
        read_end, self._lifeline = os.pipe()
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", __file__, str(read_end), *argv],
                    cwd=cwd,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(read_end,),
                )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(read_end)

    @property
    def pid(self) -> int:
        """The keeper, whose descendants are the command and all that it started."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Hand a signal to the command; SIGKILL ends all of it."""
        if number == signal.SIGKILL:
            self._let_go()
        else:
            self._process.send_signal(number)

    def stop(self, grace: float) -> int:
        """Ask the command to end, end all of it after `grace` seconds; returns the exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.poll() is None:
                self._process.terminate()
            self._process.wait(grace)
        self._let_go()
        self._process.wait()
        return self.poll() or 0

    def _let_go(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def descendants(root: int) -> list[int]:
    """All processes below `root`, parents before children."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def keep(lifeline: int, argv: Sequence[str]) -> int:
    """What the keeper process does; returns its exit code."""
    os.set_inheritable(lifeline, False)
    _adopt_orphans()
    _raise_file_limit()
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    child = 0

    def hand_on(number: int, _frame: FrameType | None) -> None:
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, hand_on)
    try:
        child = os.posix_spawnp(argv[0], list(argv), os.environ, setpgroup=0)
    except OSError as problem:
        print(f"{argv[0]} cannot be started: {problem.strerror}", file=sys.stderr)
        return 127
    code = None
    while code is None:
        ready, _, _ = select.select([lifeline, woken], [], [])
        if lifeline in ready:
            _end_all(0.0)
            return 137
        os.read(woken, 512)
        code = _reap(child)
    _end_all(_LEFTOVER_SECONDS)
    return code


def _reap(child: int) -> int | None:
    """Take leave of all that has ended; the exit code of `child` when it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
    return code if code is None or code >= 0 else 128 - code


def _end_all(grace: float) -> None:
    """End every descendant: asked first when there is `grace`, and killed in the end."""
    deadline = time.monotonic() + grace
    number = signal.SIGTERM if grace else signal.SIGKILL
    while True:
        _reap(0)
        left = descendants(os.getpid())
        if not left:
            return
        if time.monotonic() >= deadline:
            number = signal.SIGKILL
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        time.sleep(0.05)


def _adopt_orphans() -> None:
    try:
        import ctypes  # some slim interpreters come without

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError) as problem:
        print(f"orphans of this command will not be found: {problem}", file=sys.stderr)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2:]))
