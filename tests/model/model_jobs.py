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


def recomputation_of_a_step(rank: int, world_size: int, init_method: str, config: Config) -> dict[str, int]:
    """Bytes that a micro-batch keeps when backward begins, and how often each kind of module is computed in all."""
    import pytest

    from harness.parallel import cpu

    cpu.prepare()
    from counted_storages import CountedStorages
    from megatron.core.pipeline_parallel import schedules
    from torch import nn

    found: dict[str, int] = {}
    storages, usual, usual_call = CountedStorages(), schedules.backward_step, nn.Module.__call__

    def measured(*arguments: Any, **keywords: Any) -> Any:
        found.setdefault("kept bytes", storages.live_bytes())
        return usual(*arguments, **keywords)

    def counted(module: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        kind = type(module).__name__
        found[kind] = found.get(kind, 0) + 1
        return usual_call(module, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedules, "backward_step", measured)
        patch.setattr(nn.Module, "__call__", counted)
        with storages, _after_forward_and_backward(rank, world_size, init_method, config, num_microbatches=1):
            return found


def build_with_transformer_engine(rank: int, world_size: int, init_method: str, config: Config) -> None:
    """Build the model as where Transformer Engine is used; only what is refused before it is imported can be seen."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.model.block.mcore.uses_transformer_engine", lambda *_: True)
        with _after_forward_and_backward(rank, world_size, init_method, config, num_microbatches=1):
            pass


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
