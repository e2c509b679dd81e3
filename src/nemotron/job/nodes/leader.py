"""The nodes of one job, as node 0 has them: gathered, told what to start, watched, and sent home.

The other nodes run `serve_node`. What they and node 0 start besides the trainer writes to
logs/nodes/attempt-N.node-R.log, whose first line says which machine that is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron.errors import NemotronError, SchedulerError
from nemotron.job.allocation import Allocation
from nemotron.job.nodes.link import (
    BEAT_SECONDS,
    SILENCE_SECONDS,
    Link,
    answer,
    boot_id,
    node_name,
    own_addresses,
    publish,
    rendezvous_file,
)
from nemotron.job.nodes.ray_cluster import free_ports
from nemotron.job.nodes.ray_node import RayNode
from nemotron.job.nodes.torchrun import torchrun_words

# Images are fetched on each node before its part of the job starts; that can take half an hour.
JOIN_SECONDS = 1800.0
JOIN_LIMIT = "NEMOTRON_JOIN_LIMIT"
_RAY_SECONDS, _ASK_SECONDS = 300.0, 10.0
# Another job may take a port between its choice and its use; a head that a hundred nodes join is slow.
RAY_TRIALS = 3
# What the other nodes get to end by themselves: after success, and after anything else.
_FINISH_SECONDS, _CLOSE_SECONDS = 60.0, 25.0


def serve_node(directory: Path) -> int:
    """The part of any node but the first: does what node 0 says until that says enough, or is gone."""
    from nemotron.job.nodes.helper import serve

    return serve(directory)


def dismiss(directory: Path) -> None:
    """Tell the other nodes that there is nothing to do; needed wherever `bring_up` is not called."""
    if Allocation.read(os.environ).nodes > 1:
        publish(rendezvous_file(directory), {"over": True})


def node_log(directory: Path, attempt: int, rank: int) -> Path:
    """Where a node's output goes."""
    return directory / "logs" / "nodes" / f"attempt-{attempt}.node-{rank}.log"


def join_limit() -> float:
    """For how long the nodes wait for one another, seconds."""
    return float(os.environ.get(JOIN_LIMIT) or JOIN_SECONDS)


@dataclass
class Helper:
    """Another node. ended: exit code of what it started; failed: why it could not; gone: why it left."""

    rank: int
    name: str
    via: str
    link: Link
    ended: int | None = None
    failed: str | None = None
    gone: str | None = None
    started: bool = False
    dumped: bool = False
    finished: bool = False

    @property
    def title(self) -> str:
        """How a person finds it."""
        return f"node {self.rank} ({self.name})"


class Nodes:
    """All nodes of a job; made by `bring_up`."""

    def __init__(self, directory: Path, plan: Mapping[str, Any], attempt: int, count: int) -> None:
        self.directory, self.attempt, self.count = directory, attempt, count
        self._placement = plan["placement"]
        self._torchrun: list[str] | None = None
        self._ray: RayNode | None = None
        self._meeting: tuple[str, int] | None = None
        self._helpers: dict[int, Helper] = {}
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._addresses = own_addresses() if count > 1 else ["127.0.0.1"]
        self._listener: socket.socket | None = None
        self._token = secrets.token_hex(32)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The trainer's command as node 0 has to start it; under torchrun the others start theirs now."""
        if self._meeting is None or self.count == 1:
            return list(argv)
        words = [torchrun_words(argv, rank, self.count, *self._meeting) for rank in range(self.count)]
        if self._torchrun is None:
            self._torchrun = words[0]
            for helper in self._others():
                self._tell(helper, {"do": "torchrun", "argv": words[helper.rank]})
        return words[0]

    def environment(self) -> dict[str, str]:
        """What the trainer needs to find the others."""
        if self._ray is None:
            return {}
        return {"RAY_ADDRESS": self._ray.head, "RAY_USAGE_STATS_ENABLED": "0"}

    def lost(self) -> str | None:
        """A node that went away or whose part failed, in words; None while all is well, and once closed."""
        if self._over.is_set():
            return None
        if self._ray is not None and (code := self._ray.ended()) is not None:
            return f"Ray on node 0 ({node_name()}) ended with exit code {code}: see {self._ray.log}"
        for helper in self._others():
            if helper.gone:
                return f"{helper.title} is gone: {helper.gone}"
            if time.monotonic() - helper.link.heard > SILENCE_SECONDS:
                return f"{helper.title} is gone: no word from it for {SILENCE_SECONDS:.0f} s"
            if helper.failed:
                return f"{helper.title}: {helper.failed}"
            if helper.ended is not None and (helper.ended or self._ray is not None):
                what = "Ray" if self._ray is not None else "the trainer"
                log = node_log(self.directory, self.attempt, helper.rank)
                return f"{what} on {helper.title} ended with exit code {helper.ended}: see {log}"
        return None

    def logs(self) -> list[Path]:
        """The other nodes' logs, and node 0's of Ray, as far as there are any."""
        logs = (node_log(self.directory, self.attempt, rank) for rank in range(self.count))
        return [log for log in logs if log.exists()]

    def signal(self, number: int) -> None:
        """Pass a signal on to the trainers of the other nodes. Ray's nodes end when the driver has."""
        if self._torchrun is not None:
            for helper in self._others():
                self._tell(helper, {"do": "signal", "number": number})

    def dump(self, seconds: float = 60.0) -> str | None:
        """Have every node write where its processes stand; the nodes that did not answer, in words."""
        for helper in self._others():
            self._tell(helper, {"do": "dump"})
        if self._ray is not None:
            self._ray.dump()
        self._wait(lambda: all(h.dumped or h.gone for h in self._others()), seconds)
        silent = [h.title for h in self._others() if not h.dumped]
        return f"no answer from {', '.join(silent)}" if silent else None

    def close(self, code: int) -> None:
        """End what was started on all nodes, the others first, and let them go."""
        if self._torchrun is not None and code == 0:
            self._wait(lambda: all(h.ended is not None or h.gone for h in self._others()), _FINISH_SECONDS)
        for helper in self._others():
            self._tell(helper, {"do": "end"})
        self._wait(lambda: all(h.finished or h.gone for h in self._others()), _CLOSE_SECONDS)
        self._over.set()
        if self._ray is not None:
            self._ray.close(shared=False)
        if self._listener is not None:
            self._listener.close()
            for helper in self._others():
                helper.link.close()
            with contextlib.suppress(NemotronError):  # a full disk; who comes late gives up in time
                publish(rendezvous_file(self.directory), {"over": True})

    # Bringing up

    def gather(self, stopped: Callable[[], bool]) -> None:
        """Wait until every node is here. Raises SchedulerError."""
        if self.count == 1:
            return
        self._listener = socket.create_server(("", 0), backlog=self.count)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True, name="nodes").start()
        threading.Thread(target=self._beat, daemon=True, name="beats").start()
        file = {"addresses": self._addresses, "port": self._listener.getsockname()[1], "token": self._token}
        publish(rendezvous_file(self.directory), {**file, "boot": boot_id(), "attempt": self.attempt})
        self._wait(lambda: stopped() or len(self._helpers) == self.count - 1, join_limit())
        if missing := sorted(set(range(1, self.count)) - set(self._helpers)):
            if stopped():
                raise SchedulerError("asked to stop before all nodes were there")
            here = ", ".join(["node 0 (" + node_name() + ")", *(h.title for h in self._others())])
            raise SchedulerError(
                f"node {', '.join(map(str, missing))} did not come within {join_limit():.0f} s; here: {here}",
                where=str(rendezvous_file(self.directory)),
                next="see what the scheduler says of these nodes, and the log of the job",
            )

    def meet(self) -> None:
        """Choose where the processes of torchrun meet."""
        self._meeting = (self._common_address(), free_ports(1)[0])

    def start_ray(self, stopped: Callable[[], bool]) -> None:
        """Bring up Ray on all nodes. Raises SchedulerError."""
        log = node_log(self.directory, self.attempt, 0)
        gpus = int(self._placement["gpus_per_node"])
        for trial in range(1, RAY_TRIALS + 1):
            ray = self._ray = RayNode(self.directory, self._placement, log, self._common_address(), gpus)
            if self._comes_up(ray, stopped):
                break
            if stopped() or ray.ended() is None or trial == RAY_TRIALS:
                raise _no_ray(f"node 0 ({node_name()})", log, stopped())
            ray.close(shared=False)
        for helper in self._others():
            order = {"do": "ray", "head": ray.head, "temporary": ray.temporary, "gpus": gpus}
            self._tell(helper, {**order, "boot": boot_id()})
        self._await_ray(ray, stopped)

    def _await_ray(self, ray: RayNode, stopped: Callable[[], bool]) -> None:
        """Until the head knows all nodes. Asking it takes a second of a core: not while they start."""
        deadline = time.monotonic() + _RAY_SECONDS
        alive = 0
        while alive < self.count:
            self._wait(
                lambda: (
                    stopped()
                    or bool(self.lost())
                    or (ray.has_started() and all(h.started for h in self._others()))
                ),
                _ASK_SECONDS,
            )
            if trouble := self.lost():
                raise SchedulerError(f"Ray did not come up: {trouble}", where=str(ray.log.parent))
            if stopped() or time.monotonic() > deadline:
                raise _no_ray(f"{self.count - alive} of {self.count} nodes", ray.log, stopped())
            alive = ray.alive()

    def _comes_up(self, ray: RayNode, stopped: Callable[[], bool]) -> bool:
        self._wait(lambda: stopped() or ray.is_up() or ray.ended() is not None, _RAY_SECONDS)
        return ray.is_up()

    def _common_address(self) -> str:
        """The address by which the other nodes found this one: one for all, loopback only if all used it."""
        used = {h.via for h in self._others()} or set(self._addresses[:1])
        return next((a for a in self._addresses if a in used), self._addresses[0])

    def _others(self) -> list[Helper]:
        with self._changed:
            return [self._helpers[rank] for rank in sorted(self._helpers)]

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and (left := deadline - time.monotonic()) > 0:
            with self._changed:
                self._changed.wait(min(left, 0.2))

    def _tell(self, helper: Helper, message: Mapping[str, Any]) -> None:
        try:
            helper.link.send(message)
        except OSError as problem:
            helper.gone = helper.gone or f"the connection broke: {problem}"

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            for helper in self._others():
                if not helper.gone:
                    self._tell(helper, {"do": "beat"})

    def _accept(self, listener: socket.socket) -> None:
        while not self._over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: all is over
                return
            threading.Thread(target=self._listen, args=(connection,), daemon=True, name="node").start()

    def _listen(self, connection: socket.socket) -> None:
        """Greet one node and hear what it says, to its end."""
        try:
            link, hello = answer(connection, self._token)
            rank = int(hello["rank"])
            helper = Helper(rank, str(hello["name"]), str(hello["via"]), link)
        except (OSError, KeyError, ValueError):  # a port scanner, or a node of another job
            connection.close()
            return
        with self._changed:
            known = self._helpers.get(rank)
            if not 0 < rank < self.count or (known and not known.gone):
                connection.close()
                return
            self._helpers[rank] = helper
            self._changed.notify_all()
        try:
            while True:
                message = link.receive(SILENCE_SECONDS)
                if message is not None:
                    self._hear(helper, message)
        except (OSError, ValueError) as problem:
            with self._changed:
                helper.gone = helper.gone or str(problem)
                self._changed.notify_all()

    def _hear(self, helper: Helper, message: Mapping[str, Any]) -> None:
        with self._changed:
            match message.get("say"):
                case "ended":
                    helper.ended = int(message["code"])
                case "failed":
                    helper.failed = str(message["what"])
                case "started":
                    helper.started = True
                case "dumped":
                    helper.dumped = True
                case "finished":
                    helper.finished = True
            self._changed.notify_all()


def bring_up(
    directory: Path,
    plan: Mapping[str, Any],
    attempt: int,
    nodes: int,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Nodes:
    """Gather the nodes of this allocation and bring up what the plan's launch asks for.

    stopped: asked while waiting; True gives up. Raises SchedulerError when the nodes do not come together,
    CheckFailed for a command that cannot run on several; the other nodes are sent home then.
    """
    placement = plan["placement"]
    made = Nodes(directory, plan, attempt, nodes)
    try:
        (directory / "logs" / "nodes").mkdir(parents=True, exist_ok=True)
        if placement["launch"] == "torchrun" and nodes > 1:
            torchrun_words(placement["argv"], 0, nodes, "", 0)
        made.gather(stopped)
        if placement["launch"] == "ray":
            made.start_ray(stopped)
        else:
            made.meet()
    except BaseException:
        made.close(int(signal.SIGTERM))
        dismiss(directory)
        raise
    return made


def _no_ray(where: str, log: Path, stopped: bool) -> SchedulerError:
    if stopped:
        return SchedulerError("asked to stop before Ray was up")
    return SchedulerError(f"Ray did not come up on {where}", where=str(log), next=f"tail -50 {log}")
