"""Weight gradients that a matrix product adds to the fp32 gradient buffer itself, without apex. Off until measured.

Megatron writes the gradient of a weight in bf16 and adds it to the fp32 buffer in a second kernel, unless it finds
apex's module `fused_weight_gradient_mlp_cuda`. `register` puts a module of that name there which does the same with
torch's own `addmm` into fp32. It must be called before megatron-core is imported, in every process; nothing in the
harness does so yet, because its speed is not measured (see docs/benchmarks.md).

Shapes: T tokens, I inputs of the layer, O outputs.
"""

from __future__ import annotations

import sys
import types

import torch

_MODULE = "fused_weight_gradient_mlp_cuda"


def add_weight_gradient(input_TI: torch.Tensor, gradient_TO: torch.Tensor, buffer_OI: torch.Tensor) -> None:
    """Adds the weight gradient `gradientᵀ · input` to the fp32 buffer, in place."""
    if input_TI.device.type == "cuda" and input_TI.dtype is not torch.float32:
        torch.addmm(buffer_OI, gradient_TO.t(), input_TI, out_dtype=torch.float32, out=buffer_OI)
    else:
        buffer_OI.addmm_(gradient_TO.t().float(), input_TI.float())


def register() -> None:
    """Makes Megatron find `add_weight_gradient` under the name of apex's kernel.

    Raises:
        RuntimeError: megatron-core has been imported and has looked for the kernel already, or torch is too old.
    """
    if not hasattr(torch.ops.aten.addmm, "dtype_out"):
        raise RuntimeError(f"torch {torch.__version__} cannot add bf16 products to an fp32 buffer; 2.12 or newer can")
    if "megatron.core" in sys.modules:
        raise RuntimeError("register the weight-gradient kernel before megatron.core is imported")
    module = types.ModuleType(_MODULE, doc=__doc__)
    module.wgrad_gemm_accum_fp32 = add_weight_gradient  # type: ignore[attr-defined]
    sys.modules[_MODULE] = module
