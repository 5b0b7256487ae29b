"""Jobs for the pool: forward and backward of a model on random tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from harness.config.schema import Config


def norms_of_a_step(rank: int, world_size: int, init_method: str, config: Config) -> dict[str, int]:
    """How often a micro-batch normalizes behind a sum, in the same step, and how often a norm finds that done."""
    import pytest

    from harness.model import norm

    counts = {"behind a sum": 0, "found": 0}
    usual_sum, usual_find = norm.rms_norm_behind_sum, norm.handed_over

    def counted_sum(*arguments: Any) -> Any:
        counts["behind a sum"] += 1
        return usual_sum(*arguments)

    def counted_find(*arguments: Any) -> Any:
        found = usual_find(*arguments)
        counts["found"] += found is not None
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norm, "rms_norm_behind_sum", counted_sum)
        patch.setattr(norm, "handed_over", counted_find)
        with _after_forward_and_backward(rank, world_size, init_method, config, num_microbatches=1):
            return counts


def gradient_sums(
    rank: int, world_size: int, init_method: str, config: Config, adds_in_products: bool, overlaps: bool = False
) -> dict[str, Any]:
    """The fp32 sums of gradients of two micro-batches, by parameter; weight gradients added within products, or not.

    Where reduction overlaps, it begins within backward, as on several GPUs.
    """
    import pytest

    from harness.model import weight_gradient
    from harness.parallel import cpu

    cpu.prepare()
    from megatron.core.tensor_parallel import layers

    calls: list[int] = []

    def counted(*tensors: torch.Tensor) -> None:
        calls.append(1)
        weight_gradient.wgrad_gemm_accum_fp32(*tensors)

    with pytest.MonkeyPatch.context() as patch:
        if overlaps:
            patch.setattr("harness.model.mcore._overlaps", lambda *_: True)
        if adds_in_products:
            patch.setattr("harness.model.mcore._adds_weight_gradients_in_products", lambda *_: True)
            ours = SimpleNamespace(wgrad_gemm_accum_fp32=counted)
            patch.setattr(layers, "fused_weight_gradient_mlp_cuda", ours, raising=False)
            patch.setattr(layers, "_grad_accum_fusion_available", True)
        with _after_forward_and_backward(rank, world_size, init_method, config, num_microbatches=2) as model:
            sums = {name: p.main_grad.detach().numpy().copy() for name, p in model.named_parameters()}
            return sums | {"products": len(calls)}


@contextmanager
def _after_forward_and_backward(
    rank: int, world_size: int, init_method: str, config: Config, *, num_microbatches: int
) -> Iterator[Any]:
    """The rank's model behind forward and backward of random tokens."""
    import numpy as np
    import torch

    from harness.data.batch import collate
    from harness.model.mcore import build_model
    from harness.parallel import mcore as parallel
    from harness.plan.plan import make_plan
    from harness.train.components.mcore import Pipeline

    plan, device = make_plan(config, world_size), torch.device("cpu")
    length, samples = config.phases[0].seq_length, config.parallel.micro_batch_size
    numbers = np.random.default_rng(5)
    ranks = parallel.start(plan.layout, rank=rank, device=device, seed=config.run.seed, init_method=init_method)
    try:
        chunks = build_model(config, plan, ranks, device)
        batches = [
            collate(
                numbers.integers(0, config.model.vocab_size, (samples, length + 1)),
                [[length + 1]] * samples,
                np.zeros(samples, dtype=np.int64),
                reset_at_document_borders=False,
            )
            for _ in range(num_microbatches)
        ]
        pipeline = Pipeline(chunks, ranks, config.model, num_channels=1, micro_batch_size=samples, seq_length=length)
        pipeline.forward_backward(
            batches if ranks.reads_tokens else [None] * num_microbatches,
            expected_tokens=num_microbatches * samples * length,
            flags=[],
        )
        yield chunks[0].module
    finally:
        parallel.end()
