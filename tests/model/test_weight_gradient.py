"""Weight gradients that are added to their fp32 sums within the product."""

from __future__ import annotations

from typing import Any

import model_jobs
import numpy as np
import pytest
import torch
from model_samples import LATENT, small_model_config
from pool import Pool

from harness.model.weight_gradient import product_can_add, wgrad_gemm_accum_fp32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_added_to_the_sum(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, gradient = (torch.randn(7, width, generator=generator).to(dtype) for width in (5, 3))
    total = torch.randn(3, 5, generator=generator)
    expected = total.double() + gradient.double().t() @ inputs.double()
    wgrad_gemm_accum_fp32(inputs, gradient, total)
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_cpu_adds_after_the_product_and_a_gpu_within_it() -> None:
    assert not product_can_add(torch.device("cpu"))
    assert product_can_add(torch.device("cuda"))


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_gradients_that_are_reduced_within_backward_are_the_same(recompute: str, pool: Pool) -> None:
    """As on several GPUs, where Megatron waits for every parameter to be told that its product has added."""
    plain, again = (
        small_model_config({"dtype": "fp32"}, parallel={"data_parallel_size": 2, "recompute": kind})
        for kind in ("none", recompute)
    )
    behind = pool.run(model_jobs.gradient_sums, 2, plain, False)
    within = pool.run(model_jobs.gradient_sums, 2, again, True, True)
    for before, after in zip(behind, within, strict=True):
        before.pop("products")
        assert after.pop("products") > 0
        for name, sums in before.items():
            np.testing.assert_allclose(after[name], sums, rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("world_size", "model"), [(1, {}), (2, {}), (2, LATENT)], ids=["1", "2", "2-latent"])
def test_megatron_adds_the_same_gradients(world_size: int, model: dict[str, Any], pool: Pool) -> None:
    """Of all matrices but the embedding, by our product; on two tensor-parallel ranks too."""
    parallel = {"tensor_model_parallel_size": world_size}
    config = small_model_config({"dtype": "fp32"}, parallel=parallel, model=model)
    plain = pool.run(model_jobs.gradient_sums, world_size, config, False)
    added = pool.run(model_jobs.gradient_sums, world_size, config, True)
    for before, after in zip(plain, added, strict=True):
        matrices = sum(sums.ndim == 2 for name, sums in before.items() if name != "products") - 1
        assert before.pop("products") == 0
        assert after.pop("products") == 2 * matrices, "of each matrix once a micro-batch"
        for name, sums in before.items():
            np.testing.assert_allclose(after[name], sums, rtol=1e-4, atol=1e-7, err_msg=name)
            assert np.abs(sums).max() > 0, name
