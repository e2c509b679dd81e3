"""Where NeMo-RL keeps its scalars, and how it leaves when its time is up."""

from __future__ import annotations

import re
from pathlib import Path

from nemotron.job.following.follower import Follower

_START = re.compile(r"exp_(\d+)")
# Its GPU monitor counts seconds.
_OTHER_CLOCKS = ("ray/",)
_MUST_SAVE_BY = "checkpointing.checkpoint_must_save_by"


class NemoRlFollower(Follower):
    """NeMo-RL: a directory `exp_NNN` for every start, event files below its `tensorboard`."""

    log_key = "logger.log_dir"
    event_files = "tensorboard/**/events.out.tfevents.*"

    def starts(self) -> list[Path]:
        """The `exp_NNN`, in their order."""
        try:
            found = [(_START.fullmatch(path.name), path) for path in self.log_dir.iterdir()]
        except OSError:
            return []  # nothing was started yet
        return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]

    def counts_steps(self, tag: str) -> bool:
        """All but what the GPU monitor logs."""
        return not tag.startswith(_OTHER_CLOCKS)

    def left_in_time(self, seconds: float) -> bool:
        """It leaves when the slowest step so far would not fit any more, so up to such a step early."""
        written = self.plan["placement"]["config"].get(_MUST_SAVE_BY)
        parts = str(written).split(":")
        if len(parts) != 4 or not all(part.isdigit() for part in parts):
            return False
        days, hours, minutes, rest = map(int, parts)
        limit = ((days * 24 + hours) * 60 + minutes) * 60 + rest
        return seconds + 1.5 * self.slowest >= limit
