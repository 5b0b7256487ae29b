"""Every Triton kernel, run by Triton's interpreter, against the same mathematics in fp64, with gradients.

Shapes are awkward on purpose: no powers of two, rows that do not fill a tile. `tests/gpu/test_gpu_kernels.py` holds the
compiled kernels to the same references on a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton", reason="Triton has no wheel for this machine")

from benchmarks.kernel_cases import Case, cases
from benchmarks.kernel_traffic import SIZES, counted_cases, ratio
from harness.config.model import ModelConfig
from harness.model import rotary
from harness.model.activation import KINDS, ActivationKernel
from harness.model.cross_entropy import launch_gradients, launch_log_sums
from harness.model.norm import RMSNormBehindSumKernel, RMSNormKernel
from harness.model.rotary import Rotation, RotationKernel, SplitKernel

Function = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]

FP32 = {"rtol": 1e-5, "atol": 1e-5}
# The interpreter cuts numbers off where a GPU rounds them: a whole unit in the last place, twice behind a sum.
ONE_ROUNDING = {torch.float32: FP32, torch.bfloat16: {"rtol": 2**-7, "atol": 2**-7}}
TWO_ROUNDINGS = {torch.float32: FP32, torch.bfloat16: {"rtol": 2**-6, "atol": 2**-6}}
DTYPES = list(ONE_ROUNDING)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same(
    kernel: Function,
    exact: Function,
    *inputs: torch.Tensor,
    tolerances: dict[torch.dtype, dict[str, float]] = ONE_ROUNDING,
) -> None:
    """Both give the same outputs, and the same gradient of every input, for random gradients of the outputs."""
    tolerance = tolerances[inputs[0].dtype]
    ours = [x.clone().requires_grad_() for x in inputs]
    exactly = [x.double().requires_grad_() for x in inputs]
    found, expected = (y if isinstance(y, tuple) else (y,) for y in (kernel(*ours), exact(*exactly)))
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == inputs[0].dtype
        torch.testing.assert_close(mine.detach().double(), theirs.detach(), **tolerance)
    gradients = [random(*y.shape, dtype=y.dtype, seed=9 + place) for place, y in enumerate(found)]
    torch.autograd.backward(found, gradients)
    torch.autograd.backward(expected, [gradient.double() for gradient in gradients])
    for mine, theirs in zip(ours, exactly, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(mine.grad.double() / scale, theirs.grad / scale, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(13, 80), (5, 4100)])
def test_rms_norm(rows: int, width: int, dtype: torch.dtype) -> None:
    assert_same(
        lambda x, w: RMSNormKernel.apply(x, w, 1e-5),
        lambda x, w: functional.rms_norm(x, (width,), w, 1e-5),
        random(rows, 2, width, dtype=dtype),
        random(width, dtype=dtype, seed=1),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_behind_a_sum(dtype: torch.dtype) -> None:
    def exact(x: torch.Tensor, residual: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        total = x + residual
        return total, functional.rms_norm(total, (80,), w, 1e-5)

    assert_same(
        lambda x, residual, w: RMSNormBehindSumKernel.apply(x, residual, w, 1e-5),
        exact,
        random(13, 2, 80, dtype=dtype),
        random(13, 2, 80, dtype=dtype, seed=1),
        random(80, dtype=dtype, seed=2),
        tolerances=TWO_ROUNDINGS,
    )


def test_rms_norm_of_keys_that_lie_in_the_projection() -> None:
    mixed = random(7, 2, 3, 4 * 10)
    weight = random(10, seed=1)
    key = mixed[..., 20:30]
    found = RMSNormKernel.apply(key, weight, 1e-5)
    torch.testing.assert_close(found, functional.rms_norm(key, (10,), weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINDS)
def test_activation(name: str, dtype: torch.dtype) -> None:
    kind = KINDS[name]
    x = 3 * random(3, 2, 1030 * (2 if kind.gated else 1), dtype=dtype)
    assert_same(lambda y: ActivationKernel.apply(y, kind), kind.plain, x)


def table(length: int, head_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = {"num_layers": 1, "hidden_size": 2 * head_size, "num_attention_heads": 2, "ffn_hidden_size": 8}
    return Rotation(ModelConfig(**sizes, vocab_size=8))._table(length, torch.device("cpu"))


def exactly_rotated(x_SBND: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x_SBND.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "head_size"), [(3, 10), (70, 64)])
def test_rotation(heads: int, head_size: int, dtype: torch.dtype) -> None:
    tables = table(7, head_size)
    assert_same(
        lambda x: RotationKernel.apply(x, *tables),
        lambda x: exactly_rotated(x, *tables),
        random(7, 2, heads, head_size, dtype=dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_sample", [False, True])
@pytest.mark.parametrize(("groups", "shares"), [(1, 1), (2, 4), (3, 7)])
def test_cut_and_rotation(groups: int, shares: int, by_sample: bool, dtype: torch.dtype) -> None:
    tables = table(7, 10)

    def exact(mixed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = rotary.split(mixed, 10)
        return exactly_rotated(query, *tables), exactly_rotated(key, *tables), value

    mixed = random(7, 2, groups, (shares + 2) * 10, dtype=dtype)
    assert_same(lambda x: SplitKernel.apply(x, *tables, by_sample), exact, mixed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_true", "columns"), [(37, 48), (4096 + 7, 4096 + 64)])
def test_cross_entropy(num_true: int, columns: int, dtype: torch.dtype) -> None:
    logits = 4 * random(5, columns, dtype=dtype)
    labels = torch.tensor([0, 1, num_true - 1, 3, 17])
    log_sum, target = torch.empty(5), torch.empty(5)
    launch_log_sums(logits, labels, num_true, log_sum, target)
    exact = logits[:, :num_true].double()
    torch.testing.assert_close(log_sum.double(), exact.logsumexp(-1), **FP32)
    assert target.tolist() == [logits[row, label].item() for row, label in enumerate(labels)]
    softmax_weight, target_weight = random(5, seed=1), random(5, seed=2)
    expected = exact.softmax(-1) * softmax_weight[:, None]
    expected[range(5), labels] -= target_weight.double()
    launch_gradients(logits, labels, log_sum, softmax_weight, target_weight, num_true)
    torch.testing.assert_close(logits[:, :num_true].double(), expected, **ONE_ROUNDING[dtype])
    assert not logits[:, num_true:].any()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_logit_that_is_no_number_makes_its_row_no_number() -> None:
    logits = random(3, 48)
    logits[1, 5] = float("nan")
    logits[2, 5] = float("inf")
    log_sum, target = torch.empty(3), torch.empty(3)
    launch_log_sums(logits, torch.tensor([0, 1, 2]), 48, log_sum, target)
    assert log_sum.isfinite().tolist() == [True, False, False]


def test_every_kernel_compiles_for_hopper_once_and_spills_nothing() -> None:
    """In a process of its own: Triton here interprets. The one narrow access is the logit of the label."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.kernel_registers"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == [case.name for case in cases(SIZES)]
    assert {row[0]: row[3] for row in rows if row[3] != "0"} == {}, "spilled bytes"
    assert {row[0]: row[4] for row in rows if row[4] != "0"} == {"cross-entropy, forward": "1"}, "narrow accesses"
    assert {row[0]: row[5] for row in rows if row[5] != "1"} == {}, "variants for three lengths"


@pytest.mark.parametrize("case", counted_cases(), ids=lambda case: case.name)
def test_no_kernel_moves_more_than_a_twentieth_too_much(case: Case) -> None:
    assert ratio(case) <= 1.05
