"""Number formats of weights: whether all numbers of a tensor are numbers, and stay so in another format."""

from __future__ import annotations

import math

import torch

from harness.errors import CheckpointError


def format_name(dtype: torch.dtype) -> str:
    """Return the name of a number format, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def require_fits(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """Check that all numbers of a tensor are finite, and stay so in a number format.

    Raises:
        CheckpointError: They do not. Names the tensor and its largest value.
    """
    if tensor.numel() == 0:
        return
    low, high = (float(end) for end in tensor.aminmax())
    largest = max(low, high, key=abs)
    if not math.isfinite(low + high):
        kind = "nan" if math.isnan(low) else f"{largest:g}"
        raise CheckpointError(f"{name} holds {kind}: this is no model to go on with. Take another checkpoint of it.")
    # Rounding never changes an order: if one number becomes infinite, the largest does.
    if not torch.tensor(largest, dtype=torch.float64).to(dtype).isfinite():
        raise CheckpointError(
            f"{name} holds {largest:g}, but {format_name(dtype)} ends at {torch.finfo(dtype).max:g}. Write another "
            "format: --dtype bf16 or --dtype fp32."
        )


def are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors hold the same numbers in the same shape and format; bits are looked at first."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    words = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other)]
    if words[0].numel() % 8 == 0:  # several times as fast as number by number
        words = [bits.view(torch.int64) for bits in words]
    return torch.equal(*words) or torch.equal(one, other)
