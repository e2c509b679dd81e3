"""Where the processes of a trainer stand, written down before it is ended.

py-spy tells it where it is installed and permitted. Otherwise the kernel says in which call each thread
waits, and a Python process that was started with PYTHONFAULTHANDLER=1 is aborted, upon which it writes its
stacks to its own stderr. No local variables and no arguments beyond the second word: they may be secret.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from nemotron.job.keeper import descendants

_PROCESSES, _THREADS = 256, 16
_SECONDS, _ONE_SECONDS = 60.0, 10.0
# A process that was aborted needs a moment to write its stacks.
_ABORT_SECONDS = 3.0


def dump_group(group: int, log: Path) -> None:
    """Append to `log` where the processes of a process group or session stand; some are aborted by it."""
    dump_processes(_members(group), log)


def dump_tree(root: int, log: Path) -> None:
    """As `dump_group`, for all that descends from `root`."""
    dump_processes(descendants(root), log)


def dump_processes(pids: Iterable[int], log: Path) -> None:
    """Append to `log` where these processes stand, at most a minute long."""
    deadline = time.monotonic() + _SECONDS
    spy = shutil.which("py-spy")
    aborted = []
    with log.open("ab") as file:
        begin = f"nemotron: {datetime.now().isoformat(' ', 'seconds')} where the processes stand"
        file.write(f"\n{begin}\n".encode())
        for pid in list(pids)[:_PROCESSES]:
            text = _of_process(pid)
            if text is None:
                continue
            stacks = _spied(spy, pid) if spy and _is_python(pid) and time.monotonic() < deadline else None
            file.write((text + (stacks or _threads(pid))).encode())
            if stacks is None and _is_python(pid) and _writes_on_abort(pid):
                aborted.append(pid)
        for pid in aborted:
            file.write(f"process {pid} is aborted, so that it writes its stacks to its stderr\n".encode())
        file.flush()
        for pid in aborted:
            _abort(pid)
    if aborted:
        _wait_for_end(aborted)


def _members(group: int) -> list[int]:
    """Processes of a group, and of the session of that name: launchers give their workers groups."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = _stat(int(entry.name))
                if str(group) in (fields[2], fields[3]):
                    found.append(int(entry.name))
    return sorted(found)


def _stat(pid: int) -> list[str]:
    """State, parent, group, session and so on. Raises OSError."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def _of_process(pid: int) -> str | None:
    """What the kernel says of a process, None when it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2]
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    named = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    facts = ", ".join(f"{key} {named[key].strip()}" for key in ("State", "Threads", "VmRSS") if key in named)
    shown = " ".join(word.decode(errors="replace")[:120] for word in words if word)
    return f"process {pid}: {shown or named.get('Name', '?')} ({facts})\n"


def _threads(pid: int) -> str:
    """In which call of the kernel each thread waits."""
    lines = []
    with contextlib.suppress(OSError):
        for thread in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda p: int(p.name))[:_THREADS]:
            with contextlib.suppress(OSError):
                name = (thread / "comm").read_text(encoding="utf-8", errors="replace").strip()
                waits = (thread / "wchan").read_text(encoding="ascii").strip()
                lines.append(
                    f"  thread {thread.name} {name}: {waits if waits not in ('', '0') else 'running'}\n"
                )
    return "".join(lines)


def _is_python(pid: int) -> bool:
    try:
        return "python" in Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False


def _spied(program: str, pid: int) -> str | None:
    """The stacks by py-spy, None where it may not or cannot look."""
    try:
        asked = subprocess.run(
            [program, "dump", "--pid", str(pid)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ONE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode != 0:
        return None
    # The first line is the whole command.
    lines = asked.stdout.decode(errors="replace").splitlines()[1:]
    return "".join(f"  {line}\n" for line in lines if line.strip())


def _writes_on_abort(pid: int) -> bool:
    try:
        return b"PYTHONFAULTHANDLER=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _abort(pid: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        # A core file of such a process has hundreds of GB.
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        os.kill(pid, signal.SIGABRT)


def _wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + _ABORT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if any(_stat(pid)[0] not in "ZX" for pid in pids):
                time.sleep(0.05)
                continue
        return
