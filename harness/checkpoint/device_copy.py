"""Copies what a rank writes of its state from a GPU into the host's memory, while training goes on there.

A checkpoint holds weights, persistent buffers of modules (biases of routers), master weights and moments. Only an
update, a load and a rollback change them. A step's forward and backward write gradients, losses and counts, which are
in no checkpoint. So the copy may run beside them, and training's stream waits for it right before an update
(`DeviceCopy.hold`); whatever else changes the state comes after the end of the save, which holds as well.

The memory is shared with forked processes, and then pinned: a forked process can be relied on to read it, which of
memory that CUDA gives out itself nobody promises. It is as large as what this rank writes, and stays for the next save.

The plan is pure (`places_for`); the device is behind a protocol, so that tests can let copies run as late as a GPU may.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from harness.checkpoint.storages import with_own_storage

ALIGNMENT_BYTES = 512
"""Places begin at multiples of this, as in torch's own memory of a GPU."""

Mark = Any
"""A moment in the work of a device: what comes before it is done, once it is reached."""


class PinningError(Exception):
    """The system pins no such memory; the message is its reason."""


class CopyDevice(Protocol):
    """A device with a stream of training, and one beside it for copies to the host."""

    def has(self, tensor: Tensor) -> bool:
        """Return whether the tensor lies on the device."""

    def free_bytes(self) -> int:
        """Return the bytes of the device's memory that nobody has."""

    def pin(self, memory: Tensor) -> None:
        """Pin memory of the host, `[bytes]`, so that copies into it need nobody to wait.

        Raises:
            PinningError: The system refuses.
        """

    def unpin(self, memory: Tensor) -> None:
        """Undo that."""

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Mark:
        """Begin to copy the first of each pair into the second, and return the end as a mark.

        The copies see what training's stream has been asked for so far, and run beside what it is asked for later.
        Nobody else gets the memory of a first one meanwhile.
        """

    def hold(self, mark: Mark) -> None:
        """Let training's stream wait for the mark before all that it is asked for later. The caller does not wait."""

    def wait(self, mark: Mark) -> None:
        """Wait for the mark. Any thread may."""


class Places(NamedTuple):
    """Places of tensors in one memory."""

    begins: tuple[int, ...]
    num_bytes: int
    """Size of the memory."""


def places_for(sizes: Sequence[int]) -> Places:
    """Return places for tensors of these sizes in bytes, one behind the other, each aligned."""
    begins, end = [], 0
    for size in sizes:
        begins.append(end)
        end += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return Places(tuple(begins), end)


def fits_on_device(num_bytes: int, free_bytes: int) -> bool:
    """Return whether so much may stay on the device until it is copied: it leaves half of what is free."""
    return num_bytes <= free_bytes // 2


class DeviceCopy:
    """The copy of one rank's share of the state, one save after the other."""

    def __init__(self, device: CopyDevice) -> None:
        self._device = device
        self._memory: Tensor | None = None
        self._mark: Mark | None = None
        self._is_held = True
        self._not_pinned: str | None = None
        self._no_room: str | None = None

    def has(self, tensor: Tensor) -> bool:
        """Return whether the tensor lies on the device."""
        return self._device.has(tensor)

    @property
    def problem(self) -> str | None:
        """Reason why training waits for the last copy, or for a part of it; None if it does not."""
        return self._not_pinned or self._no_room

    def leaves_on_device(self, num_bytes: int) -> bool:
        """Return whether so much may be put together on the device for the next copy, to be copied from there."""
        free_bytes = self._device.free_bytes()
        fits = fits_on_device(num_bytes, free_bytes)
        sizes = f"{num_bytes / 2**30:.1f} GiB of optimizer state", f"half of the {free_bytes / 2**30:.1f} GiB"
        self._no_room = None if fits else f"{sizes[0]} do not fit into {sizes[1]} that the GPU has left"
        return fits

    def begin(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Callable[[], None]]:
        """Begin to copy tensors of the device. Nobody may read the copies of the save before any more.

        Returns:
            Their copies in the host's memory, each with a storage of its own, and a function that waits until they are
            complete. Processes that are forked from here on see them, too.

        Raises:
            OSError: The host has no such memory.
        """
        places = places_for([tensor.nbytes for tensor in tensors])
        memory = self._memory_of(places.num_bytes)
        copies = [
            with_own_storage(memory[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
            for begin, tensor in zip(places.begins, tensors, strict=True)
        ]
        self._mark = self._device.copy(list(zip(tensors, copies, strict=True)))
        self._is_held = False
        wait = partial(self._device.wait, self._mark)
        if self._not_pinned is not None:
            wait()
        return copies, wait

    def hold(self) -> None:
        """Let the device copy what is being saved before it changes any of it. Does not wait."""
        if not self._is_held:
            self._device.hold(self._mark)
            self._is_held = True

    def _memory_of(self, num_bytes: int) -> Tensor:
        """Return memory of at least so many bytes: what is there, or else new one in its place."""
        if self._memory is not None and self._memory.numel() >= num_bytes:
            return self._memory
        self._release()
        self._memory = torch.frombuffer(mmap.mmap(-1, max(num_bytes, mmap.PAGESIZE)), dtype=torch.uint8)
        try:
            self._device.pin(self._memory)
        except PinningError as error:
            self._not_pinned = f"{num_bytes / 2**30:.1f} GiB of the host's memory cannot be pinned: {error}"
        return self._memory

    def _release(self) -> None:
        if self._memory is None:
            return
        self._device.wait(self._mark)
        if self._not_pinned is None:
            self._device.unpin(self._memory)
        self._memory = self._not_pinned = None
