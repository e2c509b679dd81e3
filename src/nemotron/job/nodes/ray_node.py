"""Ray on this node of a job: the head or a worker, under a keeper that ends all of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron.errors import SchedulerError
from nemotron.job.keeper import Kept
from nemotron.job.nodes.environment import node_environment
from nemotron.job.nodes.link import address_towards, node_name
from nemotron.job.nodes.ray_cluster import (
    free_ports,
    head_words,
    is_listening,
    keep_logs,
    make_temporary,
    nodes_alive,
    worker_words,
)

# A worker drains and tells the head that it goes.
_GRACE_SECONDS = 10.0
_LONGEST_START = 1 << 20


class RayNode:
    """The head when only `address` is given; a worker of `head` (HOST:PORT) otherwise.

    log: receives what `ray start` says. temporary: the head's directory for sockets; a path under /tmp,
    since a socket's whole path may have 107 characters. Raises SchedulerError, OSError.
    """

    def __init__(
        self,
        directory: Path,
        placement: Mapping[str, Any],
        log: Path,
        address: str,
        gpus: int,
        head: str | None = None,
        temporary: str | None = None,
    ) -> None:
        self.log = log
        self._environment = node_environment(directory, placement) | {"RAY_USAGE_STATS_ENABLED": "0"}
        # Where somebody set it, `ray start` would look for a cluster that is there already.
        self._environment.pop("RAY_ADDRESS", None)
        if head is None or temporary is None:
            self._port = free_ports(1)[0]
            self.head = f"{address}:{self._port}"
            self.temporary = tempfile.mkdtemp(prefix="nr-", dir="/tmp")  # short; TMPDIR often is not
            try:
                words = head_words(address, self._port, self.temporary, gpus)
            except SchedulerError:
                Path(self.temporary).rmdir()
                raise
        else:
            self.head, self.temporary = head, temporary
            make_temporary(temporary)
            words = worker_words(head, address_towards(address), gpus)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"nemotron: Ray on {node_name()}: {' '.join(words)}\n")
        self._begin = log.stat().st_size
        self._kept = Kept(words, log, self._environment, directory)

    def is_up(self) -> bool:
        """Whether the head takes connections."""
        address, _, port = self.head.rpartition(":")
        return self.ended() is None and is_listening(address, int(port))

    def has_started(self) -> bool:
        """Whether `ray start` says that this node is part of the cluster."""
        with self.log.open("rb") as file:
            file.seek(self._begin)
            return b"Ray runtime started" in file.read(_LONGEST_START)

    def alive(self) -> int:
        """How many nodes the head knows."""
        return nodes_alive(self.head, self._environment)

    def ended(self) -> int | None:
        """The exit code of `ray start`, None while it runs."""
        return self._kept.poll()

    def dump(self) -> None:
        """Write to the log where the Python processes of this node stand."""
        from nemotron.job.stacks import dump_tree

        dump_tree(self._kept.pid, self.log)

    def close(self, shared: bool) -> None:
        """End it and keep its logs. shared: another node uses the same directory, and looks after it."""
        self._kept.stop(_GRACE_SECONDS)
        if not shared:
            keep_logs(self.temporary, self.log.with_suffix(".ray"))
            shutil.rmtree(self.temporary, ignore_errors=True)
