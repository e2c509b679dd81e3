"""Where Megatron-Bridge keeps its scalars."""

from __future__ import annotations

from pathlib import Path

from nemotron.job.following.follower import Follower

# Megatron logs a loss twice, over steps and over samples; so it does what it measures of a validation.
_OTHER_CLOCKS = (" vs samples", " vs. samples")


class MegatronBridgeFollower(Follower):
    """Megatron-Bridge: one directory of event files for all starts."""

    log_key = "logger.tensorboard_dir"

    def starts(self) -> list[Path]:
        """The one directory, where it is there."""
        return [self.log_dir] if self.log_dir.is_dir() else []

    def counts_steps(self, tag: str) -> bool:
        """All but what is logged over samples."""
        return not tag.endswith(_OTHER_CLOCKS)

    def left_in_time(self, seconds: float) -> bool:
        """Never: the step's script stays until the allocation ends."""
        return False
