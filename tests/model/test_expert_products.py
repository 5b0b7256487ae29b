"""The products of experts: grouped ones are the loop's, for every number of tokens of an expert."""

from __future__ import annotations

import pytest
import torch

from harness.model.experts import uneven
from harness.model.experts.products import grouped_product, looped_product, takes_grouped

COUNTS = {
    "even": [8, 8, 8, 8],
    "one without tokens": [10, 0, 7, 15],
    "all to the last": [0, 0, 0, 32],
}


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_grouped_product_is_the_loops(counts: list[int], dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    x_TI, weights_EOI = torch.randn(32, 16, dtype=dtype), torch.randn(4, 24, 16, dtype=dtype)
    given_TO = torch.randn(32, 24, dtype=dtype)
    assert takes_grouped(x_TI, weights_EOI)
    found = []
    for product in (grouped_product, looped_product):
        x, weights = x_TI.clone().requires_grad_(), weights_EOI.clone().requires_grad_()
        y_TO = product(x, weights, torch.tensor(counts))
        y_TO.backward(given_TO)  # type: ignore[no-untyped-call]
        found.append((y_TO, x.grad, weights.grad))
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        assert torch.allclose(ours.float(), theirs.float(), rtol=1e-5 if dtype is torch.float32 else 1e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "inputs"), [(0, 16), (5, 6)], ids=["no tokens at all", "rows that are not a multiple of 16 bytes"]
)
def test_what_the_grouped_product_does_not_take_goes_through_the_loop(tokens: int, inputs: int) -> None:
    x_TI, weights_EOI = torch.randn(tokens, inputs), torch.randn(2, 8, inputs, requires_grad=True)
    assert not takes_grouped(x_TI, weights_EOI)
    y_TO = grouped_product(x_TI, weights_EOI, torch.tensor([tokens, 0]))
    assert torch.allclose(y_TO, x_TI @ weights_EOI[0].T)
    y_TO.sum().backward()  # type: ignore[no-untyped-call]
    assert weights_EOI.grad is not None


def test_uneven_collectives_are_made_of_an_exchange() -> None:
    """Three ranks in one process: what each sends to each is put together here."""
    own = [
        torch.arange(2 * rows, dtype=torch.float32).view(rows, 2) + 100 * rank for rank, rows in enumerate((1, 3, 2))
    ]
    sizes = [len(each) for each in own]
    sent: list[torch.Tensor] = []

    def exchange(to_each: torch.Tensor, sizes_out: list[int], sizes_in: list[int]) -> torch.Tensor:
        assert sum(sizes_in) == len(to_each)
        sent.append(to_each)
        return to_each.new_zeros(sum(sizes_out), *to_each.shape[1:])

    for rank, each in enumerate(own):
        assert uneven.gathered(each, sizes, exchange).shape == (6, 2)
        assert torch.equal(sent[-1], torch.cat([own[rank]] * 3))
    back = torch.arange(9.0).view(9, 1)
    total = uneven.scattered_sum(torch.zeros(6, 1), sizes, 1, lambda *_: back)
    assert total.tolist() == [[0 + 3 + 6], [1 + 4 + 7], [2 + 5 + 8]]
