"""Pairs of answers to one prompt: the best and the worst by reward, found while rows go by."""

from __future__ import annotations

from array import array
from collections.abc import Callable

_LENGTH = 8


def parted(start: bytes, answer: bytes) -> tuple[bytes, ...]:
    """An answer as it is kept, in pieces: how a row of preferences begins, and one side of it."""
    return len(start).to_bytes(_LENGTH, "little"), start, answer


class Pairs:
    """The best and the worst answer of each prompt seen so far.

    Answers are kept in a file; in memory each prompt takes 76 bytes beside its key. Of equal rewards the
    first answer counts.
    """

    def __init__(self) -> None:
        self._number: dict[int, int] = {}
        self._rewards = (array("d"), array("d"))
        self._places = (array("Q"), array("Q"))
        self._sizes = (array("Q"), array("Q"))
        self._same = (array("Q"), array("Q"))
        self.rows = array("I")

    def __len__(self) -> int:
        return len(self._number)

    def wants(self, prompt: int, reward: float) -> bool:
        """Whether an answer is the best or the worst so far; if so, `keep` it before the next is asked."""
        number = self._number.setdefault(prompt, len(self._number))
        if number == len(self.rows):
            self.rows.append(0)
            for side in (0, 1):
                self._rewards[side].append(reward)
                self._places[side].append(0)
                self._sizes[side].append(0)
                self._same[side].append(0)
        self.rows[number] += 1
        best, worst = self._rewards
        return self.rows[number] == 1 or not worst[number] <= reward <= best[number]

    def keep(self, prompt: int, reward: float, same: int, place: int, size: int) -> None:
        """Take an answer that is wanted. same: a key of what it says; place, size: of it in the file."""
        number = self._number[prompt]
        if self.rows[number] == 1:
            sides: tuple[int, ...] = (0, 1)
        else:
            sides = (0,) if reward > self._rewards[0][number] else (1,)
        for side in sides:
            self._rewards[side][number] = reward
            self._places[side][number] = place
            self._sizes[side][number] = size
            self._same[side][number] = same

    def gap(self, number: int) -> float:
        """How far the rewards of a prompt's best and worst answer are apart."""
        return self._rewards[0][number] - self._rewards[1][number]

    def same(self, number: int) -> bool:
        """Whether the best and the worst answer say the same."""
        return self._same[0][number] == self._same[1][number]

    def row(self, number: int, read: Callable[[int, int], bytes]) -> bytes:
        """The pair of a prompt as a row of preferences, with its line end. read: of (place, size)."""
        start, best = _apart(read(self._places[0][number], self._sizes[0][number]))
        _, worst = _apart(read(self._places[1][number], self._sizes[1][number]))
        first = _ranked(best, 0, self._rewards[0][number])
        second = _ranked(worst, 1, self._rewards[1][number])
        return b'%b,"completions":[%b,%b]}\n' % (start, first, second)


def _apart(kept: bytes) -> tuple[bytes, bytes]:
    """What `parted` told apart."""
    end = _LENGTH + int.from_bytes(kept[:_LENGTH], "little")
    return kept[_LENGTH:end], kept[end:]


def _ranked(side: bytes, rank: int, reward: float) -> bytes:
    return b'{"rank":%d,"reward":%b,%b' % (rank, repr(reward).encode("ascii"), side[1:])
