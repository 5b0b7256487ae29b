"""Tensors that are cheap to compute: autograd keeps how to compute them again, instead of the tensors.

These are `layernorm`, `mlp_act` and `moe_act` of `parallel.recompute_modules`. The outputs of norms and of activations
are inputs of the products behind them, which keep them for their weight gradients. Each is one kernel that reads what
is kept anyway, so to compute it again costs a few percent of a step, and a third of the activations' memory is saved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator

import torch
from torch.autograd.graph import saved_tensors_hooks

from harness.config.parallel import CHEAP_MODULES

Compute = Callable[[], torch.Tensor]


class _Recipes:
    """Recipes by the storage of the tensor. They hold the tensors, so that no storage is used anew."""

    def __init__(self, modules: Collection[str]) -> None:
        self.modules = modules
        self._by_storage: dict[int, tuple[torch.Tensor, Compute]] = {}

    def add(self, tensor: torch.Tensor, compute: Compute) -> None:
        self._by_storage[tensor.untyped_storage()._cdata] = (tensor, compute)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor | Compute:
        found = self._by_storage.get(tensor.untyped_storage()._cdata)
        if found is None or found[0].shape.numel() != tensor.shape.numel():
            return tensor
        shape, compute = tensor.shape, found[1]
        return lambda: compute().view(shape)

    def forget(self) -> None:
        """Let go of the tensors: autograd keeps this object as long as what it packed."""
        self._by_storage.clear()

    @staticmethod
    def unpack(packed: torch.Tensor | Compute) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        with torch.no_grad():
            return packed()


_active: list[_Recipes] = []


@contextlib.contextmanager
def cheap_tensors_again(modules: Collection[str] = CHEAP_MODULES) -> Iterator[None]:
    """Inside, autograd keeps recipes in place of tensors that `computed_by` names for one of these modules."""
    recipes = _Recipes(modules)
    _active.append(recipes)
    try:
        with saved_tensors_hooks(recipes.pack, recipes.unpack):
            yield
    finally:
        _active.pop().forget()


def computed_by(module: str, tensor: torch.Tensor, compute: Compute) -> torch.Tensor:
    """Return the tensor, and say how to compute it again. The recipe may only hold what backward keeps anyway.

    `module` is the name in `parallel.recompute_modules` under which it is recomputed.
    """
    if _active and module in _active[-1].modules and torch.is_grad_enabled():
        _active[-1].add(tensor, compute)
    return tensor
