"""A trainer dies with the job that started it, however that job died."""

from __future__ import annotations

import os
import threading

VARIABLE = "NEMOTRON_LIFELINE_FD"


def die_with_parent() -> None:
    """End this process at once when the other end of the inherited pipe closes.

    The job keeps the writing end open and never writes: end of file means that it is gone, even by
    SIGKILL. Without it an orphaned trainer would go on and write beside the one that resumes.
    """
    given = os.environ.pop(VARIABLE, None)
    if given is None:
        return
    handle = int(given)

    def watch() -> None:
        while os.read(handle, 1):
            pass
        os._exit(137)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()
