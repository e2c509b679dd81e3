"""Where runs and records live: a directory, found from the environment or from the project around us."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nemotron.errors import Conflict, NotFound, UsageError, nearest

from .atomic import os_error
from .paths import printable

PROJECT_MARKERS = ("nemotron.toml", "env.toml", "pyproject.toml", ".git")
STORE_NAME = ".nemotron"
# Kinds of URL under which records can be kept: they can be written to and listed.
REMOTE_SCHEMES = (
    *("s3", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "hdfs", "webhdfs", "sftp", "file", "memory"),
)

_RUN_ID = re.compile(r".+-(\d{8}-\d{6})-[0-9a-f]{4}")
_ATTEMPTS, _CROWD = 64, 8
_SHOWN = 12


@dataclass(frozen=True)
class Store:
    """A store directory; it is made when the first run is.

    remote: the URL under which its records are kept too, for others; see `mirror.sync_records`.
    """

    root: Path
    remote: str | None = None

    @property
    def runs_dir(self) -> Path:
        """One directory a run, named by the run's id."""
        return self.root / "runs"

    @property
    def records_dir(self) -> Path:
        """One directory a day, see `records.write_record`."""
        return self.root / "records"

    @property
    def recipes_dir(self) -> Path:
        """Which runs a recipe has, see `runs.mark_recipe`; made again from the runs when it is missing."""
        return self.root / "recipes"

    def new_run_dir(self, step_id: str, now: datetime) -> Path:
        """Make and return the directory of a new run; its name is the run's id.

        The id is `<first and last part of step_id>-YYYYMMDD-HHMMSS-<4 hex>` in UTC; a `now` without time
        zone is local time. The first two hex digits are 256ths of the second, so that ids sort by their time,
        the others are drawn; in a crowd all four are. No two calls return the same directory, in any number
        of processes. Errors: see `os_error`.
        """
        stem = f"{_stem(step_id)}-{now.astimezone(UTC):%Y%m%d-%H%M%S}"
        try:
            self.runs_dir.mkdir(parents=True, exist_ok=True)
        except FileExistsError as exc:
            # What mkdir says of a file that stands in the place of the directory itself.
            what = "a file stands where the store's directory should be"
            where = printable(self.runs_dir)
            raise UsageError(what, where=where, next="move that file away") from exc
        except OSError as exc:
            raise os_error(exc, self.runs_dir) from exc
        part = now.microsecond * 256 // 1_000_000
        for attempt in range(_ATTEMPTS):
            drawn = os.urandom(2).hex()
            directory = self.runs_dir / f"{stem}-{drawn if attempt > _CROWD else f'{part:02x}{drawn[2:]}'}"
            try:
                directory.mkdir()
            except FileExistsError:
                continue
            except OSError as exc:
                raise os_error(exc, directory) from exc
            return directory
        raise Conflict(f"no free run id for {stem}", where=printable(self.runs_dir), next="try again")

    def run_ids(self) -> tuple[str, ...]:
        """The ids of all runs, newest first; directories whose name holds no time come last."""
        try:
            with os.scandir(self.runs_dir) as entries:
                names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise os_error(exc, self.runs_dir) from exc
        return tuple(sorted(names, key=age, reverse=True))

    def runs_of_step(self, step_id: str, limit: int) -> tuple[Path, ...]:
        """The directories of the newest runs of a step, newest first, told by their names alone.

        Steps whose first and last parts agree share names: look into the run before relying on it.
        """
        named = re.compile(rf"{re.escape(_stem(step_id))}-\d{{8}}-\d{{6}}-[0-9a-f]{{4}}")
        try:
            with os.scandir(self.runs_dir) as entries:
                names = [e.name for e in entries if named.fullmatch(e.name)]
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise os_error(exc, self.runs_dir) from exc
        return tuple(self.runs_dir / name for name in sorted(names, key=age, reverse=True)[:limit])

    def run_dir(self, prefix: str) -> Path:
        """The directory of the run whose id is `prefix`, or the only one that begins with it.

        Errors: `NotFound` with the nearest ids; `UsageError` when several runs begin with `prefix`.
        """
        listing = "nemotron runs list"
        if not prefix:
            raise UsageError("the run id is empty", next=listing)
        ids = self.run_ids()
        if prefix in ids:
            return self.runs_dir / prefix
        found = [run_id for run_id in ids if run_id.startswith(prefix)]
        if not found:
            like = nearest(prefix, ids) or ids[:1]
            what = f"no run {printable(prefix)}"
            raise NotFound(what, where=printable(self.runs_dir), nearest=like, next=listing)
        if len(found) > 1:
            what = f"{len(found)} runs begin with {prefix}"
            more = ("...",) if len(found) > _SHOWN else ()
            raise UsageError(what, valid=(*found[:_SHOWN], *more), next="type more of the id")
        return self.runs_dir / found[0]


def find_store(environ: Mapping[str, str], cwd: Path) -> Store:
    """The store for a command that runs in `cwd`; nothing is made or read.

    `NEMOTRON_HOME`, else `.nemotron` beside the nearest project marker upward from `cwd`, else
    `.nemotron` in `cwd`. A `NEMOTRON_HOME` that is a URL is where the records are kept; runs and a copy of
    the records lie in `$XDG_STATE_HOME/nemotron/stores/` then. Raises `UsageError` for a `NEMOTRON_HOME` that
    no store can have.
    """
    home = environ.get("NEMOTRON_HOME")
    if home:
        return _remote(home.strip(), environ) if "://" in home else Store(_home(home, cwd))
    start = cwd.absolute()
    for directory in (start, *start.parents):
        if any(_exists(directory / marker) for marker in PROJECT_MARKERS):
            return Store(directory / STORE_NAME)
    return Store(start / STORE_NAME)


def _home(home: str, cwd: Path) -> Path:
    where = "NEMOTRON_HOME"
    try:
        return cwd.absolute() / Path(home).expanduser()
    except RuntimeError as exc:
        raise UsageError(f"no home directory for {home}", where=where, next="write the path in full") from exc


def _remote(url: str, environ: Mapping[str, str]) -> Store:
    """The store of a URL: its directory here is named by a digest of it."""
    # Some milliseconds that stores in directories do not need.
    import hashlib

    from .urls import redacted, refuse_secrets

    where = "NEMOTRON_HOME"
    scheme, _, place = url.partition("://")
    scheme = scheme.lower()
    refuse_secrets(url, where=where)
    if scheme not in REMOTE_SCHEMES:
        known = tuple(f"{each}://" for each in REMOTE_SCHEMES)
        near = nearest(f"{scheme}://", known)
        what = f"{scheme}:// is no kind of store"
        raise UsageError(what, where=where, nearest=near, valid=("a directory", *known))
    if not place.strip("/") or re.search(r"[?#*\[\]\s\x00-\x1f]", place):
        what = f"no place for a store: {printable(redacted(url))}"
        raise UsageError(what, where=where, next="name a bucket and a prefix: s3://BUCKET/PREFIX")
    url = f"{scheme}://{place.rstrip('/')}"
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    state = environ.get("XDG_STATE_HOME") or ""
    try:
        base = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    except RuntimeError as exc:
        raise UsageError("no home directory for the runs", where=where, next="set XDG_STATE_HOME") from exc
    return Store(base / "nemotron" / "stores" / digest, url)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # a parent that we may not look into holds no project of ours


def _stem(step_id: str) -> str:
    """The part of a step id that a run id begins with: safe in file names and on command lines."""
    parts = re.split(r"[/:]", step_id.rstrip("/"))
    # The last part alone says little: `sft/nemo_rl` and `rm/nemo_rl` end alike.
    ends = parts if len(parts) < 2 else (parts[0], parts[-1])
    return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(ends)).strip("-.")[:64] or "run"


def age(run_id: str) -> tuple[str, str]:
    """What runs are sorted by, the oldest first: time in the id, then id; without a time it is oldest."""
    stamp = _RUN_ID.fullmatch(run_id)
    return (stamp[1] + run_id[-4:] if stamp else "", run_id)
