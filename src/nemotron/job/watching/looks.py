"""What is looked at while a trainer runs: its framework's metrics, the other nodes, whether it advances."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron.errors import NemotronError
from nemotron.job.chain import HANG, NODE_LOST
from nemotron.job.watching.supervision import Trouble

if TYPE_CHECKING:
    from nemotron.job.following.follower import Follower
    from nemotron.job.nodes.leader import Nodes
    from nemotron.job.watching.watch import Watch


class Looks:
    """All of them for one attempt of a run; those that its plan does not call for are left out.

    Made before the trainer is started: what is there by then is no progress of it.

    log: where stacks of a trainer that hangs are written. scheduled: whether a scheduler gave the nodes,
    so that nobody may be there to see that it hangs.
    """

    def __init__(
        self,
        directory: Path,
        plan: Mapping[str, Any],
        log: Path,
        nodes: Nodes | None,
        *,
        scheduled: bool,
    ) -> None:
        self._log = log
        self._nodes = nodes
        self._follower = _follower(directory, plan)
        self._watch = _watch(directory) if scheduled and not plan["placement"].get("stub") else None
        self._told: set[str] = set()

    @property
    def looks(self) -> bool:
        """Whether there is anything to look at."""
        return any(each is not None for each in (self._follower, self._nodes, self._watch))

    def look(self) -> Trouble | None:
        """Look at everything once."""
        if self._follower is not None:
            self._guarded(self._follower.poll)
        lost = self._nodes.lost() if self._nodes is not None else None
        if lost is not None:
            return Trouble(NODE_LOST, lost)
        hang = self._watch.poll() if self._watch is not None else None
        return None if hang is None else Trouble(HANG, hang)

    def on_trouble(self, trouble: Trouble, group: int) -> None:
        """Say it, and write down what the processes of all nodes are doing."""
        from nemotron.job.nodes.link import node_name  # what it needs takes 10 ms

        print(f"{node_name()}: {trouble.what}", file=sys.stderr, flush=True)
        if trouble.reason != HANG or self._watch is None:
            return
        self._watch.dump(group, self._log)
        silent = self._nodes.dump() if self._nodes is not None else None
        if silent:
            print(silent, file=sys.stderr, flush=True)

    def on_signal(self, number: int) -> None:
        """Pass it on to what runs on the other nodes."""
        if self._nodes is not None:
            self._nodes.signal(number)

    def left_in_time(self, seconds: float) -> bool:
        """Whether a trainer that ended well after `seconds` may have done so because its time was up."""
        return self._follower is not None and self._follower.left_in_time(seconds)

    def close(self) -> None:
        """Read what the framework wrote last."""
        if self._follower is not None:
            self._guarded(self._follower.close)

    def _guarded(self, read: Callable[[], object]) -> None:
        """Metrics that cannot be read or written are told of once; the training goes on without them."""
        try:
            read()
        except (NemotronError, OSError, ValueError) as problem:
            said = f"the framework's metrics cannot be followed: {problem}"
            if said not in self._told:
                print(said, file=sys.stderr, flush=True)
                self._told.add(said)


def _follower(directory: Path, plan: Mapping[str, Any]) -> Follower | None:
    engine = plan["recipe"]["engine"]
    if engine == "nemo_rl":
        from nemotron.job.following.nemo_rl import NemoRlFollower

        return NemoRlFollower(directory, plan)
    if engine == "megatron_bridge":
        from nemotron.job.following.megatron_bridge import MegatronBridgeFollower

        return MegatronBridgeFollower(directory, plan)
    return None


def _watch(directory: Path) -> Watch:
    from nemotron.job.watching.watch import Watch

    return Watch(directory, time.time())
