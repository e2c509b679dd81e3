"""The header of a safetensors file, read without trusting it and without loading a tensor.

The format: 8 bytes little-endian header length, a JSON object from tensor name to dtype, shape and
data_offsets, then the tensors, back to back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from .bounds import too_costly
from .files import JsonReader, open_regular, unreadable
from .report import Problem, kind, shown

# The reference implementation takes 100 MB; 140,000 tensors, more than any model's, are 17 MB.
MAX_HEADER = 32 << 20
_MAX_DIMENSIONS = 64
_DTYPE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,19}")

# Bits of one element.
_BITS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
        **dict.fromkeys(("F32", "I32", "U32"), 32),
        **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
        **dict.fromkeys(
            ("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8
        ),
        **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
        "F4": 4,
    }
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a header says of one tensor; start: the byte of the file at which it begins."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The tensors of one file, and its size."""

    tensors: Mapping[str, Tensor]
    bytes: int


def read_header(path: Path) -> Header | Problem:
    """The header of the file at `path`, or the first thing that is wrong with it."""
    file = open_regular(path)
    if isinstance(file, Problem):
        return file
    with file:
        try:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                what = f"cut short: {size} bytes, the header alone needs {length + 8}"
                return _broken(what if size >= 8 and length <= MAX_HEADER else "no safetensors file")
            if length > MAX_HEADER:
                return _broken(f"a header of {length} bytes, more than the {MAX_HEADER} that are allowed")
            text = file.read(length)
        except OSError as exc:
            return unreadable(exc)
    costly = too_costly(text)
    if costly:
        return costly
    entries = _entries(text)
    if isinstance(entries, Problem):
        return entries
    return _tensors(entries, size, 8 + length)


def _entries(header: bytes) -> dict[str, Any] | Problem:
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError:
        return _broken("no safetensors file: the header is not UTF-8")
    reader = JsonReader()
    value = reader.parse(text)
    if isinstance(value, Problem):
        return _broken(f"the header is {value.message}")
    if not isinstance(value, dict):
        return _broken(f"the header is {kind(value)}, not an object")
    if reader.duplicates:
        return _broken(f"the header names {shown(reader.duplicates[0])} twice")
    value.pop("__metadata__", None)
    return value


def _tensors(entries: dict[str, Any], size: int, begin: int) -> Header | Problem:
    """The tensors of a file of `size` bytes whose data begin at byte `begin`."""
    data_bytes = size - begin
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in entries.items():
        found = _tensor(name, entry, begin)
        if isinstance(found, Problem):
            return found
        tensors[name], span = found
        spans.append(span)
    spans.sort()
    end = 0
    for start, stop in spans:
        if start != end:
            return _broken(f"tensors overlap or leave a gap at byte {start} of the data")
        end = stop
    if end > data_bytes:
        return _broken(f"cut short: the tensors need {end} bytes, the file has {data_bytes}")
    if end < data_bytes:
        return _broken(f"{data_bytes - end} bytes after the last tensor")
    return Header(MappingProxyType(tensors), size)


def _tensor(name: str, entry: Any, begin: int) -> tuple[Tensor, tuple[int, int]] | Problem:
    named = shown(name)
    if not isinstance(entry, dict):
        return _broken(f"the header entry of {named} is {kind(entry)}, not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        return _broken(f"{named} has no dtype")
    if not _sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        return _broken(f"{named} has no shape of whole numbers")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return _broken(f"{named} has no valid data_offsets")
    tensor = Tensor(dtype, tuple(shape), begin + offsets[0])
    if tensor.elements >= 1 << 63:
        return _broken(f"{named} has a shape that no file holds")
    held = (offsets[1] - offsets[0]) * 8
    if dtype in _BITS and tensor.elements * _BITS[dtype] != held:
        return _broken(f"{named} is {dtype} of shape {shape[:8]} but has {held // 8} bytes")
    return tensor, (offsets[0], offsets[1])


def _sizes(value: object) -> TypeGuard[list[int]]:
    """Whether `value` is a list of integers that can count bytes."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _broken(what: str) -> Problem:
    return Problem("checkpoint.broken_weights", what, fix="copy or save the file again")
