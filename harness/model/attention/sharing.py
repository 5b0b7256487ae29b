"""Attention in samples that context-parallel ranks share, of which each holds two slices (see `harness.model.context`).

In two ways. Each rank gathers the keys and values of all tokens, and attends from its own (as Llama 3 was trained,
arXiv:2407.21783, section 3.3.2); or the ranks exchange tokens for heads, and each attends from all tokens in a part of
the heads (Ulysses, arXiv:2309.14509). Both take the same time on every rank: the two slices of each weigh the same.

Shapes: c ranks, S tokens of a sample, s of them on this rank, B micro batch, N heads, G of them with keys and values of
their own, M numbers of a group: its heads of queries, a head of keys and one of values, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from harness.model import context
from harness.model.attention.bounds import Documents, Stretch, stretches_of
from harness.model.attention.core import attend_in_samples, attend_stretch
from harness.model.attention.rules import Rules
from harness.parallel import collectives
from harness.parallel.collectives import Group
from harness.parallel.ranks import Place


@dataclass(frozen=True)
class WithAllTokens:
    """Attention of this rank's tokens, in all heads, with the keys and values of all tokens."""

    group: Group

    def __call__(
        self,
        query_sBND: torch.Tensor,
        key_sBGD: torch.Tensor,
        value_sBGD: torch.Tensor,
        documents: Documents | None,
        rules: Rules,
        sinks_N: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return what each head gives: `[s, B, N, D]`."""
        both_s2BGD = torch.stack((key_sBGD, value_sBGD), dim=1)
        both_S2BGD = context.in_order(_Gathered.apply(both_s2BGD, self.group), self.group.size())  # type: ignore[no-untyped-call]
        key_SBGD, value_SBGD = both_S2BGD.unbind(dim=1)
        stretches = self._whole(query_sBND, len(key_SBGD)) if documents is None else documents.stretches
        outputs = [
            attend_stretch(query_sBND[stretch.rows], key_SBGD, value_SBGD, stretch, rules, sinks_N)
            for stretch in stretches
        ]
        return torch.cat(outputs)

    def _whole(self, query_sBND: torch.Tensor, length: int) -> tuple[Stretch, ...]:
        """Return the stretches of a rank where each sample is one."""
        place = Place(rank=self.group.rank(), size=self.group.size())
        return stretches_of(length, query_sBND.size(1), place, device=query_sBND.device)


@dataclass(frozen=True)
class WithSomeHeads:
    """Attention of all tokens in this rank's part of the heads."""

    group: Group

    def __call__(
        self,
        query_sBND: torch.Tensor,
        key_sBGD: torch.Tensor,
        value_sBGD: torch.Tensor,
        documents: Documents | None,
        rules: Rules,
        sinks_N: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return what each head gives: `[s, B, N, D]`."""
        ranks, groups = self.group.size(), key_sBGD.size(2)
        query_sBGmD = query_sBND.reshape(*query_sBND.shape[:2], groups, -1, query_sBND.size(-1))
        mixed_sBGMD = torch.cat((query_sBGmD, key_sBGD.unsqueeze(3), value_sBGD.unsqueeze(3)), dim=3)
        by_rank = torch.stack(mixed_sBGMD.chunk(ranks, dim=2))
        mixed_SBgMD = context.in_order(_Exchanged.apply(by_rank, self.group).flatten(0, 1), ranks)  # type: ignore[no-untyped-call]
        # Copies, because a view would keep all three.
        query_SBnD, key_SBgD, value_SBgD = (
            part.flatten(2, 3).contiguous() for part in torch.split(mixed_SBgMD, [query_sBGmD.size(3), 1, 1], dim=3)
        )
        if sinks_N is not None:
            sinks_N = sinks_N.chunk(ranks)[self.group.rank()]
        output_SBnD = attend_in_samples(query_SBnD, key_SBgD, value_SBgD, documents, rules, sinks_N)
        back = torch.stack(context.by_rank(output_SBnD, ranks).chunk(ranks))
        output_csBnD: torch.Tensor = _Exchanged.apply(back, self.group)  # type: ignore[no-untyped-call]
        return torch.cat(output_csBnD.unbind(), dim=2)


class _Gathered(torch.autograd.Function):
    """The rows of all ranks, in rank order; the gradient of a row is the sum over all ranks."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, group: Group) -> torch.Tensor:  # noqa: ANN401
        """Gather."""
        ctx.group = group
        return collectives.joined(own.flatten(), group).view(-1, *own.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        """Add up, and keep the own rows."""
        own = collectives.sum_of_share(gradient.flatten(), ctx.group)
        return own.view(-1, *gradient.shape[1:]), None


class _Exchanged(torch.autograd.Function):
    """Exchange of all with all, `[c, …]`: each rank gives a part to each; gradients go back."""

    @staticmethod
    def forward(ctx: Any, to_each: torch.Tensor, group: Group) -> torch.Tensor:  # noqa: ANN401
        """Exchange."""
        ctx.group = group
        return _exchanged(to_each, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        """Exchange back."""
        return _exchanged(gradient, ctx.group), None


def _exchanged(to_each: torch.Tensor, group: Group) -> torch.Tensor:
    sizes = [to_each.numel() // group.size()] * group.size()
    return collectives.exchanged(to_each.flatten(), sizes, sizes, group).view_as(to_each)
