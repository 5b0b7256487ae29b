"""Job for the pool: updates by gradients that are drawn for whole parameters, the same under every layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from harness.config.schema import Config
    from harness.parallel.ranks import Ranks


def whole_gradient(name: str, shape: tuple[int, ...], step: int) -> torch.Tensor:
    import torch
    import xxhash

    generator = torch.Generator().manual_seed(xxhash.xxh32_intdigest(f"{name}/{step}".encode()))
    return torch.randn(shape, generator=generator) * 0.01


def own_part(whole: torch.Tensor, name: str, config: Config, ranks: Ranks) -> torch.Tensor:
    """The part of a whole parameter, or of its gradient, that a rank holds."""
    from harness.model.initial_weights import part_of
    from harness.parameters.table import find_parameter

    parameter = find_parameter(name, config.model)
    if parameter.num_experts is None:
        return part_of(whole, parameter.cut, ranks.tp)
    return part_of(whole.chunk(ranks.ep.size)[ranks.ep.rank], parameter.cut, ranks.etp)


def updated(
    rank: int, world_size: int, init_method: str, config: Config, num_steps: int
) -> tuple[Ranks, list[dict[str, Any]], dict[str, float]]:
    """This rank's weights before and after each update, by name in the whole model, and the norms of the states."""
    import torch

    from harness.model.mcore import build_model
    from harness.optim.mcore import Optimizer
    from harness.parallel import mcore as parallel
    from harness.parameters.table import find_parameter
    from harness.plan.plan import make_plan

    plan, device = make_plan(config, world_size), torch.device("cpu")
    ranks = parallel.start(plan.layout, rank=rank, device=device, seed=1, init_method=init_method)
    try:
        chunks = build_model(config, plan, ranks, device)
        optimizer = Optimizer(config, list(chunks))
        parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]

        def weights() -> dict[str, Any]:
            return {parameter.whole_name: parameter.detach().float().clone() for parameter in parameters}

        seen = [weights()]
        for step in range(num_steps):
            for parameter in parameters:
                shape = find_parameter(parameter.whole_name, config.model).shape
                gradient = whole_gradient(parameter.whole_name, shape, step)
                parameter.main_grad.copy_(own_part(gradient, parameter.whole_name, config, ranks))
            optimizer.prepare(torch.ones(()))
            optimizer.update(config.optimizer.learning_rate)
            seen.append(weights())
        return ranks, seen, optimizer.state_norms()
    finally:
        parallel.end()
