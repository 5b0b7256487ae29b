"""Reads a packed file to its end, piece after piece, and notices when a piece is damaged or has no end.

Packed files may hold several pieces, one behind the other (`pbzip2`, Wikipedia's dumps, joined files). The libraries'
own readers stop silently: zstandard's at the end of the first piece, Python's for bzip2 and xz at a later piece that is
damaged; and Python's for gzip reads zeros behind the end byte by byte, however many there are.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from harness.expansion import check_expansion

PACKED_BYTES = 16 * 1024
"""Packed bytes that are read at once."""
UNLIMITED_BYTES = 1024
"""Packed bytes unpacked at once where the library does not let us limit the plain ones: four bytes of zstandard may
stand for 128 KiB."""
PLAIN_BYTES = 1 << 20
"""Plain bytes made at once, where the library lets us limit them."""
_MOST_PADDING = 64 << 20
"""Zero bytes behind a piece. Tapes and block devices need some; a file that was only made larger has any number."""


class Unpacker(Protocol):
    """Unpacks one piece."""

    @property
    def eof(self) -> bool:
        """True behind the end of the piece."""

    @property
    def unused_data(self) -> bytes:
        """The bytes behind the piece."""

    def decompress(self, data: bytes, /) -> bytes:
        """Return plain bytes."""


class Gunzip:
    """Unpacks one piece of a gzip file, with the limits that Python's unpackers of bzip2 and xz have."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._rest = b""
        self.needs_input = True
        """False while there may be more plain bytes without another packed one."""

    @property
    def eof(self) -> bool:
        """True behind the end of the piece."""
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        """The bytes behind the piece."""
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = PLAIN_BYTES) -> bytes:
        """Return at most `max_length` plain bytes, and keep packed bytes that were not needed for them.

        Raises:
            zlib.error: They are damaged, or no gzip.
        """
        try:
            plain = self._inner.decompress(self._rest + data, max_length)
        except zlib.error as error:
            raise zlib.error("not gzip" if "incorrect header" in str(error) else str(error)) from None
        self._rest = self._inner.unconsumed_tail
        self.needs_input = not self._rest and len(plain) < max_length
        return plain


class PackedStream(io.RawIOBase):
    """The plain bytes of a packed file. Wrap it in `io.BufferedReader`.

    `start_piece` makes an unpacker for one piece. With `has_padding` zero bytes between pieces, and behind the last
    one, mean nothing.
    """

    def __init__(self, raw: BinaryIO, start_piece: Callable[[], Unpacker], *, has_padding: bool = False) -> None:
        self._raw = raw
        self._start_piece = start_piece
        self._has_padding = has_padding
        self._piece: Any = None
        self._is_begun = False
        self._packed = b""
        self._plain = memoryview(b"")
        self._packed_bytes = self._plain_bytes = self._padding_bytes = 0

    def readable(self) -> bool:
        """Return True: it can be read from."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """Fill the buffer as far as the next piece of plain bytes goes; 0 at the end.

        Raises:
            EOFError: The file is empty, ends in the middle of a piece, or has too many zeros behind one.
            ExpansionError: It stands for far more than text can.
        """
        while not self._plain:
            if self._has_more_inside:
                self._unpack(b"")
                continue
            packed = self._packed or self._read()
            self._packed = b""
            if not packed:
                if self._piece is not None or not self._is_begun:
                    raise EOFError("its last piece has no end" if self._is_begun else "it is empty")
                return 0
            if self._piece is None and self._has_padding and self._is_begun:
                packed = self._without_padding(packed)
            if packed:
                self._unpack(packed)
        size = min(len(buffer), len(self._plain))
        buffer[:size] = self._plain[:size]
        self._plain = self._plain[size:]
        return size

    @property
    def _has_more_inside(self) -> bool:
        """True while the unpacker can go on without another packed byte."""
        return self._piece is not None and not getattr(self._piece, "needs_input", True)

    def _without_padding(self, packed: bytes) -> bytes:
        begun = packed.lstrip(b"\0")
        self._padding_bytes = 0 if begun else self._padding_bytes + len(packed)
        if self._padding_bytes > _MOST_PADDING:
            raise EOFError(f"its last piece is followed by more than {_MOST_PADDING >> 20} MiB of zeros")
        return begun

    def _read(self) -> bytes:
        packed = self._raw.read(PACKED_BYTES)
        self._packed_bytes += len(packed)
        return packed

    def _unpack(self, packed: bytes) -> None:
        if self._piece is None:
            self._piece, self._is_begun = self._start_piece(), True
        rest = b""
        if hasattr(self._piece, "needs_input"):
            plain = self._piece.decompress(packed, PLAIN_BYTES)
        else:
            packed, rest = packed[:UNLIMITED_BYTES], packed[UNLIMITED_BYTES:]
            plain = self._piece.decompress(packed)
        self._plain_bytes += len(plain)
        check_expansion(self._plain_bytes, self._packed_bytes)
        self._plain = memoryview(plain)
        self._packed = rest
        if self._piece.eof:
            self._packed = self._piece.unused_data + rest
            self._piece = None
