"""Jobs for the pool: updates in which some parameters are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.config.schema import Config


def names_of(rank: int, world_size: int, init_method: str, config: Config) -> list[str]:
    """The names by which this rank's parameters are frozen."""
    import torch

    from harness.model.mcore import build_model
    from harness.parallel import mcore as parallel
    from harness.parameters.names import plain_name
    from harness.plan.plan import make_plan

    plan, device = make_plan(config, world_size), torch.device("cpu")
    ranks = parallel.start(plan.layout, rank=rank, device=device, seed=1, init_method=init_method)
    try:
        return [
            plain_name(p.whole_name) for chunk in build_model(config, plan, ranks, device) for p in chunk.parameters()
        ]
    finally:
        parallel.end()


def updates(
    rank: int, world_size: int, init_method: str, config: Config, phases: Sequence[tuple[str, ...]]
) -> tuple[list[dict[str, Any]], list[float], int]:
    """The weights before and after each of some updates by gradients of ones, in each of which patterns are frozen.

    Also the gradient norms, and of how many shards there are moments in the end.
    """
    import torch

    from harness.model.mcore import build_model
    from harness.optim.mcore import Optimizer
    from harness.parallel import mcore as parallel
    from harness.plan.plan import make_plan

    plan, device = make_plan(config, world_size), torch.device("cpu")
    ranks = parallel.start(plan.layout, rank=rank, device=device, seed=1, init_method=init_method)
    try:
        chunks = build_model(config, plan, ranks, device)
        optimizer = Optimizer(config, list(chunks))

        def weights() -> dict[str, Any]:
            return {p.whole_name: p.detach().float().numpy().copy() for chunk in chunks for p in chunk.parameters()}

        seen, norms = [weights()], []
        for frozen in phases:
            optimizer.follow(config.optimizer, frozen)
            for chunk in chunks:
                for parameter in chunk.parameters():
                    parameter.main_grad.fill_(1.0)
            norms.append(float(optimizer.prepare(torch.ones(()))))
            optimizer.update(0.1)
            seen.append(weights())
        parts = optimizer.megatron.chained_optimizers
        return seen, norms, sum("exp_avg" in state for part in parts for state in part.optimizer.state.values())
    finally:
        parallel.end()
