"""The errors a user can cause, and the exit code of each kind.

An error says what is wrong, where, what would be valid (nearest first) and what to type next. The
command line prints it without a traceback; anything that is not a `NemotronError` is our bug.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nemotron.findings import Finding

# Of a command that was asked to stop, as a shell tells it: 128 and SIGINT.
EXIT_INTERRUPTED = 130


class NemotronError(Exception):
    """Base of every error that a user's input or environment causes.

    Parameters
    ----------
    what: one sentence, no trailing full stop.
    where: file (with line) or config key that is at fault.
    nearest: valid choices close to what was given, best first.
    valid: all valid choices, when they are few enough to read.
    next: a command to type, or one thing to do.
    findings: what a check found, where the error sums up several.
    """

    exit_code = 1
    kind = "failed"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        nearest: Sequence[str] = (),
        valid: Sequence[str] = (),
        next: str | None = None,
        findings: Sequence[Finding] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.nearest = tuple(nearest)
        self.valid = tuple(valid)
        self.next = next
        self.findings = tuple(findings)

    def render(self) -> str:
        """The error as the command line prints it, several lines, no colour."""
        lines = [f.render() for f in self.findings]
        lines += [f"error: {self.what}" + (f" ({self.where})" if self.where else "")]
        if self.nearest:
            lines.append("  nearest: " + ", ".join(self.nearest))
        if self.valid:
            lines.append("  valid: " + ", ".join(self.valid))
        if self.next:
            lines.append("  next: " + self.next)
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """The error as `--json` prints it."""
        return {
            "kind": self.kind,
            "what": self.what,
            "where": self.where,
            "nearest": list(self.nearest),
            "valid": list(self.valid),
            "next": self.next,
            "exit_code": self.exit_code,
            "findings": [f.as_dict() for f in self.findings],
        }


class WorkFailed(NemotronError):
    """The work itself failed: a trainer ended with an error."""


class UsageError(NemotronError):
    """Wrong command line or config."""

    exit_code = 2
    kind = "usage"


class NotFound(NemotronError):
    """A named thing does not exist: step, config, run, file."""

    exit_code = 3
    kind = "not_found"


class CheckFailed(NemotronError):
    """A contract or a check is violated: wrong type, broken file, impossible arithmetic."""

    exit_code = 4
    kind = "check"


class Conflict(NemotronError):
    """Somebody else holds it, or it exists already and differs."""

    exit_code = 5
    kind = "conflict"


class SchedulerError(NemotronError):
    """The scheduler or the network did not do what was asked."""

    exit_code = 6
    kind = "scheduler"


def nearest(word: str, choices: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """The choices most like `word`, best first; last parts count too, so `rlhf` finds `rl/nemo_rl/rlhf`."""
    import difflib  # a millisecond, and only for who mistyped

    pool = list(dict.fromkeys(choices))
    exact_tail = [c for c in pool if c.replace("/", ".").split(".")[-1] == word]
    close = difflib.get_close_matches(word, pool, n=limit, cutoff=0.6)
    tails = {c.replace("/", ".").split(".")[-1]: c for c in pool}
    by_tail = [tails[t] for t in difflib.get_close_matches(word, list(tails), n=limit, cutoff=0.75)]
    return tuple(dict.fromkeys([*exact_tail, *close, *by_tail]))[:limit]
