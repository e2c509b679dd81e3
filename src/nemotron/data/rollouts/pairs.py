"""Pairs of answers to one prompt: the best and the worst by reward, found while rows go by."""

from __future__ import annotations

from array import array
from typing import IO

from .export import Made

_LENGTH = 8


class Pairs:
    """The best and the worst answer of each prompt seen so far.

    Rows are kept in a file; in memory each prompt takes 60 bytes beside its key. Of equal rewards the first
    answer counts.
    """

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool
        self._end = 0
        self._number: dict[int, int] = {}
        self._rewards = (array("d"), array("d"))
        self._places = (array("Q"), array("Q"))
        self._same = (array("Q"), array("Q"))
        self.rows = array("I")

    def __len__(self) -> int:
        return len(self._number)

    def add(self, made: Made) -> None:
        """Take an answer into account."""
        number = self._number.setdefault(made.prompt, len(self._number))
        if number == len(self.rows):
            place = self._keep(made)
            for side in (0, 1):
                self._rewards[side].append(made.reward)
                self._places[side].append(place)
                self._same[side].append(made.answers[0])
            self.rows.append(1)
            return
        self.rows[number] += 1
        best, worst = self._rewards
        if worst[number] <= made.reward <= best[number]:
            return
        side = 0 if made.reward > best[number] else 1
        self._rewards[side][number] = made.reward
        self._places[side][number] = self._keep(made)
        self._same[side][number] = made.answers[0]

    def _keep(self, made: Made) -> int:
        place = self._end
        for data in (made.data, made.answer):
            self._spool.write(len(data).to_bytes(_LENGTH, "little"))
            self._spool.write(data)
            self._end += _LENGTH + len(data)
        return place

    def gap(self, number: int) -> float:
        """How far the rewards of a prompt's best and worst answer are apart."""
        return self._rewards[0][number] - self._rewards[1][number]

    def same(self, number: int) -> bool:
        """Whether the best and the worst answer say the same."""
        return self._same[0][number] == self._same[1][number]

    def row(self, number: int) -> bytes:
        """The pair of a prompt as a row of preferences, with its line end."""
        start, best = self._read(self._places[0][number])
        _, worst = self._read(self._places[1][number])
        first = _ranked(best, 0, self._rewards[0][number])
        second = _ranked(worst, 1, self._rewards[1][number])
        return b'%b,"completions":[%b,%b]}\n' % (start, first, second)

    def _read(self, place: int) -> tuple[bytes, bytes]:
        self._spool.seek(place)
        first = self._spool.read(int.from_bytes(self._spool.read(_LENGTH), "little"))
        second = self._spool.read(int.from_bytes(self._spool.read(_LENGTH), "little"))
        return first, second


def _ranked(side: bytes, rank: int, reward: float) -> bytes:
    return b'{"rank":%d,"reward":%b,%b' % (rank, repr(reward).encode("ascii"), side[1:])
