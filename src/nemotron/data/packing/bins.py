"""Which sequences share a row: best fit, longest first."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], size: int) -> list[array[int]]:
    """Rows of sequences, each row at most `size` long: the numbers of the sequences in each.

    The longest sequence goes first, each into the fullest row that still has room for it. At most
    11/9 of the fewest rows possible, and 6/9 of a row. Every length is from 1 to `size`.
    """
    rows: list[array[int]] = []
    # Rows by the room that is left in them, and a bit for each room that any row has.
    by_room: list[list[int]] = [[] for _ in range(size + 1)]
    rooms = 0
    for number in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        length = lengths[number]
        assert 0 < length <= size, (number, length)
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
            rows[row].append(number)
        else:
            row, room = len(rows), size
            rows.append(array("I", (number,)))
        left = room - length
        by_room[left].append(row)
        rooms |= 1 << left
    return rows


def mixed(rows: list[array[int]], seed: int) -> list[array[int]]:
    """The rows in an order drawn from `seed`, and the sequences in each in the order they came.

    As they are made, the longest sequences stand first, which no training run should see first.
    """
    order = list(rows)
    random.Random(seed).shuffle(order)
    return [array("I", sorted(row)) for row in order]
