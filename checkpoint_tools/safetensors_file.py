"""Writes a `.safetensors` file tensor by tensor, in any order, with no more than one tensor in memory.

```
8 bytes    length N of the header, little-endian unsigned
N bytes    JSON, filled up with spaces to a multiple of 8: {"__metadata__": {"format": "pt"},
           NAME: {"dtype": "F32", "shape": […], "data_offsets": [from, to]}, …}
rest       the tensors, little-endian, without gaps; offsets count from here
```

The file is written under another name, and gets its own only when every tensor was written exactly once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from harness.run.files import STAGING_SUFFIX

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size of the tensor in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsWriter:
    """A file that is being written; leave it as a context manager."""

    def __init__(self, path: Path, entries: Iterable[Entry]) -> None:
        self._path = path
        self._staging = path.with_name(path.name + STAGING_SUFFIX)
        self._entries = {entry.name: entry for entry in entries}
        self._missing = set(self._entries)
        header, self._offsets = _layout(self._entries)
        self._file = self._staging.open("wb")
        self._file.write(header)
        self._start = len(header)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Writes one tensor at its place.

        Raises:
            AssertionError: it was written before, or is not as announced.
        """
        entry = self._entries[name]
        assert name in self._missing, f"{name} is written twice"
        assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.dtype), f"{name} is not as announced"
        self._missing.remove(name)
        self._file.seek(self._start + self._offsets[name])
        flat = tensor.contiguous().reshape(-1)
        self._file.write(flat.view(torch.uint8).numpy().data)

    def __enter__(self) -> SafetensorsWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Gives the file its name, unless something went wrong."""
        with self._file:
            if error is None:
                assert not self._missing, f"{sorted(self._missing)} were not written"
                self._file.flush()
                os.fsync(self._file.fileno())
        if error is None:
            self._staging.rename(self._path)


def _layout(entries: Mapping[str, Entry]) -> tuple[bytes, dict[str, int]]:
    """Return the header, and the begin of each tensor behind it."""
    offsets: dict[str, int] = {}
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, entry in entries.items():
        offsets[name], end = end, end + entry.num_bytes
        described[name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets
