"""One function over all blocks of all inputs: in order, in several processes, in constant memory."""

from __future__ import annotations

import gc
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from nemotron.errors import UsageError, WorkFailed

from .blocks import Block
from .held import Files, Held, Write
from .ray_stage import is_asked_for, mapped_by_ray

Result = TypeVar("Result")

# Blocks on their way for each process: one that is worked on, one that waits.
_AHEAD = 2
# What processes are worth starting for, in bytes.
_WORTH = 8 << 20
# How long a process may take to end once nobody listens to it.
_END_SECONDS = 5.0


def processors() -> int:
    """How many processes this one may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_blocks(
    work: Callable[[Block], Result], blocks: Iterable[Block], *, workers: int | None = None
) -> Iterator[Result]:
    """`work(block)` for every block, in the order of the blocks.

    work: sees one block and nothing else, so that where and beside what it runs decides nothing; it and its
    results can be pickled. workers: processes, as many as there are processors when None; with 1, or for a
    few blocks, everything is done here. At most three blocks for each process are in memory.

    Of results that are `Held` the bytes stay where they were made, and are written as the caller says: by
    the time there is no further result all of it is done.

    In a job that is to use Ray Data, its workers are those of the cluster: see `ray_stage`.

    An error in `work` is raised here, at its block. `WorkFailed` when a process dies, `UsageError` for a
    number of workers that is none.
    """
    workers = processors() if workers is None else workers
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise UsageError(f"workers is {workers!r}, not a whole number from 1", where="workers")
    rest = iter(blocks)
    if is_asked_for():
        yield from written_here(mapped_by_ray(work, rest))
        return
    if workers < 2:
        yield from written_here(map(work, rest))
        return
    first, size = list[Block](), 0
    for block in rest:
        first.append(block)
        size += block.size
        if size >= _WORTH:
            break
    if size < _WORTH:
        yield from written_here(map(work, first))
    else:
        yield from _mapped(work, chain(first, rest), workers)


def written_here(results: Iterable[Result]) -> Iterator[Result]:
    """Results that were made here, as `map_blocks` gives them."""
    files = Files()
    try:
        for result in results:
            held = _let_go(result)
            yield result
            if isinstance(result, Held):
                files.write(held, result.writes)
    finally:
        files.close()


def _let_go(result: Any) -> dict[str, bytes]:
    """Take from a result the bytes that it holds."""
    if not isinstance(result, Held):
        return {}
    held, result.held = result.held, {}
    result.sizes = {name: len(data) for name, data in held.items()}
    return held


class _Failed(NamedTuple):
    error: Exception


class _Ended(NamedTuple):
    """A process has done all that it was told."""


class _Worker:
    """A process, as its parent sees it."""

    def __init__(self, context: Any, work: Callable[[Block], Any], others: Iterable[_Worker]) -> None:
        self._connection, end = context.Pipe()
        # What a fork takes along: while a brother holds its pipe, a process does not see its parent end.
        inherited = context.get_start_method() == "fork"
        extra = (self._connection, *(other._connection for other in others)) if inherited else ()
        self._process = context.Process(target=_serve, args=(work, end, extra), daemon=True)
        self._process.start()
        end.close()

    def send(self, order: Block | tuple[Write, ...] | None) -> None:
        """A block to work on, what to write of the oldest result not written yet, or None at the end."""
        try:
            self._connection.send(order)
        except OSError:
            return  # the process is gone: `receive` says why

    def receive(self) -> Any:
        """What comes back: the result of a block, `_Ended` after the end. Raises what went wrong."""
        try:
            found = self._connection.recv()
        except (EOFError, OSError) as exc:
            what = "a worker process died; most often the memory was too small for it"
            raise WorkFailed(what, next="fewer workers, or more memory") from exc
        if isinstance(found, _Failed):
            raise found.error
        return found

    def hang_up(self) -> None:
        """Whatever the process does, it is to end."""
        self._connection.close()

    def join(self) -> None:
        """Wait for its end."""
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _mapped(work: Callable[[Block], Result], blocks: Iterator[Block], count: int) -> Iterator[Result]:
    # A fork shares what is imported already; beside threads it may hold locks that nobody gives back.
    context = get_context("fork" if _is_single_threaded() else "spawn")
    workers = list[_Worker]()
    waiting: deque[_Worker] = deque()
    try:
        for _ in range(count):
            workers.append(_Worker(context, work, workers))
        for block, worker in zip(blocks, cycle(workers), strict=False):
            worker.send(block)
            waiting.append(worker)
            if len(waiting) > _AHEAD * count:
                yield from _next(waiting.popleft())
        while waiting:
            yield from _next(waiting.popleft())
        for worker in workers:
            worker.send(None)
        for worker in workers:
            worker.receive()
    finally:
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.join()


def _next(worker: _Worker) -> Iterator[Any]:
    result = worker.receive()
    yield result
    if isinstance(result, Held):
        worker.send(tuple(result.writes))


def _is_single_threaded() -> bool:
    tasks = Path("/proc/self/task")
    return tasks.is_dir() and len(list(tasks.iterdir())) == 1


def _serve(work: Callable[[Block], Any], parent: Connection, inherited: Iterable[Connection]) -> None:
    """What a worker process does until it is told the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends this process
    for connection in inherited:
        connection.close()
    # Rows are trees, which need no search for cycles: it took a third of the time.
    gc.disable()
    orders: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(parent, orders), daemon=True).start()
    files, unwritten = Files(), deque[dict[str, bytes]]()
    try:
        while (order := orders.get()) is not None:
            if type(order) is tuple:
                files.write(unwritten.popleft(), order)
                continue
            result = work(order)
            if isinstance(result, Held):
                unwritten.append(_let_go(result))
            parent.send(result)
        files.close()
        parent.send(_Ended())
    except Exception as exc:  # noqa: BLE001 - raised again, in the parent
        _tell(parent, exc)


def _tell(parent: Connection, exc: Exception) -> None:
    """Send an error to the parent, with where it was; as words, where it cannot be sent."""
    exc.add_note("".join(traceback.format_tb(exc.__traceback__)))
    try:
        parent.send(_Failed(exc))
    except OSError:
        os._exit(1)  # nobody is left to be told
    except Exception as unsendable:  # noqa: BLE001 - pickling raises whatever its objects raise
        parent.send(_Failed(WorkFailed(f"a worker process failed: {exc!r:.500} ({unsendable!r:.100})")))


def _listen(parent: Connection, orders: SimpleQueue[Any]) -> None:
    """Take orders at once, so that nobody waits to send one. Ends this process with its parent, even when
    that was killed and could tell nobody."""
    try:
        while True:
            orders.put(parent.recv())
    except (EOFError, OSError):
        os._exit(1)
