"""Blocks mapped by Ray Data on all nodes of a cluster, for jobs whose profile says `ray_data = true`.

The nodes see the inputs under the same paths as the driver. What comes out is in the order of the blocks, so
that the outputs, which the driver writes, are those of a run on one machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from nemotron.errors import NemotronError, UsageError, WorkFailed

from .blocks import Block

Result = TypeVar("Result")

VARIABLE = "NEMOTRON_RAY_DATA"
"""Set in the environment of jobs that are to use Ray Data."""

# One data set: so many blocks at most, and so many bytes in those that carry theirs.
_BLOCKS, _BYTES = 4096, 128 << 20
# Tasks for each processor of the cluster: few enough to be worth starting, enough to even them out.
_TASKS = 4


class _Failed(NamedTuple):
    error: NemotronError


def is_asked_for() -> bool:
    """Whether this job is to use Ray Data."""
    return bool(os.environ.get(VARIABLE))


def mapped_by_ray(work: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
    """`work(block)` for every block, in the order of the blocks: see `map_blocks`.

    Raises UsageError where there is no Ray Data, WorkFailed when the cluster gives up.
    """
    data, processors, pack = _connected()
    from ray.exceptions import RayError

    task = _Task(pack(work))
    try:
        for window in _windows(blocks):
            items = data.from_items(window, override_num_blocks=min(len(window), _TASKS * processors))
            for row in items.map(task).iter_rows():
                result = pickle.loads(row["done"])  # noqa: S301 - packed below
                if isinstance(result, _Failed):
                    raise result.error
                yield result
    except RayError as problem:
        last = str(problem).strip().splitlines()[-1:] or [type(problem).__name__]
        raise WorkFailed(
            f"Ray Data gave up: {last[0]}", next="the log of the job holds the rest"
        ) from problem


class _Task:
    """What a worker of the cluster does with a row of a data set: a packed block in, a packed result out."""

    def __init__(self, work: bytes) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        block: Block = pickle.loads(row["block"])  # noqa: S301 - packed below
        if block.data is None:
            # Each machine has a number of its own for a file system that several have mounted.
            device = block.source.path.stat().st_dev
            source = replace(block.source, stamp=(device, *block.source.stamp[1:]))
            block = block._replace(source=source)
        result: Any
        try:
            result = _loaded(self._work)(block)
        except NemotronError as problem:
            result = _Failed(problem)
        return {"done": pickle.dumps(result)}


@lru_cache(maxsize=1)
def _loaded(work: bytes) -> Callable[[Block], Any]:
    """The work, once in a process: what it loads on its first block, such as a tokenizer, it keeps."""
    found: Callable[[Block], Any] = pickle.loads(work)  # noqa: S301 - packed above
    return found


def _connected() -> tuple[Any, int, Callable[[Any], bytes]]:
    """`ray.data` of the cluster whose job this is, its processors, and what packs a function of a script."""
    try:
        import ray.data as data
    except ImportError as problem:
        what = f"ray_data needs Ray Data in the Python of the job: {problem}"
        raise UsageError(what, where="ray_data", next="pip install 'ray[data]' on the cluster") from problem
    ray: Any = sys.modules["ray"]
    if not ray.is_initialized():
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        # Code that travels with a run is found by this variable, which workers do not get by themselves.
        path = os.environ.get("PYTHONPATH")
        environment = {"env_vars": {"PYTHONPATH": path}} if path else {}
        quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
        try:
            ray.init("auto", runtime_env=environment, **quiet)  # and never a cluster of its own
        except ConnectionError as problem:
            what = f"ray_data is for jobs of a Ray cluster, and none is found: {problem}"
            raise UsageError(what, where=VARIABLE, next=f"unset {VARIABLE}") from problem
    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    nodes = [each for each in ray.nodes() if each["Alive"]]
    processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
    told = f"Ray Data on {len(nodes)} node{'s' if len(nodes) > 1 else ''} with {processors} CPUs"
    print(told, file=sys.stderr, flush=True)
    return data, processors, ray.cloudpickle.dumps


def _windows(blocks: Iterable[Block]) -> Iterator[list[dict[str, bytes]]]:
    """Packed blocks, as many as make one data set."""
    window, carried = list[dict[str, bytes]](), 0
    for block in blocks:
        source = replace(block.source, path=block.source.path.absolute())
        window.append({"block": pickle.dumps(block._replace(source=source))})
        carried += len(block.data or b"")
        if len(window) >= _BLOCKS or carried >= _BYTES:
            yield window
            window, carried = [], 0
    if window:
        yield window
