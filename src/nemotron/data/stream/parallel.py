"""One function over all blocks of all inputs: in order, in several processes, in constant memory."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from nemotron.errors import UsageError, WorkFailed

from .blocks import Block

Result = TypeVar("Result")

# Blocks on their way for each process: one that is worked on, one that waits.
_AHEAD = 2
# What processes are worth starting for, in bytes.
_WORTH = 8 << 20


def processors() -> int:
    """How many processes this one may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_blocks(
    work: Callable[[Block], Result], blocks: Iterable[Block], *, workers: int | None = None
) -> Iterator[Result]:
    """`work(block)` for every block, in the order of the blocks.

    work: sees one block and nothing else, so that where and beside what it runs decides nothing; it and its
    results can be pickled. workers: processes, as many as there are processors when None; with 1, or for a
    few blocks, everything is done here. At most two blocks for each process are in memory.

    An error in `work` is raised here, at its block. `WorkFailed` when a process dies, `UsageError` for a
    number of workers that is none.
    """
    workers = processors() if workers is None else workers
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise UsageError(f"workers is {workers!r}, not a whole number from 1", where="workers")
    rest = iter(blocks)
    if workers < 2:
        yield from map(work, rest)
        return
    first, size = list[Block](), 0
    for block in rest:
        first.append(block)
        size += block.size
        if size >= _WORTH:
            break
    if size < _WORTH:
        yield from map(work, first)
    else:
        yield from _mapped(work, chain(first, rest), workers)


def _mapped(work: Callable[[Block], Result], blocks: Iterator[Block], workers: int) -> Iterator[Result]:
    # A fork shares what is imported already; beside threads it may hold locks that nobody gives back.
    method = "fork" if _is_single_threaded() else "spawn"
    context = get_context(method)
    parent_lives, end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        workers, context, _begin, (work, parent_lives, end if method == "fork" else None)
    )
    waiting: deque[Future[Any]] = deque()
    try:
        for block in blocks:
            waiting.append(pool.submit(_call, block))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as exc:
        what = "a worker process died; most often the memory was too small for it"
        raise WorkFailed(what, next="fewer workers, or more memory") from exc
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        end.close()
        parent_lives.close()


def _is_single_threaded() -> bool:
    tasks = Path("/proc/self/task")
    return tasks.is_dir() and len(list(tasks.iterdir())) == 1


class _Job:
    """What this worker process does; set once, before its first block."""

    work: Callable[[Block], Any]


def _begin(work: Callable[[Block], Any], parent_lives: Connection, end: Connection | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends this process
    if end is not None:
        end.close()
    # Rows are trees, which need no search for cycles: it took a third of the time.
    gc.disable()
    _Job.work = staticmethod(work)
    threading.Thread(target=_end_with_parent, args=(parent_lives,), daemon=True).start()


def _end_with_parent(parent_lives: Connection) -> None:
    """End this process when its parent does, even when that was killed and could tell nobody."""
    try:
        parent_lives.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _call(block: Block) -> Any:
    return _Job.work(block)
