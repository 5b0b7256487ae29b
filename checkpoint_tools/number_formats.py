"""Number formats of weights: whether all numbers of a tensor are numbers, and stay so in another format."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from harness.errors import CheckpointError

OPTIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""The formats that `--dtype` names."""
MAX_VANISHED = 0.01
"""Share of the nonzero values of a tensor that may fall to zero; what is lost below it is told."""
_BLOCK = 2**22
"""Numbers that are looked at together."""


def format_name(dtype: torch.dtype) -> str:
    """Return the name of a number format, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def require_fits(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """Check that all numbers of a tensor are finite, and stay the same in a number format but for its rounding.

    Raises:
        CheckpointError: They do not. Names the tensor, and its largest value or what would be lost.
    """
    if tensor.numel() == 0:
        return
    low, high = (float(end) for end in tensor.aminmax())
    largest = max(low, high, key=abs)
    if not math.isfinite(low + high):
        kind = "nan" if math.isnan(low) else f"{largest:g}"
        raise CheckpointError(f"{name} holds {kind}: this is no model to go on with. Take another checkpoint of it.")
    if not _holds(dtype, largest):
        problem = f"{name} holds {largest:g}, but {format_name(dtype)} ends at {torch.finfo(dtype).max:g}"
        raise CheckpointError(f"{problem}. {_other_formats(tensor, largest)}")
    if lost := loss_of(tensor, dtype).problem(dtype):
        raise CheckpointError(f"{name}: {lost}. {_other_formats(tensor, largest)}")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The difference that rounding makes to a tensor, or to several parts of one, added up."""

    num_nonzero: int = 0
    num_vanished: int = 0
    """Numbers that are not zero, and fall to it."""
    squares: float = 0.0
    """Sum of all squares."""
    lost_squares: float = 0.0
    """Sum of the squares of all differences."""

    def __add__(self, other: Loss) -> Loss:
        """Return the loss of both parts."""
        return Loss(
            num_nonzero=self.num_nonzero + other.num_nonzero,
            num_vanished=self.num_vanished + other.num_vanished,
            squares=self.squares + other.squares,
            lost_squares=self.lost_squares + other.lost_squares,
        )

    def problem(self, dtype: torch.dtype) -> str | None:
        """Return a sentence if more is lost than the rounding of normal numbers; None if not."""
        least = torch.finfo(dtype).tiny
        if self.num_vanished > MAX_VANISHED * self.num_nonzero:
            share = self.num_vanished / self.num_nonzero
            return (
                f"{share:.1%} of its nonzero values would be zero in {format_name(dtype)}, which has no full precision "
                f"below {least:g}; at most {MAX_VANISHED:.0%} may be lost"
            )
        if self.lost_squares > torch.finfo(dtype).eps ** 2 * self.squares:
            share = math.sqrt(self.lost_squares / self.squares)
            return (
                f"its values would change by {share:.1%} in {format_name(dtype)}, which has no full precision below "
                f"{least:g}; its rounding is {torch.finfo(dtype).eps:.2%} at most"
            )
        return None


def loss_of(tensor: torch.Tensor, dtype: torch.dtype) -> Loss:
    """Return the difference that rounding to a number format makes, block by block, so that it needs no second copy."""
    if contains(dtype, tensor.dtype):
        return Loss()
    found = Loss()
    for block in torch.split(tensor.reshape(-1), _BLOCK):
        exact = block.double()
        rounded = block.to(dtype).double()
        found += Loss(
            num_nonzero=int(exact.count_nonzero()),
            num_vanished=int(((rounded == 0) & (exact != 0)).sum()),
            squares=float(exact.square().sum()),
            lost_squares=float((exact - rounded).square().sum()),
        )
    return found


def contains(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Return whether a format has every number of another one."""
    one, two = torch.finfo(dtype), torch.finfo(other)
    return one.eps <= two.eps and one.max >= two.max and one.tiny <= two.tiny


def _holds(dtype: torch.dtype, largest: float) -> bool:
    # Rounding never changes an order: if one number becomes infinite, the largest does.
    return bool(torch.tensor(largest, dtype=torch.float64).to(dtype).isfinite())


def _other_formats(tensor: torch.Tensor, largest: float) -> str:
    """Return the advice to write a format that holds a tensor."""
    names = [
        name
        for name, dtype in OPTIONS.items()
        if _holds(dtype, largest) and loss_of(tensor, dtype).problem(dtype) is None
    ]
    return f"Write another format: {' or '.join(f'--dtype {name}' for name in names)}."


def are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors hold the same numbers in the same shape and format; bits are looked at first."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    words = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other)]
    if words[0].numel() % 8 == 0:  # several times as fast as number by number
        words = [bits.view(torch.int64) for bits in words]
    return torch.equal(*words) or torch.equal(one, other)
