"""Any node but the first: joins node 0, starts what that says, and ends with it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from nemotron.errors import NemotronError
from nemotron.job.allocation import Allocation
from nemotron.job.keeper import Kept
from nemotron.job.nodes.environment import node_environment
from nemotron.job.nodes.leader import RAY_TRIALS, join_limit, node_log
from nemotron.job.nodes.link import (
    BEAT_SECONDS,
    SILENCE_SECONDS,
    Link,
    boot_id,
    call,
    node_name,
    own_addresses,
    published,
    rendezvous_file,
)
from nemotron.job.nodes.ray_node import RayNode

_LOOK_SECONDS = 1.0
# What a trainer gets to end by itself once node 0 is done, or gone.
_GRACE_SECONDS = 10.0
EXIT_NOBODY = 6


def serve(directory: Path) -> int:
    """See `nodes.serve_node`."""
    rank = Allocation.read(os.environ).rank
    asked_to_stop: list[int] = []
    # Node 0 hears of these too and decides; ended by them, this node would be a lost one. No SIG_IGN: what
    # is started here would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _frame: asked_to_stop.append(number))
    deadline = time.monotonic() + join_limit()
    while time.monotonic() < deadline:
        found = published(rendezvous_file(directory)) or {}
        if found.get("over"):
            return 0
        if link := _join(found, rank):
            return _Helper(directory, rank, int(found["attempt"]), link).serve()
        if signal.SIGTERM in asked_to_stop or signal.SIGINT in asked_to_stop:
            return 0
        time.sleep(_LOOK_SECONDS)
    print(
        f"error: node {rank} ({node_name()}) had no word of node 0 within {join_limit():.0f} s"
        f" ({rendezvous_file(directory)})\n  next: see what node 0 says in {directory / 'logs' / 'job.log'};"
        " all nodes must see the run directory, and reach one another",
        file=sys.stderr,
    )
    return EXIT_NOBODY


def _join(found: Mapping[str, Any], rank: int) -> Link | None:
    """A link to the node 0 that wrote `found`, None while it cannot be had."""
    same_machine = found.get("boot") == boot_id()
    for address in found.get("addresses", ()):
        # Elsewhere, loopback is that machine itself, and whoever listens there.
        if same_machine or not str(address).startswith("127."):
            hello = {"rank": rank, "name": node_name(), "via": address}
            try:
                return call(str(address), int(found["port"]), str(found["token"]), hello)
            except (OSError, ValueError, KeyError):
                continue
    return None


class _Helper:
    def __init__(self, directory: Path, rank: int, attempt: int, link: Link) -> None:
        self._directory, self._rank, self._link = directory, rank, link
        self._log = node_log(directory, attempt, rank)
        self._placement = json.loads((directory / "plan.json").read_text(encoding="utf-8"))["placement"]
        self._trainer: Kept | None = None
        self._ray: RayNode | None = None
        self._shares_disk = False
        self._ray_order: Mapping[str, Any] = {}
        self._ray_trials = 0
        self._has_started = self._reported = False
        self._note(f"node {rank} is {node_name()} ({', '.join(own_addresses())})")

    def serve(self) -> int:
        """Until node 0 says that it is enough, or says nothing any more."""
        next_beat = 0.0
        try:
            while True:
                message = self._link.receive(_LOOK_SECONDS)
                if message is not None and message.get("do") == "end":
                    break
                if message is not None:
                    self._obey(message)
                self._report()
                if time.monotonic() - self._link.heard > SILENCE_SECONDS:
                    raise ConnectionError(f"no word from it for {SILENCE_SECONDS:.0f} s")
                if time.monotonic() >= next_beat:
                    self._link.send({"say": "beat"})
                    next_beat = time.monotonic() + BEAT_SECONDS
        except (OSError, ValueError) as problem:
            self._note(f"node 0 is gone: {problem}")
            self._end()
            return 0
        self._end()
        try:
            self._link.send({"say": "finished"})
        except OSError as problem:
            self._note(f"node 0 is gone: {problem}")
        self._link.close()
        return 0

    def _obey(self, message: Mapping[str, Any]) -> None:
        try:
            match message.get("do"):
                case "ray":
                    self._ray_order = message
                    self._start_ray(message)
                case "torchrun":
                    environment = node_environment(self._directory, self._placement)
                    self._trainer = Kept(message["argv"], self._log, environment, self._directory)
                case "signal" if self._trainer is not None:
                    self._trainer.signal(int(message["number"]))
                case "dump":
                    self._dump()
                    self._link.send({"say": "dumped"})
        except NemotronError as problem:
            self._fail(problem.what)
        except OSError as problem:
            self._fail(str(problem))

    def _start_ray(self, order: Mapping[str, Any]) -> None:
        self._ray_trials += 1
        self._shares_disk = order["boot"] == boot_id()
        head, _, _ = str(order["head"]).rpartition(":")
        self._ray = RayNode(
            self._directory,
            self._placement,
            self._log,
            head,
            int(order["gpus"]),
            str(order["head"]),
            str(order["temporary"]),
        )

    def _fail(self, what: str) -> None:
        self._note(what)
        self._link.send({"say": "failed", "what": what})

    def _report(self) -> None:
        code = None
        if self._ray is not None and not self._has_started and self._ray.has_started():
            self._has_started = True
            self._link.send({"say": "started"})
        if self._trainer is not None:
            code = self._trainer.poll()
        elif self._ray is not None:
            code = self._ray.ended()
            if code is not None and not self._has_started and self._ray_trials < RAY_TRIALS:
                self._note(f"Ray did not start ({code}); once more")
                self._ray.close(shared=self._shares_disk)
                self._obey(self._ray_order)
                return
        if code is not None and not self._reported:
            self._reported = True
            self._link.send({"say": "ended", "code": code})

    def _dump(self) -> None:
        from nemotron.job.stacks import dump_tree

        if self._trainer is not None:
            dump_tree(self._trainer.pid, self._log)
        if self._ray is not None:
            self._ray.dump()

    def _end(self) -> None:
        if self._trainer is not None:
            self._trainer.stop(_GRACE_SECONDS)
        if self._ray is not None:
            self._ray.close(shared=self._shares_disk)

    def _note(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"nemotron: {datetime.now().isoformat(' ', 'seconds')} {text}\n")
