"""Files behind a URL, read: plain HTTP with the standard library, everything else through fsspec.

fsspec's own HTTP wants aiohttp and five packages below it, for what urllib does.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any, TypeVar

from nemotron.artifacts.urls import redacted, scrubbed
from nemotron.errors import CheckFailed, NemotronError, NotFound, SchedulerError

SECONDS = 30.0  # without a byte, a connection is given up
_HTTP = ("http", "https")
_DRIVERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("s3", "s3a"), "'nemotron[s3]'"),
        **dict.fromkeys(("gs", "gcs"), "gcsfs"),
        **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
        **{"oci": "ocifs", "oss": "ossfs", "sftp": "paramiko", "hdfs": "pyarrow", "webhdfs": "requests"},
    }
)
# What file systems call the thing that changes when a file does.
_IDENTITY = (
    *("ETag", "etag", "generation", "md5Hash", "content_md5", "version_id", "checksum"),
    *("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "modificationTime", "modify"),
    *("created",),
)
_BLOCK = 8 << 20
_FILES = 200_000
_REASON = 200

Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteFile:
    """One file behind a URL.

    relpath: below the URL; empty when the URL is the file. place: where `open_remote` finds it.
    size: in bytes, None when the server does not tell.
    identity: changes when the content does; None when nothing tells.
    """

    relpath: str
    place: str
    size: int | None
    identity: str | None


def is_http(url: str) -> bool:
    """Whether a URL names one answer of a web server, not files."""
    return url.partition("://")[0].lower() in _HTTP


def open_file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. Raises CheckFailed when its driver is missing."""
    import fsspec

    scheme = url.partition("://")[0].lower()
    options: dict[str, Any] = {}
    if scheme in ("s3", "s3a"):
        # botocore's own are a minute each, five times over.
        options["config_kwargs"] = {
            "connect_timeout": 10,
            "read_timeout": SECONDS,
            "retries": {"max_attempts": 2},
        }
    with translated(url):
        file_system, path = fsspec.core.url_to_fs(url, **options)
    return file_system, path


def list_remote(url: str) -> tuple[RemoteFile, ...]:
    """The file at a URL, or all files of the directory there, by path.

    Raises NotFound; SchedulerError for what the network or the server refuses; CheckFailed for a missing
    driver and for names that lead out of the directory.
    """
    if is_http(url):
        with _http(url) as response:
            return (RemoteFile("", url, _http_size(response), _http_identity(response)),)
    file_system, root = open_file_system(url)
    with translated(url):
        file_system.invalidate_cache()
        info = file_system.info(root)
        if info.get("type") != "directory":
            return (RemoteFile("", root, _size(info), file_identity(info)),)
        found = file_system.find(root, detail=True)
    if not found:
        raise NotFound("there is no file below this URL", where=redacted(url))
    if len(found) > _FILES:
        raise CheckFailed(
            f"{len(found)} files, more than {_FILES}", where=redacted(url), next="name one part of it"
        )
    start = root.rstrip("/") + "/"
    files = [
        RemoteFile(_inside(name, start, url), name, _size(info), file_identity(info))
        for name, info in sorted(found.items())
        if not name.endswith("/")
    ]
    return tuple(files)


def _inside(name: str, start: str, url: str) -> str:
    relpath = name.removeprefix(start)
    if not name.startswith(start) or "\0" in relpath or any(p in ("", ".", "..") for p in relpath.split("/")):
        raise CheckFailed(
            f"a name that leads out of the directory: {relpath[:_REASON]!r}",
            where=redacted(url),
            next="rename it there, or fetch what you need by hand",
        )
    return relpath


@contextlib.contextmanager
def open_remote(url: str, file: RemoteFile) -> Iterator[IO[bytes]]:
    """A stream of the bytes of one of the files of `list_remote(url)`. Errors as there."""
    if is_http(url):
        with _http(url) as response:
            yield response
        return
    file_system, _ = open_file_system(url)
    with translated(url):
        stream = file_system.open(file.place, "rb", block_size=_BLOCK)
    with stream:
        yield stream


def remote_size(url: str, seconds: float) -> int | None:
    """How many bytes there are, when that is known within `seconds`; None otherwise, whatever the reason.

    Raises CheckFailed when the driver for the URL is missing.
    """
    if not is_http(url):
        require_driver(url)

    def ask() -> int | None:
        try:
            sizes = [file.size for file in list_remote(url)]
        except NemotronError:
            return None  # the launch says why
        return None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)

    return _within(seconds, ask) if seconds > 0 else None


def require_driver(url: str) -> None:
    """Raise CheckFailed when nothing is installed that reads this kind of URL."""
    import fsspec

    with translated(url):
        fsspec.get_filesystem_class(url.partition("://")[0].lower())


def _within(seconds: float, work: Callable[[], Result]) -> Result | None:
    """What `work` returns, or None when that takes longer; it is left to itself then."""
    found: list[Result] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


@contextlib.contextmanager
def _http(url: str) -> Iterator[IO[bytes]]:
    import http.client
    import urllib.error
    import urllib.parse
    import urllib.request

    address = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    # A GET, not a HEAD: addresses that are signed for reading refuse any other question.
    request = urllib.request.Request(
        address, headers={"User-Agent": "nemotron", "Accept-Encoding": "identity"}
    )
    try:
        response = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as problem:
        problem.close()
        raise _http_refusal(url, problem.code, problem.reason) from problem
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise remote_error(problem, url) from problem
    with response:
        yield response


def _http_refusal(url: str, code: int, reason: object) -> NemotronError:
    said = f"the server answers {code} {scrubbed(str(reason))[:_REASON]}".rstrip()
    if code in (404, 410):
        return NotFound(said, where=redacted(url))
    if code in (401, 403):
        return SchedulerError(
            said, where=redacted(url), next="check that you may read it, or that the link is valid still"
        )
    return SchedulerError(said, where=redacted(url), next="try again, or give a path instead")


def _http_size(response: Any) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None


def _http_identity(response: Any) -> str | None:
    told = [
        f"{name}={response.headers[name]}" for name in ("ETag", "Last-Modified") if response.headers[name]
    ]
    return " ".join(told) or None


def _size(info: Mapping[str, Any]) -> int | None:
    size = info.get("size")
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def file_identity(info: Mapping[str, Any]) -> str | None:
    """What changes when the file does, from fsspec's `info` or `ls`; None when nothing tells."""
    told = [f"{name}={info[name]}" for name in _IDENTITY if info.get(name) not in (None, "")]
    return " ".join([*told, f"size={info.get('size')}"]) if told else None


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turns what a file system of somebody else's raises into an error of ours, without credentials."""
    try:
        yield
    except NemotronError:
        raise
    except Exception as problem:
        # Every driver has error classes of its own, which cannot be named without importing it.
        raise remote_error(problem, url) from problem


def remote_error(problem: Exception, url: str) -> NemotronError:
    """The error that tells what `problem`, raised by a file system, means for `url`."""
    where = redacted(url)
    scheme = where.partition("://")[0]
    if isinstance(problem, ImportError) or "rotocol not known" in str(problem):
        driver = _DRIVERS.get(scheme)
        return CheckFailed(
            f"nothing here reads {scheme}:// ({str(problem)[:_REASON]})",
            where=where,
            next=f"pip install {driver}" if driver else "install the fsspec driver for it",
        )
    if isinstance(problem, FileNotFoundError):
        return NotFound("there is nothing at this URL", where=where)
    said = scrubbed(str(problem)).replace(url, where).splitlines()
    reason = f"{type(problem).__name__}: {said[0] if said else ''}"[:_REASON].rstrip(": ")
    if isinstance(problem, PermissionError) or "redentials" in type(problem).__name__:
        return SchedulerError(
            f"{scheme}:// refuses ({reason})",
            where=where,
            next="set its credentials (AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, ...)",
        )
    return SchedulerError(
        f"{scheme}:// does not answer ({reason})", where=where, next="is there a network? then try again"
    )
