"""Permutations that are the same on every machine, for ever: a key made from names, and a sort of random numbers.

`numpy.random.Generator.permutation` may change between numpy versions; the raw stream of Philox, a counter-based
generator, may not (NEP 19). So item i gets a random number with i in its low bits, the numbers are sorted, and the
low bits are the permutation. The low bits make all numbers different, so every sorting algorithm gives the same
result.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import xxhash

ItemNumbers = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def shuffle_key(*names: str | int) -> int:
    """A 128-bit key for a permutation: XXH3 of the names as a JSON list."""
    return int(xxhash.xxh3_128_intdigest(json.dumps(names).encode()))


def permutation(num_items: int, key: int) -> ItemNumbers:
    """The numbers 0 … num_items - 1 in an order that depends on the key alone; int32 where that is enough."""
    low_bits = np.uint64(2 ** num_items.bit_length() - 1)
    numbers = np.random.Philox(key=key).random_raw(num_items)
    numbers &= ~low_bits
    numbers |= np.arange(num_items, dtype=np.uint64)
    numbers.sort()
    numbers &= low_bits
    return numbers.astype(np.int32) if num_items < 2**31 else numbers.astype(np.int64)
