"""How a check reports: the first findings in full, all of them counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nemotron.findings import Finding

from ..paths import printable  # noqa: TID252 - the rooms that jobs carry import each other relatively

_SHOWN_VALUE = 40


class Problem(NamedTuple):
    """One thing wrong, not yet tied to a place."""

    id: str
    message: str
    severity: str = "error"
    valid: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class Checked:
    """What a check found at one location.

    type: the artifact type it was checked as.
    findings: the first ones of each severity in full, and a note when more were counted.
    facts: what is known without loading weights: JSON values. `errors` and `warnings` count the findings,
    `findings` counts them by id.
    """

    type: str
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the location holds an artifact of the type: no error was found."""
        return not self.facts["errors"]


class Report:
    """Collects the problems of one location: the first `limit` of each severity in full, the rest counted."""

    def __init__(self, path: Path, limit: int) -> None:
        self.place = printable(path)
        self._limit = max(limit, 1)  # an error must never be counted only: callers look at the findings
        self._kept: list[Finding] = []
        self._by_severity: Counter[str] = Counter()
        self._by_id: Counter[str] = Counter()

    def add(self, problem: Problem, *, line: int | None = None, file: str | None = None) -> None:
        """Count a problem, at a line of the file or at a file below the directory."""
        self._by_id[problem.id] += 1
        self._by_severity[problem.severity] += 1
        if self._by_severity[problem.severity] > self._limit:
            return
        where = self.place + (f"/{printable(file)}" if file else "") + (f":{line}" if line else "")
        self._kept.append(
            Finding(problem.id, problem.severity, problem.message, where, problem.valid, problem.fix)
        )

    @property
    def errors(self) -> int:
        """How many errors were found."""
        return self._by_severity["error"]

    def checked(self, type_name: str, facts: Mapping[str, Any]) -> Checked:
        """The result, with the counts added to `facts`."""
        findings = list(self._kept)
        left = self._by_id - Counter(finding.id for finding in findings)
        if left:
            listed = ", ".join(f"{count} {name}" for name, count in left.most_common())
            what = f"{left.total()} more findings not listed: {listed}"
            findings.append(Finding("artifact.more_findings", "note", what, self.place))
        counts = {
            "errors": self._by_severity["error"],
            "warnings": self._by_severity["warning"],
            "findings": dict(sorted(self._by_id.items())),
        }
        return Checked(type_name, tuple(findings), {**facts, **counts})


def shown(value: object) -> str:
    """A value of an untrusted file, short and printable."""
    if isinstance(value, dict | list):
        return f"{kind(value)} of {len(value)}"
    text = repr(value[: _SHOWN_VALUE + 1] if isinstance(value, str) else value)
    text = text.encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= _SHOWN_VALUE else text[:_SHOWN_VALUE] + "..."


def clipped(text: str, length: int = 200) -> str:
    """A string of an untrusted file as a fact: not long, and without halves of characters."""
    return text[:length].encode("utf-8", "backslashreplace").decode("utf-8")


def kind(value: object) -> str:
    """The JSON type of a value, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def wrong_type(where: str, wanted: str, value: object) -> Problem:
    """A field that holds a value of another type than it should."""
    return Problem("data.wrong_type", f"{where} is {kind(value)}, not {wanted}")


def missing(where: str, valid: str | None = None) -> Problem:
    """A field that is not there."""
    return Problem("data.missing_field", f"{where} is missing", valid=valid)
