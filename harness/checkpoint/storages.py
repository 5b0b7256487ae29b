"""Parts of the host's memory, each as a tensor with a storage of its own: torch writes whole storages."""

from __future__ import annotations

import torch
from torch import Tensor


def with_own_storage(tensor: Tensor) -> Tensor:
    """Return the same memory as a tensor whose storage has nothing else, on a CPU, if it is contiguous."""
    tensor = tensor.detach()
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return tensor
    begin = tensor.storage_offset() * tensor.itemsize
    storage = tensor.untyped_storage()[begin : begin + tensor.numel() * tensor.itemsize]
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape, tensor.stride())
