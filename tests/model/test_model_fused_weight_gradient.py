"""The weight-gradient kernel under apex's name: off unless somebody registers it, and in time."""

from __future__ import annotations

import subprocess
import sys

import torch

from harness.model.fused_weight_gradient import add_weight_gradient

REGISTERED = """
import warnings
warnings.simplefilter("ignore")
from harness.model import fused_weight_gradient
{order}
from megatron.core.tensor_parallel import layers
assert layers._grad_accum_fusion_available
print(layers.fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32.__name__)
"""


def test_it_adds_the_gradient_to_the_buffer() -> None:
    inputs, gradients, buffer = torch.randn(6, 3), torch.randn(6, 4), torch.randn(4, 3)
    expected = buffer + gradients.T @ inputs
    add_weight_gradient(inputs, gradients, buffer)
    torch.testing.assert_close(buffer, expected)


def run(order: str) -> subprocess.CompletedProcess[str]:
    program = REGISTERED.format(order=order)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


def test_megatron_finds_it_once_it_is_registered() -> None:
    done = run("fused_weight_gradient.register()")
    assert done.stdout.strip() == "add_weight_gradient", done.stderr


def test_registering_too_late_is_refused() -> None:
    done = run("import megatron.core; fused_weight_gradient.register()")
    assert "register the weight-gradient kernel before megatron.core is imported" in done.stderr
