"""What a conversion was given and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Called with bytes done and bytes in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Converted:
    """A finished conversion. notes: what was left out or changed, one sentence each."""

    path: Path
    tensors: int
    parameters: int
    bytes: int
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """What was made, and a line for each note."""
        made = f"{self.tensors} tensors, {self.parameters:,} parameters, {self.bytes:,} bytes in {self.path}"
        return "\n".join((made, *(f"note: {note}" for note in self.notes)))


def print_progress() -> Progress:
    """A line on stdout at every tenth of the way."""
    told = 0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if done * 10 // total > told:
            told = done * 10 // total
            print(f"{told * 10}% of {total:,} bytes", flush=True)

    return tell


class Counter:
    """Adds up what is done and tells."""

    def __init__(self, total: int, tell: Progress | None) -> None:
        self._total, self._tell, self._done = total, tell, 0

    def add(self, count: int) -> None:
        """`count` more bytes are done."""
        self._done += count
        if self._tell is not None:
            self._tell(self._done, self._total)
