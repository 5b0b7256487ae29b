"""Cross-entropy over a vocabulary that is cut over tensor-parallel ranks, without an fp32 copy of the logits.

Rows are processed in chunks. The forward pass keeps one number per row (log of the sum of exponentials), and the
backward pass overwrites the logits with their gradient. So the extra memory is at most one chunk, whatever the size of
the vocabulary. On a GPU there is no extra memory: the forward pass is one kernel that reads the logits, the backward
pass one that rewrites them. Columns beyond the true vocabulary are ignored: they are neither predicted nor trained.

Shapes: S sequence, B micro batch, R rows (S·B), V columns of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from harness.model.fusion import on_device
from harness.parallel import collectives

_CHUNK_BYTES = {"cuda": 512 * 2**20, "cpu": 8 * 2**20}


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
        log_sum_R = torch.empty(logits_RV.size(0), dtype=torch.float32, device=logits_RV.device)
        target_R = torch.empty_like(log_sum_R)
        forward_chunk = on_device(forward_rows, logits_RV.device)
        for rows in _chunks(logits_RV):
            log_sum_R[rows], target_R[rows] = forward_chunk(logits_RV[rows, : shard.num_true], columns_R[rows])
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
        on_gpu = logits_RV.device.type == "cuda"
        backward_chunk = on_device(backward_rows_in_one_pass if on_gpu else backward_rows, logits_RV.device)
        for rows in _chunks(logits_RV):
            backward_chunk(
                logits_RV[rows, : shard.num_true],
                ctx.log_sum_R[rows],
                softmax_weight_R[rows],
                target_weight_R[rows],
                ctx.columns_R[rows],
            )
        logits_RV[:, shard.num_true :] = 0
        return logits_RV.view(*gradient_SB.shape, -1), None, None, None


def forward_rows(logits_RV: torch.Tensor, columns_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log of the sum of exponentials, and the logit in the label's column, per row: fp32, `[R]` each."""
    logits_RV = logits_RV.float()
    return logits_RV.logsumexp(dim=-1), logits_RV.gather(1, columns_R[:, None]).squeeze(1)


def backward_rows(
    logits_RV: torch.Tensor,
    log_sum_R: torch.Tensor,
    softmax_weight_R: torch.Tensor,
    target_weight_R: torch.Tensor,
    columns_R: torch.Tensor,
) -> None:
    """Replace logits by their gradient: softmax times one weight, minus the other weight in the label's column."""
    gradient = (logits_RV.float() - log_sum_R[:, None]).exp_().mul_(softmax_weight_R[:, None])
    logits_RV.copy_(gradient.scatter_add_(1, columns_R[:, None], -target_weight_R[:, None]))


def backward_rows_in_one_pass(
    logits_RV: torch.Tensor,
    log_sum_R: torch.Tensor,
    softmax_weight_R: torch.Tensor,
    target_weight_R: torch.Tensor,
    columns_R: torch.Tensor,
) -> None:
    """Do the same, element by element, so that it compiles to one kernel without an intermediate tensor."""
    is_label_RV = torch.arange(logits_RV.size(1), device=logits_RV.device) == columns_R[:, None]
    gradient = (logits_RV.float() - log_sum_R[:, None]).exp() * softmax_weight_R[:, None]
    logits_RV.copy_(gradient - torch.where(is_label_RV, target_weight_R[:, None], 0.0))


def _log_sum_over(log_sum_R: torch.Tensor, group: collectives.Group) -> torch.Tensor:
    """Combine the ranks' log-sums into the log of the whole sum."""
    largest = collectives.max_over(log_sum_R.clone(), group)
    return collectives.sum_over((log_sum_R - largest).exp(), group).log() + largest


def _chunks(logits_RV: torch.Tensor) -> list[slice]:
    """Return chunks of rows of limited fp32 size, equal if possible, so that compiled kernels see one shape.

    Rows without a useful divisor (a large prime) get a smaller last chunk, and one more kernel.
    """
    rows, columns = logits_RV.shape
    limit = min(max(1, _CHUNK_BYTES[logits_RV.device.type] // (4 * columns)), rows)
    divisors = (size for size in range(limit, limit // 2, -1) if rows % size == 0)
    size = next(divisors, limit)
    return [slice(start, start + size) for start in range(0, rows, size)]
