"""A GPU as a device to copy a state from: a stream beside training's, and pinned memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from harness.checkpoint.device_copy import DeviceCopy, Mark, PinningError


def copy_from(device: torch.device) -> DeviceCopy | None:
    """Return what copies a state from a device; None for a CPU, where a forked process has it without a copy."""
    return DeviceCopy(CudaDevice(device)) if device.type == "cuda" else None


class CudaDevice:
    """A GPU, as `harness.checkpoint.device_copy.CopyDevice` describes it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._beside: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def has(self, tensor: Tensor) -> bool:
        """Return whether the tensor lies on a GPU."""
        return tensor.is_cuda

    def free_bytes(self) -> int:
        """Return the bytes of the GPU's memory that nobody has, neither torch."""
        return torch.cuda.mem_get_info(self._device)[0]

    def pin(self, memory: Tensor) -> None:
        """Pin memory of the host.

        Raises:
            PinningError: CUDA refuses.
        """
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        outcome = runtime.cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
        if int(outcome):
            with suppress(RuntimeError):  # CUDA remembers the error, and torch would find it at its next kernel
                torch.full((), 1.0, device=self._device)
            raise PinningError(runtime.cudaGetErrorString(outcome))

    def unpin(self, memory: Tensor) -> None:
        """Undo that."""
        torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())  # type: ignore[no-untyped-call]

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Mark:
        """Begin to copy on the stream beside training's, after what that has been asked for so far."""
        self._beside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._beside):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
                source.record_stream(self._beside)  # the allocator gives its memory to nobody before it is copied
            mark: Mark = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # who waits sleeps
            mark.record(self._beside)
        return mark

    def hold(self, mark: Mark) -> None:
        """Let training's stream wait for the mark."""
        torch.cuda.current_stream(self._device).wait_event(mark)

    def wait(self, mark: Mark) -> None:
        """Wait for the mark, without Python's lock."""
        with torch.cuda.device(self._device):  # a new thread would take the first GPU, and leave a context on it
            mark.synchronize()
