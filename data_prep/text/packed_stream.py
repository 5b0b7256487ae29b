"""Reads a packed file to its end, piece after piece, and notices when a piece is damaged or has no end.

bzip2, xz and zstandard files may hold several pieces, one behind the other (`pbzip2`, Wikipedia's dumps, joined files).
The libraries' own readers stop silently: zstandard's at the end of the first piece, Python's for bzip2 and xz at a
later piece that is damaged.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from data_prep.text.expansion import check_expansion

PACKED_BYTES = 16 * 1024
"""Packed bytes that are read at once."""
UNLIMITED_BYTES = 1024
"""Packed bytes unpacked at once where the library does not let us limit the plain ones: four bytes of zstandard may
stand for 128 KiB."""
PLAIN_BYTES = 1 << 20
"""Plain bytes made at once, where the library lets us limit them."""


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
        self._packed_bytes = self._plain_bytes = 0

    def readable(self) -> bool:
        """Return True: it can be read from."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """Fill the buffer as far as the next piece of plain bytes goes; 0 at the end.

        Raises:
            EOFError: The file is empty, or ends in the middle of a piece.
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
                packed = packed.lstrip(b"\0")
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
