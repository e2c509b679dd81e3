"""The files that `torch.save` writes, without torch: a zip of a pickle and of the numbers it refers to.

A tensor's file is made as a beginning and an end, with room for the numbers between: they are streamed.
"""

from __future__ import annotations

import struct
import zlib
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

from nemotron.checkpoints.pickled import Called, Named, Outside, pickled

# The name that safetensors has for a type: torch's name, its storage, bytes of one element.
DTYPES = MappingProxyType(
    {
        "F64": ("float64", "DoubleStorage", 8),
        "F32": ("float32", "FloatStorage", 4),
        "F16": ("float16", "HalfStorage", 2),
        "BF16": ("bfloat16", "BFloat16Storage", 2),
    }
)
_SMALL = MappingProxyType({"I32": "IntStorage", "BOOL": "BoolStorage", "F64": "DoubleStorage"})
_ALIGNMENT = 64
_LARGE = (1 << 32) - 1  # sizes and offsets of a plain zip end here
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _LOCATOR64 = b"PK\x06\x06", b"PK\x06\x07"
_FIRST_OF_1980 = 0x21
_VERSION = ("archive/version", b"3\n")


class Frame(NamedTuple):
    """A tensor's file around its numbers. checksum_at: where their CRC-32 belongs in `before`."""

    before: bytes
    checksum_at: int
    data_bytes: int
    entries: tuple[tuple[str, int, int, int], ...]

    def after(self, checksum: int) -> bytes:
        """The end of the file; checksum: CRC-32 of the numbers."""
        name, _, size, offset = self.entries[-1]
        entries = [*self.entries[:-1], (name, checksum, size, offset)]
        begin = len(self.before) + self.data_bytes
        version, data = _VERSION
        crc = zlib.crc32(data)
        out = _local(version, crc, len(data), begin) + data
        entries.append((version, crc, len(data), begin))
        return out + _directory(entries, begin + len(out))


def tensor_frame(dtype: str, shape: tuple[int, ...]) -> Frame:
    """The file of one contiguous tensor of a type in `DTYPES`."""
    _, storage, item = DTYPES[dtype]
    size = prod(shape) * item
    out = bytearray()
    entries = []
    held = (("archive/data.pkl", pickled(_tensor(storage, "0", shape))), ("archive/byteorder", b"little"))
    for name, data in held:
        entries.append((name, zlib.crc32(data), len(data), len(out)))
        out += _local(name, entries[-1][1], len(data), len(out)) + data
    entries.append(("archive/data/0", 0, size, len(out)))
    checksum_at = len(out) + 14
    out += _local("archive/data/0", 0, size, len(out))
    return Frame(bytes(out), checksum_at, size, tuple(entries))


def object_file(value: Any) -> bytes:
    """A whole file: of plain data, or with `Scalar`s in it."""
    numbers: list[bytes] = []
    root = pickled(_with_scalars(value, numbers))
    held = [("archive/data.pkl", root), ("archive/byteorder", b"little")]
    held += [(f"archive/data/{index}", data) for index, data in enumerate(numbers)]
    out, entries = bytearray(), []
    for name, data in (*held, _VERSION):
        entries.append((name, zlib.crc32(data), len(data), len(out)))
        out += _local(name, entries[-1][1], len(data), len(out)) + data
    return bytes(out) + _directory(entries, len(out))


class Scalar(NamedTuple):
    """A tensor without dimensions. dtype: I32, F64 or BOOL."""

    dtype: str
    value: int


def _with_scalars(value: Any, numbers: list[bytes]) -> Any:
    if isinstance(value, Scalar):
        form = {"I32": "<i", "F64": "<d", "BOOL": "<?"}[value.dtype]
        numbers.append(struct.pack(form, value.value))
        return _tensor(_SMALL[value.dtype], str(len(numbers) - 1), ())
    if isinstance(value, dict):
        return {key: _with_scalars(each, numbers) for key, each in value.items()}
    return value


def _tensor(storage: str, number: str, shape: tuple[int, ...]) -> Called:
    strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    where = Outside(("storage", Named("torch", storage), number, "cpu", prod(shape)))
    hooks = Called(Named("collections", "OrderedDict"), ())
    return Called(Named("torch._utils", "_rebuild_tensor_v2"), (where, 0, shape, strides, False, hooks))


def _local(name: str, crc: int, size: int, begin: int) -> bytes:
    """The header before an entry, padded so that what follows is aligned as torch aligns it."""
    large = size >= _LARGE
    extra = struct.pack("<HHQQ", 1, 16, size, size) if large else b""
    end = begin + 30 + len(name) + len(extra) + 4
    padding = -end % _ALIGNMENT
    extra += struct.pack("<HH", 0x4246, padding) + bytes(padding)
    shown = _LARGE if large else size
    version = 45 if large else 20
    fields = (version, 0, 0, 0, _FIRST_OF_1980, crc, shown, shown, len(name), len(extra))
    return _LOCAL + struct.pack("<HHHHHIIIHH", *fields) + name.encode("ascii") + extra


def _directory(entries: list[tuple[str, int, int, int]], begin: int) -> bytes:
    """The end of a zip: its entries once more, and where they are listed."""
    out = bytearray()
    for name, crc, size, offset in entries:
        far = [each for each in (size, size) if each >= _LARGE] + [offset] * (offset >= _LARGE)
        extra = struct.pack(f"<HH{len(far)}Q", 1, 8 * len(far), *far) if far else b""
        shown, place = min(size, _LARGE), min(offset, _LARGE)
        version = 45 if far else 20
        fields = (version, version, 0, 0, 0, _FIRST_OF_1980, crc, shown, shown, len(name), len(extra))
        out += _CENTRAL + struct.pack("<HHHHHHIIIHH", *fields)
        out += struct.pack("<HHHII", 0, 0, 0, 0, place) + name.encode("ascii") + extra
    length, count = len(out), len(entries)
    if begin + length >= _LARGE:
        place = begin + length
        out += _END64 + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, length, begin)
        out += _LOCATOR64 + struct.pack("<IQI", 0, place, 1)
    out += _END + struct.pack("<HHHHIIH", 0, 0, count, count, length, min(begin, _LARGE), 0)
    return bytes(out)
