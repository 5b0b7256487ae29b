"""A stand-in for a GPU whose copies run as late as they may: when training's stream waits for them, or seconds later.

All tensors count as lying on it. It is what a GPU under load may do at worst: whoever changes a tensor before its copy
was waited for, or reads the copy before, gets the wrong numbers, here always.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from torch import Tensor

from harness.checkpoint.device_copy import PinningError


class _Work:
    """Copies that were asked for."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._pairs, self._lock = list(pairs), threading.Lock()
        self.done = threading.Event()

    def run(self) -> None:
        with self._lock:
            for source, target in self._pairs:
                target.copy_(source)
            self._pairs.clear()
        self.done.set()


class LateDevice:
    """Does what `CopyDevice` says, on a CPU. `asked` has what it was asked for, in order."""

    def __init__(self, *, late_s: float = 3.0, free_bytes: int = 2**40, refusal: str | None = None) -> None:
        self.asked: list[str] = []
        self.pinned: set[int] = set()
        self._late_s, self._free_bytes, self._refusal = late_s, free_bytes, refusal

    def has(self, _tensor: Tensor) -> bool:
        return True

    def free_bytes(self) -> int:
        return self._free_bytes

    def pin(self, memory: Tensor) -> None:
        self.asked.append(f"pin {memory.numel()}")
        if self._refusal is not None:
            raise PinningError(self._refusal)
        self.pinned.add(memory.data_ptr())

    def unpin(self, memory: Tensor) -> None:
        self.asked.append(f"unpin {memory.numel()}")
        self.pinned.remove(memory.data_ptr())

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> _Work:
        self.asked.append("copy")
        return _Work(pairs)

    def hold(self, mark: _Work) -> None:
        self.asked.append("hold")
        mark.run()

    def wait(self, mark: _Work) -> None:
        self.asked.append("wait")
        if not mark.done.wait(self._late_s):
            mark.run()
