"""What the benchmarks compute by themselves: kinds of kernels, shares of time, verdicts."""

from __future__ import annotations

import ast
import random
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pool import Pool

from benchmarks import robust_z
from benchmarks.detector_tables import Case, Choice, best, cost, left_out_table
from benchmarks.gpu import Length, is_pretended, measure, memory_text, problems, text
from benchmarks.gpu_load import LoadReader, load_text
from benchmarks.gpu_models import MODELS
from benchmarks.kernels import Kernel, busy_us, kind_of, shares, table
from benchmarks.stopwatch import FEWEST_STEPS, Stopwatch
from harness.watch.detector import LossRecord
from harness.watch.score import Label, Score

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_TNT", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_128x128>", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("void at::native::multi_tensor_apply_kernel<..., FusedAdamMathFunctor<float, 4, ...>", "optimizer"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>, ...>",
            "other elementwise",
        ),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "communication"),
    ],
)
def test_kernels_are_told_apart_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


OWN_KERNELS = [
    node.name
    for path in sorted((ROOT / "harness/model/kernels").glob("*.py"))
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef)
    and any(ast.unparse(each).startswith("triton.jit") for each in node.decorator_list)
    and not node.name.startswith("_")
]


@pytest.mark.parametrize("name", OWN_KERNELS)
def test_our_own_kernels_have_a_kind(name: str) -> None:
    assert kind_of(name) == ("loss" if name in ("log_sums", "gradients") else "norms, activations, rotation")


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


LOSS = {"first": 11.8, "last": 6.0, "of_chance": 11.76}


def measurement(**changes: Any) -> dict[str, Any]:
    cudnn = {"aten::_scaled_dot_product_cudnn_attention": 128}
    return {"gpu": "H100", "dtype": "bf16", "attention": cudnn, "loss": LOSS} | changes


def test_a_good_measurement_has_no_problems() -> None:
    assert problems(measurement()) == []


@pytest.mark.parametrize("last", [11.7, float("nan")])
def test_a_loss_that_does_not_fall_makes_it_worthless(last: float) -> None:
    assert problems(measurement(loss=LOSS | {"last": last}))[0].startswith("the loss fell by")


@pytest.mark.parametrize("first", [9.0, 14.0, float("nan")])
def test_a_loss_that_begins_elsewhere_makes_it_worthless(first: float) -> None:
    found = problems(measurement(loss=LOSS | {"first": first}))
    assert found[0] == f"the first loss is {first:.2f}; an untrained model has 11.46 to 13.26"


def test_the_loss_of_a_pretended_gpu_is_not_judged() -> None:
    found = measurement(gpu="pretended NVIDIA H100", loss=LOSS | {"last": 11.8})
    assert is_pretended(found)
    assert problems(found) == []
    assert not is_pretended(measurement())


@pytest.mark.parametrize("attention", [{}, {"aten::_scaled_dot_product_flash_attention": 128}])
def test_another_attention_than_cudnns_makes_it_worthless(attention: dict[str, int]) -> None:
    assert problems(measurement(attention=attention))[0].startswith("attention was not cuDNN's alone, but")


def test_the_peak_is_compared_with_the_plan() -> None:
    found = {"predicted_gib": 44.0, "peak_allocated_gib": 40.0, "peak_reserved_gib": 41.5}
    assert memory_text(found) == (
        "memory at the peak: 40.00 GiB allocated, 41.50 GiB reserved; `harness plan` estimates 44.00 GiB (+10.0 %)"
    )
    none = {"peak_allocated_gib": None, "peak_reserved_gib": None}
    assert memory_text(found | none) == "memory: not measured; `harness plan` estimates 44.00 GiB"


def test_the_load_is_read_while_steps_compute() -> None:
    watts = iter([300, 650, 700])

    def read() -> dict[str, str]:
        drawn = next(watts, 700)
        return {"power limit": "700.00 W", "power drawn": f"{drawn}.00 W", "SM clock": "1980 MHz", "temperature": "50"}

    reader = LoadReader(read, every_s=0.01)
    reader.start()
    deadline = time.monotonic() + 20
    while len(reader._readings) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    reader.stop()
    found = reader.found()
    assert found["readings"] >= 3
    assert found["power drawn"]["min"] == 300
    assert found["power drawn"]["max"] == 700
    assert load_text(found | {"readings": 3, "power drawn": {"min": 300, "median": 650, "max": 700}}) == (
        "power limit 700.00 W, power drawn 650 (from 300 to 700), SM clock 1980 (from 1980 to 1980), "
        "temperature 50 (from 50 to 50) (3 readings during the timed steps)"
    )


def test_a_gpu_that_does_not_say_is_reported_as_it_answers() -> None:
    reader = LoadReader()
    reader._readings = [{"power drawn": "[N/A]", "SM clock": "1980 MHz", "temperature": "50"}]
    assert reader.found()["power drawn"] == "[N/A]"


def test_without_a_reading_the_reason_is_told() -> None:
    def fail() -> dict[str, str]:
        raise RuntimeError("no nvidia-smi")

    reader = LoadReader(fail, every_s=0.0)
    reader.start()
    while not reader._fault:
        time.sleep(0.01)
    reader.stop()
    assert load_text(reader.found()) == "unknown (no nvidia-smi)"
    assert load_text(LoadReader().found()) == "unknown (the timed steps were over before the first reading)"


def test_a_slow_gpu_gives_fewer_steps() -> None:
    now = [0.0]

    def step(run: Any, state: Any) -> Any:
        now[0] += 10.0
        return SimpleNamespace(loss=1.0)

    watch = Stopwatch(
        take_step=step, device=torch.device("cpu"), warm_up=2, steps=12, seconds=65.0, clock=lambda: now[0]
    )
    run = SimpleNamespace(pipeline=SimpleNamespace(forward_backward=None))
    for _ in range(9):
        watch(run, None)
    assert watch.steps == 5  # the first step that begins after 65 s is the eighth
    assert watch.train_steps >= 9

    watch = Stopwatch(
        take_step=step, device=torch.device("cpu"), warm_up=2, steps=12, seconds=0.0, clock=lambda: now[0]
    )
    for _ in range(7):
        watch(run, None)
    assert watch.steps == FEWEST_STEPS


def measure_toy(rank: int, world_size: int, init_method: str, learning_rate: float) -> dict[str, Any]:
    """The toy model, for as many steps as a visit to a GPU has."""
    return measure(MODELS["tiny"], torch.device("cpu"), Length(warm_up=5, steps=12), learning_rate)


def test_the_steps_of_a_visit_are_enough_to_see_the_loss_fall(pool: Pool) -> None:
    [short] = pool.run(measure_toy, 1, 5e-3)
    assert problems(short) == []
    shown = text(short)
    assert "5 steps to warm up, 12 timed" in shown
    # A CPU computes while it is asked to, so this is the time of forward and backward themselves.
    assert 2 * short["host_ms_per_micro_batch"] == pytest.approx(1e3 * short["forward_backward_s"], rel=0.05)
    assert "pretended" not in shown
    assert "**This GPU is pretended: nothing was computed, and no figure below is a speed.**" in text(
        short | {"gpu": "pretended NVIDIA H100"}
    )


def test_a_model_that_learns_nothing_is_called_out(pool: Pool) -> None:
    """With a rate that changes no weight."""
    [found] = pool.run(measure_toy, 1, 1e-12)
    found = problems(found)
    assert len(found) == 1
    assert found[0].endswith("nats only, not by 0.5: nothing was learnt")


def quiet_curve(num_steps: int = 1500) -> list[LossRecord]:
    noise = random.Random(2)
    return [LossRecord(step=step, loss=2.5 + noise.gauss(0.0, 0.03)) for step in range(1, num_steps + 1)]


@pytest.mark.parametrize("variant", robust_z.VARIANTS)
def test_a_plain_robust_z_sees_a_jump_and_a_fall_and_nothing_else(variant: str) -> None:
    curve = quiet_curve()
    curve[1100] = replace(curve[1100], loss=3.0)
    curve[1300] = replace(curve[1300], loss=2.1)
    alarms = robust_z.alarms(curve, *robust_z.sizes(curve, variant), threshold=7.0)
    assert [(alarm.step, alarm.direction) for alarm in alarms] == [(1101, "up"), (1301, "down")]


def test_a_plain_robust_z_looks_at_earlier_values_only() -> None:
    curve = quiet_curve()
    for variant in robust_z.VARIANTS:
        z, _ = robust_z.sizes(curve, variant)
        shorter, _ = robust_z.sizes(curve[:900], variant)
        assert list(z[400:900]) == list(shorter[400:])


def test_the_threshold_of_a_family_is_chosen_on_the_others() -> None:
    labels = [Label("up", 1200, 1200)]
    cases = [Case(family, quiet_curve(), labels) for family in ("gpt2", "pythia")]
    keen = Choice("keen", [Score([(labels[0], 0)], 3, 2, 0, 499), Score([(labels[0], 0)], 1, 0, 0, 499)])
    slow = Choice("slow", [Score([(labels[0], None)], 0, 0, 0, 499), Score([(labels[0], None)], 0, 0, 0, 499)])
    assert best([keen, slow], cases, lambda case: case.family == "pythia").title == "keen"
    assert best([keen, slow], cases, lambda case: case.family == "gpt2").title == "slow"
    assert cost(slow, cases, lambda _: True) == 100.0
    table = left_out_table(cases, {"rule": [keen, slow]})
    assert "| gpt2 | rule | keen | 1/1 | 0/0 | 400.80 | 0.00 |" in table
