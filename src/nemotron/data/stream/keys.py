"""What was seen before, in a few bytes a key: millions of keys in tens of megabytes."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache
from typing import Any

_START = 1 << 12
_MASK = (1 << 64) - 1


def key_of(data: bytes, more: bytes = b"") -> int:
    """A 64-bit key of some bytes, and of more after them, the same in every process and on every machine.

    Among ten million different values two share a key with a probability of 3 in a million.
    """
    hasher = _blake3()(data)
    if more:
        hasher.update(more)
    return int.from_bytes(hasher.digest(8), "little")


@cache
def _blake3() -> Callable[[bytes], Any]:
    from blake3 import blake3  # six times as fast as the hashes of the standard library

    return blake3


class KeyCounts:
    """Counts by 64-bit key: a hash table of 12 bytes a slot, at most two thirds full."""

    def __init__(self) -> None:
        self._keys = array("Q", bytes(8 * _START))
        self._counts = array("I", bytes(4 * _START))
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, key: int) -> int:
        """Count a key; returns how often it was counted before."""
        keys, counts = self._keys, self._counts
        mask = len(keys) - 1
        slot = (key ^ (key >> 32)) & mask
        while (before := counts[slot]) and keys[slot] != key:
            slot = (slot + 1) & mask
        counts[slot] = before + 1
        if not before:
            keys[slot] = key
            self._used += 1
            if 3 * self._used > 2 * mask:
                self._grow()
        return before

    def _grow(self) -> None:
        keys, counts = self._keys, self._counts
        self._keys = array("Q", bytes(16 * len(keys)))
        self._counts = array("I", bytes(8 * len(counts)))
        mask = len(self._keys) - 1
        for key, count in zip(keys, counts, strict=True):
            if count:
                slot = (key ^ (key >> 32)) & mask
                while self._counts[slot]:
                    slot = (slot + 1) & mask
                self._keys[slot], self._counts[slot] = key, count


def share_of(key: int, seed: int) -> float:
    """A number from 0 to 1 drawn from a key: the same for the same key and seed, wherever the row stands."""
    mixed = (key ^ (seed * 0x9E3779B97F4A7C15)) & _MASK
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _MASK
    return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)
