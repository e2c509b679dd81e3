"""`attempt.json`: what the newest attempt of a run is doing, and when it was last known to be alive."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json
from nemotron.artifacts.records import timestamp
from nemotron.artifacts.run_state import BEAT_FILE
from nemotron.errors import NemotronError
from nemotron.job.allocation import Allocation

BEAT_SECONDS = 30.0


class Heartbeat:
    """Keeps `attempt.json` of a run fresh in a thread, from its making until `close`.

    fixed: what does not change. step: asked at each beat how far training is.
    """

    def __init__(
        self,
        directory: Path,
        allocation: Allocation,
        fixed: Mapping[str, Any],
        step: Callable[[], int | None],
    ) -> None:
        self._path = directory / BEAT_FILE
        self._known = {
            **fixed,
            "phase": "starting",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": allocation.job,
            "part": allocation.part,
            "parts": allocation.parts,
        }
        self._step = step
        # A signal handler tells of a phase while any other line runs: this queue allows that.
        self._news: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()

    def tell(self, phase: str, **more: Any) -> None:
        """Write a new phase at once, and what else is to be known with it."""
        self._news.put({"phase": phase, **more})

    def close(self) -> None:
        """Write the phase `ended`, and no more."""
        self.tell("ended")
        self._news.put(None)
        self._thread.join()

    def _beat(self) -> None:
        while True:
            self._write()
            try:
                news = self._news.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                continue
            if news is None:
                return
            self._known |= news

    def _write(self) -> None:
        moment = timestamp(datetime.now(UTC))
        try:
            write_json(self._path, {**self._known, "step": self._step(), "at": moment})
        except (NemotronError, OSError):
            # A full disk, or a checkpoint removed this moment, must not end the training: the next beat
            # tries again.
            return
