"""The legal numbers next to one that is not, and how a message lists them."""

from __future__ import annotations

import math
from collections.abc import Iterable


def nearest(legal: Iterable[int], given: int) -> list[int]:
    """Return the legal numbers next below and next above `given` (`given` itself is not one of them)."""
    numbers = sorted(legal)
    below = [number for number in numbers if number < given][-1:]
    above = [number for number in numbers if number > given][:1]
    return below + above


def nearest_divisors(whole: int, given: int) -> list[int]:
    """Return the divisors of `whole` next to `given`."""
    return nearest(divisors(whole), given)


def divisors(whole: int) -> list[int]:
    """Return the divisors of a positive number, rising. Takes as many steps as its square root has."""
    small = [size for size in range(1, math.isqrt(whole) + 1) if whole % size == 0]
    return sorted({*small, *(whole // size for size in small)})


def nearest_multiples(unit: int, given: int) -> list[int]:
    """Return the positive multiples of `unit` next to `given`."""
    below = (given - 1) // unit * unit
    above = max(0, given // unit) * unit + unit
    return [below, above] if below > 0 else [above]


def one_of(numbers: list[int]) -> str:
    """Write numbers as a choice: `2 or 4`."""
    return " or ".join(str(number) for number in numbers)
