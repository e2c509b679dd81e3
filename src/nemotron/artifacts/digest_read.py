"""Reads files for their digests: all of a file or a sample of it, several large files at a time.

The formats are described in `digest`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol

from nemotron.errors import Conflict, NotFound

from .atomic import os_error
from .paths import printable
from .walk import WalkedFile

if TYPE_CHECKING:
    from blake3 import blake3

Progress = Callable[[int, int], None]

END_BYTES = 1 << 20
BLOCK_BYTES = 64 << 10
BLOCKS = 8
WHOLE_BYTES = 2 * END_BYTES + BLOCKS * BLOCK_BYTES

# Measured on 2 GiB in 8 files: 0.5 to 1 MiB cost the least CPU, 64 KiB with threads a sixth more.
_BUFFER = 1 << 20
# A thread to each of several files costs no more CPU than one for all; small files would be slower for it,
# since Python runs one thread at a time. Threads within one file, for a lone large one, cost 7 % more.
_THREADS_FROM = 1 << 20
_LONE_THREADS_FROM = 16 << 20
_MOST_THREADS = 8
_TICK_S = 0.1


class ContentCache(Protocol):
    """What `digest_path` asks of a memory of earlier digests; `digest_cache.DigestCache` is one."""

    def known(self, files: Sequence[WalkedFile], *, sampled: bool) -> list[bytes | None]:
        """For each file of one walk the 32 bytes known for its content, if its `stat` shows no change."""

    def put(self, file: WalkedFile, digest: bytes, *, now_ns: int, sampled: bool) -> None:
        """Remember the digest of `file`, which was read from the time `now_ns` on."""

    def flush(self) -> None:
        """Keep what was put."""


class _Read(NamedTuple):
    position: int
    digest: bytes
    now_ns: int


def read_contents(
    files: Sequence[WalkedFile], *, sampled: bool, cache: ContentCache | None, progress: Progress | None
) -> list[bytes]:
    """The 32 bytes that stand for the content of each file; those that `cache` knows are not read.

    `progress` is called, in the calling thread, with the bytes read and the bytes to be read.
    Raises `Conflict` when a file changes while it is read, `NotFound` when it goes away; see also `os_error`.
    """
    known: list[bytes | None] = [None] * len(files)
    if cache is not None:
        known = cache.known(files, sampled=sampled)
    return _Reader(files, known, sampled, cache, progress).run()


def sampled_parts(size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the parts of a file larger than `WHOLE_BYTES` that its sample consists of."""
    yield 0, END_BYTES
    stretch = (size - 2 * END_BYTES) // BLOCKS
    for number in range(BLOCKS):
        yield END_BYTES + number * stretch + (stretch - BLOCK_BYTES) // 2, BLOCK_BYTES
    yield size - END_BYTES, END_BYTES


class _Reader:
    def __init__(
        self,
        files: Sequence[WalkedFile],
        contents: list[bytes | None],
        sampled: bool,
        cache: ContentCache | None,
        progress: Progress | None,
    ) -> None:
        self._files, self._contents = files, contents
        self._sampled, self._cache = sampled, cache
        self._missing = [index for index, content in enumerate(contents) if content is None]
        self._meter = _Meter(sum(map(self._cost, self._missing)), progress)
        self._stop = False

    def run(self) -> list[bytes]:
        self._meter.begin()
        large = [index for index in self._missing if self._cost(index) >= _THREADS_FROM]
        threads = min(len(large), _MOST_THREADS, os.cpu_count() or 1)
        if threads > 1:
            few = set(large)
            self._read_in_threads(large, [i for i in self._missing if i not in few], threads)
        else:
            self._read_here(self._missing)
        if self._cache is not None:
            self._cache.flush()
        self._meter.end()
        return [content for content in self._contents if content is not None]

    def _cost(self, index: int) -> int:
        size = self._files[index].stat.st_size
        return min(size, WHOLE_BYTES) if self._sampled else size

    def _read_here(self, indices: list[int]) -> None:
        buffer = memoryview(bytearray(_BUFFER))
        for index in indices:
            self._take(self._read(index, buffer, self._meter.step, threads=True))

    def _read_in_threads(self, large: list[int], small: list[int], threads: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        pending, found = deque(large), SimpleQueue[_Read]()
        with ThreadPoolExecutor(threads) as pool:
            workers = [pool.submit(self._work, pending, found) for _ in range(threads)]
            try:
                self._read_here(small)
                left = len(large)
                while left and not self._stop:
                    try:
                        self._take(found.get(timeout=_TICK_S))
                        left -= 1
                    except Empty:
                        self._meter.step(0)
            finally:
                self._stop = True
        for worker in workers:
            worker.result()

    def _work(self, pending: deque[int], found: SimpleQueue[_Read]) -> None:
        buffer = memoryview(bytearray(_BUFFER))
        try:
            while True:
                found.put(self._read(pending.popleft(), buffer, self._tick, threads=False))
        except (IndexError, _Stopped):  # nothing left to read, or no need to
            return
        except BaseException:
            self._stop = True
            raise

    def _tick(self, count: int) -> None:
        if self._stop:
            raise _Stopped
        self._meter.add(count)

    def _take(self, read: _Read) -> None:
        self._contents[read.position] = read.digest
        if self._cache is not None:
            file = self._files[read.position]
            self._cache.put(file, read.digest, now_ns=read.now_ns, sampled=self._sampled)
        self._meter.step(0)

    def _read(self, index: int, buffer: memoryview, tick: Callable[[int], None], *, threads: bool) -> _Read:
        file, now_ns = self._files[index], time.time_ns()
        try:
            digest = _digest(file, self._sampled, buffer, tick, threads=threads)
        except FileNotFoundError as exc:
            what = "it went away while it was being read"
            raise NotFound(what, where=printable(file.path), next="try again") from exc
        except OSError as exc:
            raise os_error(exc, printable(file.path)) from exc
        return _Read(index, digest, now_ns)


class _Stopped(Exception):
    """Another thread has failed, or the user has interrupted."""


def _digest(
    file: WalkedFile, sampled: bool, buffer: memoryview, tick: Callable[[int], None], *, threads: bool
) -> bytes:
    size, expected = file.stat.st_size, _moment(file.stat)
    whole = not sampled or size <= WHOLE_BYTES
    hasher = _hasher(threads=threads and whole and size >= _LONE_THREADS_FROM)
    got = 0
    # Not blocking: a pipe may have taken the file's place since it was looked at.
    descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if _moment(os.fstat(descriptor)) == expected:
            for block in (_all_of if whole else _sample_of)(descriptor, size, buffer):
                hasher.update(block)
                got += len(block)
                tick(len(block))
    finally:
        os.close(descriptor)
    # By name, not by descriptor: this also sees another file that took the name.
    after = os.stat(file.path)  # noqa: PTH116 - names are bytes here, pathlib has none
    if got != (size if whole else WHOLE_BYTES) or _moment(after) != expected:
        what = "it changed while it was being read"
        raise Conflict(what, where=printable(file.path), next="try again when nothing writes to it")
    return hasher.digest()


def _all_of(descriptor: int, size: int, buffer: memoryview) -> Iterator[memoryview]:
    """Read, not mapped: a mapped file that somebody cuts short kills the process with SIGBUS."""
    got = 0
    # Also an empty file is read once: some mounted object stores give every size as 0.
    while (got == 0 or got < size) and (count := os.readv(descriptor, [buffer])):
        got += count
        yield buffer[:count]


def _sample_of(descriptor: int, size: int, buffer: memoryview) -> Iterator[memoryview]:
    for offset, length in sampled_parts(size):
        end = offset + length
        while offset < end and (count := os.preadv(descriptor, [buffer[: end - offset]], offset)):
            offset += count
            yield buffer[:count]


class _Meter:
    """Counts bytes from all threads; `begin`, `step` and `end` show them and belong to the calling thread."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress = total, progress
        self._done, self._due = 0, 0.0
        self._lock = Lock()

    def begin(self) -> None:
        self._show(0)

    def end(self) -> None:
        self._show(self._total)

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count

    def step(self, count: int) -> None:
        if self._progress is None:
            return
        self.add(count)
        if time.monotonic() >= self._due:
            # A file that grows is noticed at its end only.
            self._show(min(self._done, self._total))

    def _show(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self._total)
            self._due = time.monotonic() + _TICK_S


def _hasher(*, threads: bool) -> blake3:
    from blake3 import blake3

    return blake3(max_threads=blake3.AUTO) if threads else blake3()


def _moment(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
