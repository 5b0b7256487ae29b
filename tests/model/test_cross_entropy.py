"""Cross-entropy over a cut, padded vocabulary: values and gradients against torch's."""

from __future__ import annotations

import pytest
import torch
import worlds
from pool import Pool
from torch.nn import functional

from harness.model import cross_entropy as module
from harness.model.cross_entropy import VocabularyShard, cross_entropy

S, B, TRUE, PADDED = 6, 3, 101, 128
WHOLE = VocabularyShard(first_id=0, num_true=TRUE, group=None)


def example(seed: int = 0, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits `[S, B, V]`, labels `[S, B]` and a weight of every token's loss."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(S, B, PADDED, generator=generator) * scale
    labels = torch.randint(0, TRUE, (S, B), generator=generator)
    weights = torch.rand(S, B, generator=generator)
    weights[0, 0] = 0.0
    return logits, labels, weights


def ours(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, z: float) -> tuple[torch.Tensor, ...]:
    leaf = logits.clone().requires_grad_()
    loss = cross_entropy(leaf * 1.0, labels, WHOLE, z)  # the product, because the logits are destroyed
    (loss * weights).sum().backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def in_fp64(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, z: float) -> tuple[torch.Tensor, ...]:
    leaf = logits.double().requires_grad_()
    true = leaf[..., :TRUE]
    loss = functional.cross_entropy(true.flatten(0, 1), labels.flatten(), reduction="none").view(S, B)
    penalty = z * true.logsumexp(dim=-1).square()
    ((loss + penalty) * weights).sum().backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("z", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("scale", [0.02, 3.0, 40.0])
def test_value_and_gradient_equal_torch_in_fp64(z: float, scale: float) -> None:
    logits, labels, weights = example(scale=scale)
    loss, gradient = ours(logits, labels, weights, z)
    expected_loss, expected_gradient = in_fp64(logits, labels, weights, z)
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-6, atol=2e-5 * scale / 3)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-5)


def test_value_and_gradient_equal_torch_in_fp32() -> None:
    logits, labels, weights = example()
    loss, gradient = ours(logits, labels, weights, 0.0)
    leaf = logits.clone().requires_grad_()
    expected = functional.cross_entropy(leaf[..., :TRUE].flatten(0, 1), labels.flatten(), reduction="none").view(S, B)
    (expected * weights).sum().backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-5, atol=1e-6)


def test_padding_has_no_probability_and_no_gradient() -> None:
    logits, labels, weights = example()
    loss, _ = ours(logits, labels, weights, 1e-2)
    logits[..., TRUE:] = 1e4
    same_loss, gradient = ours(logits, labels, weights, 1e-2)
    assert torch.equal(same_loss, loss)
    assert not gradient[..., TRUE:].any()


def test_the_z_loss_is_trained_on_but_not_reported() -> None:
    logits, labels, weights = example()
    loss, gradient = ours(logits, labels, weights, 0.0)
    same_loss, other_gradient = ours(logits, labels, weights, 0.1)
    assert torch.equal(loss, same_loss)
    assert not torch.allclose(gradient, other_gradient)


def test_a_masked_token_has_no_gradient() -> None:
    _, gradient = ours(*example(), 0.1)
    assert not gradient[0, 0].any()
    assert gradient[0, 1].any()


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits, labels, weights = example()
    loss, gradient = ours(logits.bfloat16(), labels, weights, 0.0)
    expected_loss, expected_gradient = in_fp64(logits.bfloat16(), labels, weights, 0.0)
    assert (loss.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-6, atol=2e-5)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 5, 17])
def test_chunks_of_rows_do_not_show(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ours(*example(), 1e-2)
    monkeypatch.setattr(module, "_CHUNK_BYTES", rows * 4 * PADDED)
    chunked = ours(*example(), 1e-2)
    assert all(torch.equal(one, other) for one, other in zip(whole, chunked, strict=True))


@pytest.mark.parametrize("z", [0.0, 0.05])
def test_two_ranks_equal_one(z: float, pool: Pool) -> None:
    """Each rank holds half of the columns; the padding is all on the second."""
    logits, labels, weights = example()
    loss, gradient = ours(logits, labels, weights, z)
    parts = pool.run(worlds.cut_cross_entropy, 2, logits.numpy(), labels.numpy(), weights.numpy(), TRUE, z)
    for part_loss, _ in parts:
        torch.testing.assert_close(torch.from_numpy(part_loss), loss, rtol=1e-6, atol=1e-6)
    joined = torch.cat([torch.from_numpy(part_gradient) for _, part_gradient in parts], dim=-1)
    torch.testing.assert_close(joined, gradient, rtol=1e-5, atol=1e-7)
    assert not joined[..., TRUE:].any()
