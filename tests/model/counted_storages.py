"""Counts the bytes of all tensors that operations have made and that somebody still holds, autograd included."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CountedStorages(TorchDispatchMode):
    """Within it, storages of what operations return are remembered, without being held."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self._sizes[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return output

    def live_bytes(self) -> int:
        """Bytes of the storages that are still held."""
        return sum(size for reference, size in self._sizes.values() if not reference.expired())
