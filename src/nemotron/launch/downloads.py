"""Files behind URLs, brought into the store when a run is launched: whole or not at all, each state once.

    STORE/fetched/KEY/NAME

KEY is a digest of the URL and of what its server says of the content (tags, sizes, times); of the content
itself where it says nothing. NAME is the last part of the URL.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from nemotron.artifacts.atomic import TEMPORARY_SUFFIX, os_error
from nemotron.artifacts.digest import digest_json, digest_path
from nemotron.artifacts.paths import printable
from nemotron.artifacts.remote import RemoteFile, is_http, list_remote, open_remote, translated
from nemotron.artifacts.urls import filled, redacted
from nemotron.errors import Conflict, SchedulerError, UsageError, WorkFailed

FETCHED = "fetched"

Progress = Callable[[int, int], None]

_BLOCK = 4 << 20
# One connection to an object store carries 50 to 100 MB/s; a model has dozens of files.
_AT_ONCE = 8
_NAME_BYTES = 200


def fetch_url(url: str, root: Path, environ: Mapping[str, str], progress: Progress | None = None) -> Path:
    """The file or directory at `url`, in the store directory `root`; not fetched when its state is there.

    url: `${oc.env:NAME}` in it is taken from `environ`. progress: called with bytes fetched and to be
    fetched, when the server tells how many there are.
    Raises NotFound, SchedulerError (network, server), Conflict (it changed meanwhile), CheckFailed (no driver
    for the URL, names that lead out of it), WorkFailed (the disk is full) and others of `atomic.os_error`.
    """
    source = filled(url, environ)
    place = root / FETCHED
    files = list_remote(source)
    name = _name(url)
    state = _state(files)
    known = all(file.identity is not None for file in files)
    with _alone(place, _key(url)):
        kept = place / _key(url, state)
        if known and (kept / name).exists():
            return kept / name
        temporary = place / f".{_key(url)}{TEMPORARY_SUFFIX}"
        _clear(temporary)
        try:
            _Download(source, files, temporary / name, progress).run()
            # What HTTP gives is one answer; elsewhere a file comes in pieces, and a directory in files.
            if not is_http(source) and _state(list_remote(source)) != state:
                raise Conflict("it changed while it was fetched", where=redacted(url), next="try again")
            if not known:
                kept = place / _key(url, digest_path(temporary).value)
            if not (kept / name).exists():
                _clear(kept)
                _rename(temporary, kept)
        finally:
            _clear(temporary)
    return kept / name


def _state(files: Sequence[RemoteFile]) -> list[list[str | int | None]]:
    return [[file.relpath, file.size, file.identity] for file in files]


def _key(url: str, *more: object) -> str:
    return digest_json([url, *more]).rpartition(":")[2][:32]


def _name(url: str) -> str:
    """The last part of the URL's path as a file name: trainers choose their reader by its end."""
    from urllib.parse import unquote

    path = redacted(url).partition("://")[2].partition("?")[0].partition("#")[0]
    _, _, below = path.rstrip("/").partition("/")
    last = below.rpartition("/")[2]
    if is_http(url):
        last = unquote(last, errors="replace")
    plain = "".join(c if c.isprintable() and c != "/" else "_" for c in last)
    # The end is what counts.
    plain = plain.encode("utf-8", "replace")[-_NAME_BYTES:].decode("utf-8", "ignore")
    return plain if plain.strip(". ") else "data"


class _Download:
    """Copies all files of one URL to one place, several at once."""

    def __init__(
        self, url: str, files: Sequence[RemoteFile], target: Path, progress: Progress | None
    ) -> None:
        self._url = url
        self._files = files
        self._target = target
        self._progress = progress
        sizes = [file.size for file in files]
        self._total = None if None in sizes else sum(size or 0 for size in sizes)
        self._done = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Copy them all. Errors: see `fetch_url`."""
        self._make(self._target.parent)
        self._refuse_too_large()
        if len(self._files) == 1:
            self._copy(self._files[0])
            return
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            copies = [threads.submit(self._copy, file) for file in self._files]
            try:
                for copy in as_completed(copies):
                    copy.result()
            finally:
                self._stopped.set()
                threads.shutdown(cancel_futures=True)

    def _refuse_too_large(self) -> None:
        free = shutil.disk_usage(self._target.parent).free
        if self._total is not None and self._total > free:
            raise WorkFailed(
                f"{self._total} bytes to fetch and {free} bytes free",
                where=printable(self._target.parent.parent),
                next="free space there, or write elsewhere (NEMOTRON_HOME=DIR moves the store)",
            )

    def _copy(self, file: RemoteFile) -> None:
        target = self._target / file.relpath if file.relpath else self._target
        self._make(target.parent)
        count = 0
        with _own_errors(target), target.open("xb") as kept, open_remote(self._url, file) as stream:
            while not self._stopped.is_set():
                with translated(self._url):
                    block = stream.read(_BLOCK)
                if not block:
                    break
                kept.write(block)
                count += len(block)
                self._tell(len(block))
            kept.flush()
            os.fsync(kept.fileno())
        if file.size is not None and count != file.size and not self._stopped.is_set():
            raise SchedulerError(
                f"the connection ended after {count} of {file.size} bytes",
                where=redacted(self._url) + (f" ({printable(file.relpath)})" if file.relpath else ""),
                next="try again",
            )

    def _tell(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress is not None and self._total is not None:
                self._progress(min(self._done, self._total), self._total)

    def _make(self, directory: Path) -> None:
        with _own_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _own_errors(path: Path) -> Iterator[None]:
    """Problems of the disk here, told as such."""
    try:
        yield
    except OSError as problem:
        raise os_error(problem, path) from problem


def _clear(directory: Path) -> None:
    """Remove what an earlier client left half done."""
    shutil.rmtree(directory, ignore_errors=True)


def _rename(temporary: Path, kept: Path) -> None:
    with _own_errors(kept):
        temporary.rename(kept)


@contextlib.contextmanager
def _alone(place: Path, key: str) -> Iterator[None]:
    """One process at a time fetches one URL; the others then find it."""
    file = place / f".{key}.lock"
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileExistsError as problem:
        what = "a file stands where the store's directory should be"
        raise UsageError(what, where=printable(place), next="move that file away") from problem
    except OSError as problem:
        raise os_error(problem, place) from problem
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
