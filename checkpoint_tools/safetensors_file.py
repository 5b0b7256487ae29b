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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.run.files import replacing

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


@contextmanager
def safetensors_writer(path: Path, entries: Iterable[Entry]) -> Iterator[Callable[[str, torch.Tensor], None]]:
    """Give a function that writes one tensor at its place; the file gets its name at the end, if all went well.

    Raises:
        AssertionError: A tensor was written twice or not at all, or is not as announced.
    """
    announced = {entry.name: entry for entry in entries}
    missing = set(announced)
    header, offsets = _layout(announced)
    with replacing(path) as file:
        file.write(header)

        def write(name: str, tensor: torch.Tensor) -> None:
            entry = announced[name]
            assert name in missing, f"{name} is written twice"
            assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.dtype), f"{name} is not as announced"
            missing.remove(name)
            file.seek(len(header) + offsets[name])
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

        yield write
        assert not missing, f"{sorted(missing)} were not written"


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
