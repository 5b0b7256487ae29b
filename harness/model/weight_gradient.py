"""The gradient of a weight matrix, added to its fp32 sum in the same product.

Without it a product in the weights' format is written, and read again to be added: 12 bytes of traffic for every weight
and micro-batch, where the sum itself is 8. apex has a kernel for it, which Megatron looks for under the name of apex's
module; this takes its place where apex is missing.

Shapes: T tokens, I inputs, O outputs of the matrix.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_owners: dict[int, nn.Parameter] = {}
"""Parameters by the identity of the sum of their gradients."""


def tell(parameters: Iterable[nn.Parameter]) -> None:
    """Tell these parameters, and no others, from here on when a product has added to their sums (`main_grad`).

    Megatron tells the parameter that autograd hands it, and gives autograd an empty gradient for it. Where autograd
    keeps tensors through hooks (`harness.model.recompute`) it hands out a copy, and gets no gradient; but a reduction
    beside backward waits for both.
    """
    _owners.clear()
    _owners.update((id(parameter.main_grad), parameter) for parameter in parameters)  # type: ignore[attr-defined]


def product_can_add(device: torch.device) -> bool:
    """Return whether torch adds a product of bf16 matrices to an fp32 one: on a GPU, from torch 2.11 on."""
    return device.type != "cpu" and "dtype_out" in torch.ops.aten.addmm.overloads()  # type: ignore[no-untyped-call]


def wgrad_gemm_accum_fp32(inputs_TI: torch.Tensor, gradient_TO: torch.Tensor, sum_OI: torch.Tensor) -> None:
    """Add the gradient of the weights to their sum. The name and the order of arguments are apex's."""
    if (owner := _owners.get(id(sum_OI))) is not None:
        owner.grad_added_to_main_grad = True  # type: ignore[attr-defined]
        owner.grad = owner.detach().new_empty(()).expand(owner.shape)  # one number: nobody reads it
    if sum_OI.is_meta:
        return
    if sum_OI.dtype is inputs_TI.dtype:
        torch.addmm(sum_OI, gradient_TO.t(), inputs_TI, out=sum_OI)
    elif sum_OI.device.type == "cuda":
        torch.addmm(sum_OI, gradient_TO.t(), inputs_TI, out_dtype=torch.float32, out=sum_OI)
    else:
        torch.addmm(sum_OI, gradient_TO.t().to(sum_OI.dtype), inputs_TI.to(sum_OI.dtype), out=sum_OI)
