"""Job for the pool: attention of ranks that share samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from harness.model.attention.bounds import Documents, documents_at

if TYPE_CHECKING:
    from harness.model.attention.rules import Rules


def documents_of(borders: list[int]) -> Documents:
    return documents_at(torch.tensor(borders, dtype=torch.int32))


def drawn(shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def gradients_of(
    attend: Callable[..., torch.Tensor], parts: list[torch.Tensor], gradient: torch.Tensor
) -> list[torch.Tensor]:
    """The output, and the gradient of each input for a gradient of the output."""
    fresh = [part.detach().clone().requires_grad_() for part in parts]
    output = attend(*fresh)
    output.backward(gradient)
    return [output.detach(), *(part.grad for part in fresh if part.grad is not None)]


def shared_attention(
    rank: int,
    world_size: int,
    init_method: str,
    way: str,
    parts: list[torch.Tensor],
    borders: list[int] | None,
    rules: Rules,
) -> list[Any]:
    """This rank's part of the output, and of the gradients of the inputs; the last of them, of sinks, is a share."""
    import torch.distributed as dist

    from harness.model import context
    from harness.model.attention.bounds import stretches_of
    from harness.model.attention.sharing import WithAllTokens, WithSomeHeads
    from harness.parallel.ranks import Place

    dist.init_process_group("gloo", init_method=init_method, rank=rank, world_size=world_size)
    try:
        assert dist.group.WORLD is not None
        attend = {"allgather": WithAllTokens, "a2a": WithSomeHeads}[way](dist.group.WORLD)
        place = Place(rank=rank, size=world_size)
        length, batch = parts[0].shape[:2]
        documents = None
        if borders is not None:
            whole = documents_of(borders)
            documents = documents_at(whole.starts, stretches=stretches_of(length, batch, place, borders))
        own = [context.own_part(part.transpose(0, 1), place).transpose(0, 1) for part in parts[:3]]

        def attend_own(*given: torch.Tensor) -> torch.Tensor:
            return attend(*given[:3], documents, rules, given[3])

        gradient = context.own_part(drawn(parts[0].shape).transpose(0, 1), place).transpose(0, 1)
        return [found.numpy() for found in gradients_of(attend_own, [*own, parts[3]], gradient)]
    finally:
        dist.destroy_process_group()
