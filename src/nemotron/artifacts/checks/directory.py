"""What a directory holds, as far as it lies in the directory."""

from __future__ import annotations

import os
from pathlib import Path

from .report import Problem, Report

# A download cache holds `blobs` beside `snapshots/REVISION`; a checkpoint may lie further in.
_CACHE_DEPTH = 6


def directory_names(path: Path, report: Report, *, below: str = "") -> frozenset[str] | None:
    """The names in a directory; None, with the reason reported, when it is none or cannot be listed.

    A link that leads out of the directory is reported and left out, so that nobody follows it; one into the
    blobs of a download cache stays. below: where `path` lies below the place of the report.
    """
    place = below.rstrip("/") or None
    try:
        with os.scandir(path) as entries:
            links = {entry.name: entry.is_symlink() for entry in entries}
        outside = sorted(name for name, link in links.items() if link and not _stays(path, name))
    except NotADirectoryError:
        what = "a file stands where a directory should be"
        report.add(Problem("artifact.not_a_directory", what), file=place)
    except OSError as exc:
        what = f"cannot be listed: {(exc.strerror or str(exc)).lower()}"
        report.add(Problem("artifact.unreadable", what), file=place)
    else:
        for name in outside:
            what = "a symbolic link that leads out of the directory"
            fix = "put a copy of the target in its place"
            report.add(Problem("artifact.link_outside", what, fix=fix), file=below + name)
        return frozenset(links).difference(outside)
    return None


def _stays(directory: Path, name: str) -> bool:
    """Whether a link ends below its directory, or in the `blobs` of the download cache that holds it."""
    home = Path(os.path.realpath(directory))
    target = Path(os.path.realpath(home / name))
    if home in target.parents:
        return True
    return any(target.parent == above / "blobs" for above in home.parents[:_CACHE_DEPTH])
