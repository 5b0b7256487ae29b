"""Permutations that are the same on every machine and with every numpy version.

`numpy.random.Generator.permutation` may change between numpy versions; the raw stream of Philox, a counter-based
generator, may not (NEP 19). Each item gets a random number whose low bits are replaced by the item's own number. The
numbers are sorted, and their low bits are the permutation. Because the low bits make all numbers different, every
sorting algorithm gives the same result.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import xxhash

ItemNumbers = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def shuffle_key(*names: str | int) -> int:
    """Return a 128-bit key for a permutation: XXH3 of the names as a JSON list."""
    return int(xxhash.xxh3_128_intdigest(json.dumps(names).encode()))


def permutation(num_items: int, key: int) -> ItemNumbers:
    """Return the numbers 0 … num_items - 1 in an order that depends on the key alone; int32 where that is enough."""
    low_bits = np.uint64(2 ** num_items.bit_length() - 1)
    numbers = np.random.Philox(key=key).random_raw(num_items)  # [num_items], uint64
    # In place, because a part may have 10**9 samples: random high bits, the item's number in the low bits.
    numbers &= ~low_bits
    numbers |= np.arange(num_items, dtype=np.uint64)
    numbers.sort()
    numbers &= low_bits
    return numbers.astype(np.int32) if num_items < 2**31 else numbers.astype(np.int64)
