"""Cross-entropy over a vocabulary that is cut over tensor-parallel ranks, without an fp32 copy of the logits.

The forward pass keeps one number per row (log of the sum of exponentials), and the backward pass overwrites the logits
with their gradient. On a GPU each is one kernel without extra memory: forward reads the logits once, backward rewrites
them. On a CPU rows are processed in chunks, and the extra memory is at most one chunk, whatever the size of the
vocabulary. Columns beyond the true vocabulary are ignored: they are neither predicted nor trained.

Shapes: S sequence, B micro batch, R rows (S·B), V columns of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from harness.model.kernels.launch import takes_kernels, warps
from harness.parallel import collectives

_CHUNK_BYTES = 8 * 2**20
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class VocabularyShard:
    """The columns of one tensor-parallel rank."""

    first_id: int
    """Token id of column 0."""
    num_true: int
    """Number of leading columns that are true vocabulary; the rest is padding."""
    group: collectives.Group | None
    """Ranks that hold the other columns; None if there are none."""


def cross_entropy(
    logits_SBV: torch.Tensor, labels_SB: torch.Tensor, shard: VocabularyShard, z_loss_coefficient: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy of every token in nats: `[S, B]`, fp32, equal on all ranks of the group.

    Destroys the logits in the backward pass. With a z-loss (PaLM: coefficient · log²Z) the gradient contains it,
    the returned value does not: it stays comparable between runs.
    """
    loss = _CrossEntropy.apply(logits_SBV, labels_SB, shard, z_loss_coefficient)  # type: ignore[no-untyped-call]
    assert isinstance(loss, torch.Tensor), "the cross-entropy is a tensor"
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context takes any attribute)
        logits_SBV: torch.Tensor,
        labels_SB: torch.Tensor,
        shard: VocabularyShard,
        z_loss_coefficient: float,
    ) -> torch.Tensor:
        logits_RV = logits_SBV.detach().reshape(-1, logits_SBV.size(-1))
        columns_R = labels_SB.reshape(-1) - shard.first_id
        is_mine_R = (columns_R >= 0) & (columns_R < shard.num_true)
        columns_R = columns_R.clamp(0, shard.num_true - 1)
        log_sum_R, target_R = log_sums(logits_RV, columns_R, shard.num_true)
        target_R = target_R * is_mine_R
        if shard.group is not None:
            log_sum_R = _log_sum_over(log_sum_R, shard.group)
            collectives.sum_over(target_R, shard.group)
        ctx.logits_RV, ctx.columns_R, ctx.is_mine_R, ctx.log_sum_R = logits_RV, columns_R, is_mine_R, log_sum_R
        ctx.shard, ctx.z_loss_coefficient = shard, z_loss_coefficient
        return (log_sum_R - target_R).view(labels_SB.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_SB: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # noqa: ANN401
        logits_RV, shard = ctx.logits_RV, ctx.shard
        ctx.logits_RV = None
        gradient_R = gradient_SB.reshape(-1)
        softmax_weight_R = gradient_R * (1 + 2 * ctx.z_loss_coefficient * ctx.log_sum_R)
        target_weight_R = gradient_R * ctx.is_mine_R
        replace_by_gradients(
            logits_RV,
            columns_R=ctx.columns_R,
            log_sum_R=ctx.log_sum_R,
            softmax_weight_R=softmax_weight_R,
            target_weight_R=target_weight_R,
            num_true=shard.num_true,
        )
        return logits_RV.view(*gradient_SB.shape, -1), None, None, None


def log_sums(logits_RV: torch.Tensor, columns_R: torch.Tensor, num_true: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log of the sum of exponentials, and the logit in the label's column, per row: fp32, `[R]` each."""
    log_sum_R = torch.empty(logits_RV.size(0), dtype=torch.float32, device=logits_RV.device)
    target_R = torch.empty_like(log_sum_R)
    if takes_kernels(logits_RV):
        launch_log_sums(logits_RV, columns_R, num_true, log_sum_R, target_R)
        return log_sum_R, target_R
    for rows in _chunks(logits_RV):
        chunk_RV = logits_RV[rows, :num_true].float()
        log_sum_R[rows] = chunk_RV.logsumexp(dim=-1)
        target_R[rows] = chunk_RV.gather(1, columns_R[rows, None]).squeeze(1)
    return log_sum_R, target_R


def launch_log_sums(
    logits_RV: torch.Tensor, columns_R: torch.Tensor, num_true: int, log_sum_R: torch.Tensor, target_R: torch.Tensor
) -> None:
    """Fill `log_sum_R` and `target_R` by the kernel."""
    if logits_RV.is_meta:
        return
    from harness.model.kernels import cross_entropy as kernels

    rows, columns = logits_RV.shape
    kernels.log_sums[(rows,)](
        logits_RV, columns_R, log_sum_R, target_R, NUM_TRUE=num_true, V=columns, BLOCK=_BLOCK, num_warps=warps(_BLOCK)
    )


def replace_by_gradients(
    logits_RV: torch.Tensor,
    *,
    columns_R: torch.Tensor,
    log_sum_R: torch.Tensor,
    softmax_weight_R: torch.Tensor,
    target_weight_R: torch.Tensor,
    num_true: int,
) -> None:
    """Replace logits by their gradient: softmax times one weight, minus the other weight in the label's column.

    Columns from `num_true` on become 0.
    """
    if takes_kernels(logits_RV):
        launch_gradients(logits_RV, columns_R, log_sum_R, softmax_weight_R, target_weight_R, num_true)
        return
    for rows in _chunks(logits_RV):
        true_RV = logits_RV[rows, :num_true]
        gradient = (true_RV.float() - log_sum_R[rows, None]).exp_().mul_(softmax_weight_R[rows, None])
        true_RV.copy_(gradient.scatter_add_(1, columns_R[rows, None], -target_weight_R[rows, None]))
    logits_RV[:, num_true:] = 0


def launch_gradients(
    logits_RV: torch.Tensor,
    columns_R: torch.Tensor,
    log_sum_R: torch.Tensor,
    softmax_weight_R: torch.Tensor,
    target_weight_R: torch.Tensor,
    num_true: int,
) -> None:
    """Do what `replace_by_gradients` does by the kernel."""
    if logits_RV.is_meta:
        return
    from harness.model.kernels import cross_entropy as kernels

    rows, columns = logits_RV.shape
    kernels.gradients[(rows, -(-columns // _BLOCK))](
        logits_RV,
        columns_R,
        log_sum_R,
        softmax_weight_R,
        target_weight_R,
        NUM_TRUE=num_true,
        V=columns,
        BLOCK=_BLOCK,
        num_warps=warps(_BLOCK),
    )


def _log_sum_over(log_sum_R: torch.Tensor, group: collectives.Group) -> torch.Tensor:
    """Combine the ranks' log-sums into the log of the whole sum."""
    largest = collectives.max_over(log_sum_R.clone(), group)
    return collectives.sum_over((log_sum_R - largest).exp(), group).log() + largest


def _chunks(logits_RV: torch.Tensor) -> list[slice]:
    """Return chunks of rows of limited fp32 size."""
    rows, columns = logits_RV.shape
    size = max(1, _CHUNK_BYTES // (4 * columns))
    return [slice(start, start + size) for start in range(0, rows, size)]
