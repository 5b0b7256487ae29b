"""Reads a zstandard file to its end, frame after frame, and notices when the last frame has none.

The package's own stream reader stops silently at the end of the first frame, and at the end of a truncated file.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO

PACKED_BYTES = 16 * 1024
"""Compressed bytes decompressed at once; small, because they may stand for thousands of times as many."""


class ZstandardFile(io.RawIOBase):
    """The plain bytes of a zstandard file. Wrap it in `io.BufferedReader`.

    `start_frame` makes a decompressor for one frame: `zstandard.ZstdDecompressor().decompressobj`.
    """

    def __init__(self, raw: BinaryIO, start_frame: Callable[[], Any]) -> None:
        self._raw = raw
        self._start_frame = start_frame
        self._frame: Any = None
        self._packed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        """Return True: it can be read from."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """Fill the buffer as far as the next piece goes; 0 at the end.

        Raises:
            EOFError: The file ends in the middle of a frame.
        """
        while not self._plain:
            packed = self._packed or self._raw.read(PACKED_BYTES)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the last zstandard frame has no end")
                return 0
            self._decompress(packed)
        size = min(len(buffer), len(self._plain))
        buffer[:size] = self._plain[:size]
        self._plain = self._plain[size:]
        return size

    def _decompress(self, packed: bytes) -> None:
        if self._frame is None:
            self._frame = self._start_frame()
        self._plain = memoryview(self._frame.decompress(packed))
        self._packed = b""
        if self._frame.eof:
            self._packed = self._frame.unused_data
            self._frame = None
