"""What a check found: one shape for catalog lint, config rules and artifact checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing a check found.

    id: stable name of the check, `room.what` (`data.broken_line`); `--waive` takes it.
    severity: `error` stops a launch, `warning` and `note` do not.
    message: what is wrong, one sentence.
    where: file (with line), config key or port.
    valid: what would be right.
    fix: a command or an edit that mends it.
    """

    id: str
    severity: str
    message: str
    where: str | None = None
    valid: str | None = None
    fix: str | None = None

    def __post_init__(self) -> None:
        assert self.severity in SEVERITIES, self.severity

    def render(self) -> str:
        """One finding as text, up to three lines."""
        lines = [
            f"{self.severity}: {self.message}" + (f" ({self.where})" if self.where else "") + f" [{self.id}]"
        ]
        if self.valid:
            lines.append(f"  valid: {self.valid}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | None]:
        """The finding as `--json` prints it."""
        return asdict(self)


def errors_in(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings that stop a launch."""
    return tuple(f for f in findings if f.severity == "error")
