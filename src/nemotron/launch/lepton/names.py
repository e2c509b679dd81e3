"""Names as Lepton takes them: of jobs and clusters, of paths in commands, of variables."""

from __future__ import annotations

import hashlib
import re

from nemotron.errors import UsageError

# What Kubernetes adds to a job's name has to fit into 63 characters with it.
_LONGEST = 35
_PLAIN = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?", re.ASCII)
# A path that is the same in every shell, whoever forgets to quote it.
_PATH = re.compile(r"/[A-Za-z0-9._/@+=-]*", re.ASCII)


def job_id(run: str) -> str:
    """The id of a run's job: the run's own where that is a valid one, else what can be made of it.

    The same for the same run, and another for another: what is lost is made up for by a digest.
    """
    if len(run) <= _LONGEST and _PLAIN.fullmatch(run):
        return run
    plain = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    digest = hashlib.sha256(run.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    head = plain[: _LONGEST - 9].strip("-")
    return f"{head}-{digest}" if head[:1].isalpha() else f"run-{head[:22]}-{digest}".replace("--", "-")


def safe_path(path: str, where: str) -> str:
    """The path, for a command that others put together too. Raises UsageError for one that needs quotes."""
    if not _PATH.fullmatch(path) or ".." in path.split("/"):
        raise UsageError(
            f"{path[:100]!r} cannot be the directory of runs",
            where=where,
            valid=("an absolute path of letters, digits and . _ - + = @",),
        )
    return path.rstrip("/") or "/"
