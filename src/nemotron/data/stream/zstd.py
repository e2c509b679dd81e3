"""Reading zstd data, which may be several frames one after the other."""

from __future__ import annotations

from io import RawIOBase
from typing import IO, Any

from nemotron.errors import UsageError

# One frame block of four bytes can stand for 128 KiB. This is how much may be unpacked at once, at worst:
# 32 MiB, from data that somebody made for it, or from a line of one letter.
_PACKED = 1024


class ZstdFile(RawIOBase):
    """The unpacked bytes of an open file. EOFError where the data end within a frame.

    The package's own reader takes such an end for the end of the file.
    """

    def __init__(self, packed: IO[bytes]) -> None:
        try:
            from zstandard import ZstdDecompressor, ZstdError
        except ImportError as exc:
            what = f"zstd data need the package zstandard: {exc}"
            raise UsageError(what, next="pip install 'nemotron[data]'") from exc
        self._packed = packed
        self._new = ZstdDecompressor(max_window_size=1 << 27).decompressobj
        self._error = ZstdError
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """True: as every raw file says."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what comes next; 0 at the end."""
        while not self._ready:
            packed = self._packed.read(_PACKED)
            if not packed:
                if self._frame is not None:
                    raise EOFError
                return 0
            self._ready = memoryview(self._unpacked(packed))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _unpacked(self, packed: bytes) -> bytes:
        made = []
        while packed:
            self._frame = self._frame or self._new()
            try:
                made.append(self._frame.decompress(packed))
            except self._error as exc:
                raise OSError(str(exc)) from exc
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        return made[0] if len(made) == 1 else b"".join(made)
