"""Cross-entropy against torch's, with its gradient, in every form of the kernels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from harness.model import cross_entropy as module
from harness.model.cross_entropy import VocabularyShard, cross_entropy

NUM_TRUE, PADDED = 37, 48
SHARD = VocabularyShard(first_id=0, num_true=NUM_TRUE, group=None)


def problem(rows: int = 12, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels, and the gradient of the loss of every token."""
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(rows, 2, PADDED, generator=generator)).to(dtype)
    labels = torch.randint(NUM_TRUE, (rows, 2), generator=generator)
    return logits, labels, torch.randn(rows, 2, generator=generator)


def torchs(
    logits: torch.Tensor, labels: torch.Tensor, gradient: torch.Tensor, z_loss: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of the logits by torch, in fp32."""
    logits = logits.float().clone().requires_grad_()
    true = logits[..., :NUM_TRUE]
    loss = functional.cross_entropy(true.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    trained_on = loss + z_loss * true.logsumexp(-1).square()
    (trained_on * gradient).sum().backward()
    assert logits.grad is not None
    return loss.detach(), logits.grad


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("chunk_rows", [1, 5, 24])
def test_loss_and_gradient_are_torchs(chunk_rows: int, z_loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._CHUNK_BYTES, "cpu", chunk_rows * 4 * PADDED)
    logits, labels, gradient = problem()
    expected_loss, expected_gradient = torchs(logits, labels, gradient, z_loss)
    logits.requires_grad_()
    loss = cross_entropy(logits * 1, labels, SHARD, z_loss)
    loss.backward(gradient)
    torch.testing.assert_close(loss.detach(), expected_loss)
    torch.testing.assert_close(logits.grad, expected_gradient)


def test_padded_columns_are_neither_predicted_nor_trained() -> None:
    logits, labels, gradient = problem()
    loss = cross_entropy(logits.clone(), labels, SHARD)
    logits[..., NUM_TRUE:] = 1e4
    logits.requires_grad_()
    same = cross_entropy(logits * 1, labels, SHARD)
    same.backward(gradient)
    assert torch.equal(loss, same.detach())
    assert logits.grad is not None
    assert not logits.grad[..., NUM_TRUE:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_backward_kernels_write_the_same_gradient(dtype: torch.dtype) -> None:
    logits, labels, gradient = problem(dtype=dtype)
    rows = logits.flatten(0, 1)[:, :NUM_TRUE]
    log_sum = rows.float().logsumexp(-1)
    weights = (gradient.flatten(), 2 * gradient.flatten())
    in_chunks, in_one_pass = rows.clone(), rows.clone()
    module.backward_rows(in_chunks, log_sum, *weights, labels.flatten())
    module.backward_rows_in_one_pass(in_one_pass, log_sum, *weights, labels.flatten())
    assert torch.equal(in_chunks, in_one_pass)


@pytest.mark.parametrize(
    ("rows", "limit", "sizes"),
    [(24, 10, [8, 8, 8]), (24, 100, [24]), (23, 10, [10, 10, 3]), (7, 7, [7]), (3, 1, [1, 1, 1])],
)
def test_chunks_are_equal_where_rows_allow(
    rows: int, limit: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module._CHUNK_BYTES, "cpu", limit * 4 * PADDED)
    chunks = module._chunks(torch.empty(rows, PADDED))
    assert [chunk.stop - chunk.start for chunk in chunks if chunk.stop <= rows] + [
        rows - chunk.start for chunk in chunks if chunk.stop > rows
    ] == sizes
