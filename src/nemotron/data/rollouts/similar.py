"""Keys that texts share when they differ in few words: min-hashing of word triples, in bands."""

from __future__ import annotations

from zlib import crc32

from nemotron.data.stream.keys import key_of

# 5 bands of 5 minima: texts that have nine in ten triples in common share a band with a probability of 0.99,
# those that have one in two in common with 0.15.
_BANDS = 5
_ROWS = 5
_MIX = 0x9E3779B1
_MASK = (1 << 32) - 1


def band_keys(prompt: int, text: bytes) -> tuple[int, ...]:
    """A key for each band: two texts of one prompt that share any of them are nearly the same."""
    words = text.lower().split()
    triples = {
        crc32(b" ".join(triple)) * _MIX & _MASK
        for triple in (zip(words, words[1:], words[2:], strict=False) if len(words) > 2 else (words,))
    }
    # The triples are dealt to as many hands as there are minima: the low digits choose, the high ones rank.
    minima = {value % (_BANDS * _ROWS): value for value in sorted(triples, reverse=True)}
    lows = [minima.get(hand, 0) for hand in range(_BANDS * _ROWS)]
    return tuple(
        key_of(repr((prompt, band, lows[band * _ROWS : (band + 1) * _ROWS])).encode("ascii"))
        for band in range(_BANDS)
    )
