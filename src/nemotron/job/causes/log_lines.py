"""Lines of a trainer's log without what launchers, Ray and loggers put before them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# `(Actor pid=1, ip=10.0.0.2) `, `(EngineCore_0 pid=1) `, `[rank3]: `, `[default3]:`, `3: ` of srun -l.
_SOURCES = re.compile(
    r"^(?:\((?P<actor>[^()]+?(?:\([^()]*\))?) pid=(?P<pid>\d+)(?:, ip=(?P<ip>[^)]+))?\) ?"
    r"|\[(?P<rank>[A-Za-z]+\d+(?:\|\d+)?)\]: ?"
    r"|(?P<task>\d{1,4}): )"
)
# What loggers write before a message, levels and times and places in any order.
_LOGGER = re.compile(
    r"^(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?"
    r"|\[?[EWIF]\d{3,4} \d\d:\d\d:\d\d(?:\.\d+)?[^\]]*\]"
    r"|\[?(?:ERROR|WARNING|INFO|DEBUG|CRITICAL)\]?:?(?: \d\d-\d\d \d\d:\d\d:\d\d)?"
    r"|\[[\w./-]+\.(?:py|cpp|cc):\d+\]|[\w./-]+\.py:\d+(?: --)?|-|--)(?: |$)"
)
_GROUP = re.compile(r"^\s*[|+] ?(?=\S)")
_NODE = re.compile(r"srun: error: ([^\s:]+): tasks? |\bON (\S+) CANCELLED|^slurmstepd-(\S+?):")
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6})\d*)?(Z|[+-]\d\d:?\d\d)?")
_WITHOUT_YEAR = re.compile(r"(?:\b|[EWIF])(\d{1,2})-?(\d\d) (\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6}))?")


@dataclass(frozen=True)
class Line:
    """text: the line without colours. body: without prefixes, its indentation kept. source: which process
    wrote it, empty where nothing says so. address, node: where that runs, as far as the line says."""

    text: str
    body: str
    source: str
    address: str | None
    node: str | None


def clean(raw: bytes) -> Line:
    """What a line of a log says, and who says it."""
    text = _COLOUR.sub("", raw[:20000].decode(errors="replace")).rstrip()
    body, source, address = text, "", None
    while found := _SOURCES.match(body):
        source += found[0].strip()
        address = found["ip"] or address
        body = body[found.end() :]
    while found := _LOGGER.match(body):
        body = body[found.end() :]
    body = _GROUP.sub("", body)
    node = _NODE.search(text)
    return Line(text, body, source, address, next(filter(None, node.groups()), None) if node else None)


class Stamps:
    """Reads times off lines; those without a year are of the year in which the log was last written to."""

    def __init__(self, written: float) -> None:
        self._written = written

    def of(self, text: str) -> float | None:
        """Epoch seconds, None for a line without a time. Times without a zone are local."""
        head = text[:400]
        if found := _ISO.search(head):
            *numbers, part, zone = found.groups()
            return self._epoch([int(n) for n in numbers], part, zone)
        if found := _WITHOUT_YEAR.search(head):
            *numbers, part = found.groups()
            year = datetime.fromtimestamp(self._written).year
            at = self._epoch([year, *(int(n) for n in numbers)], part, None)
            if at is not None and at > self._written + 86400:  # December's, read in January
                at = self._epoch([year - 1, *(int(n) for n in numbers)], part, None)
            return at
        return None

    def _epoch(self, numbers: list[int], part: str | None, zone: str | None) -> float | None:
        year, month, day, hour, minute, second = numbers
        try:
            moment = datetime(year, month, day, hour, minute, second)
        except ValueError:
            return None
        if zone == "Z":
            moment = moment.replace(tzinfo=UTC)
        elif zone:
            moment = datetime.fromisoformat(moment.isoformat() + zone)
        return moment.timestamp() + (float(f"0.{part}") if part else 0.0)
