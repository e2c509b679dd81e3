"""The trainer's processes: a session and process group of their own, which end with the job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

LIFELINE = "NEMOTRON_LIFELINE_FD"


class Trainer:
    """One trainer, started by the constructor. Raises OSError when it cannot be started.

    directory: its working directory. log: receives its output. lock: the handle of the run's lock, which
    it holds as long as it lives. ended: called once with its exit code (negative: a signal), in a thread.
    """

    def __init__(
        self,
        argv: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        log: IO[bytes],
        lock: int,
        ended: Callable[[int], None],
    ) -> None:
        read_end, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                argv,
                cwd=directory,
                env={**environment, LIFELINE: str(read_end)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(read_end, lock),
            )
        except OSError:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._lifeline = write_end
        self._ended = threading.Event()
        self._tell = ended
        threading.Thread(target=self._reap, daemon=True, name="reaper").start()

    @property
    def group(self) -> int:
        """The id of its process group."""
        return self._process.pid

    def send(self, number: int) -> None:
        """Send a signal to the whole group, while its leader lives."""
        if not self._ended.is_set():
            self._send(number)

    def close(self) -> None:
        """Kill what is left of the group."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _reap(self) -> None:
        code = self._process.wait()
        self._ended.set()
        os.close(self._lifeline)
        self._tell(code)
