"""What the benchmarks compute by themselves: kinds of kernels, shares of time, verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu import problems
from benchmarks.kernels import Kernel, busy_us, kind_of, shares, table


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_TNT", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_128x128>", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("void at::native::multi_tensor_apply_kernel<..., FusedAdamMathFunctor<float, 4, ...>", "optimizer"),
        ("triton_red_fused__to_copy_gather_logsumexp_unsqueeze_0", "loss"),
        ("triton_poi_fused__to_copy_arange_copy_copy__eq_exp_mul_scalar_tensor_sub_unsqueeze_where_0", "loss"),
        ("triton_poi_fused_mul_silu_split_0", "elementwise and norms"),
        ("triton_poi_fused__to_copy_add_mul_split_sub_0", "elementwise and norms"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<...>", "elementwise and norms"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "communication"),
    ],
)
def test_kernels_are_told_apart_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_idle_is_when_nothing_runs() -> None:
    kernels = [
        Kernel(name="nvjet_a", start_us=10, end_us=30),
        Kernel(name="ncclDevKernel", start_us=20, end_us=50),
        Kernel(name="nvjet_a", start_us=25, end_us=40),
        Kernel(name="nvjet_b", start_us=70, end_us=80),
    ]
    assert busy_us(kernels) == 50
    found = shares(kernels, total_us=100)
    assert found.idle_us == 50
    assert found.by_kind == {"communication": 30, "matrix products": 45}
    assert found.largest[0] == ("nvjet_a", 35)
    assert "| matrix products | 0.0 | 45.0 % |" in table(found)
    assert "| idle | 0.1 | 50.0 % |" in table(found)


def measurement(**changes: Any) -> dict[str, Any]:
    cudnn = {"aten::_scaled_dot_product_cudnn_attention": 128}
    return {"gpu": "H100", "dtype": "bf16", "attention": cudnn, "loss": {"first": 11.8, "last": 6.0}} | changes


def test_a_good_measurement_has_no_problems() -> None:
    assert problems(measurement()) == []


@pytest.mark.parametrize("last", [11.7, float("nan")])
def test_a_loss_that_does_not_fall_makes_it_worthless(last: float) -> None:
    assert problems(measurement(loss={"first": 11.8, "last": last}))[0].startswith("the loss fell by")


@pytest.mark.parametrize("attention", [{}, {"aten::_scaled_dot_product_flash_attention": 128}])
def test_another_attention_than_cudnns_makes_it_worthless(attention: dict[str, int]) -> None:
    assert problems(measurement(attention=attention))[0].startswith("attention was not cuDNN's alone, but")
