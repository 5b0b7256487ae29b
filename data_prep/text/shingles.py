"""Turns a text into the set of its shingles, as numbers: five words or Chinese characters in a row.

All in numpy: characters are classed, and units (words, Chinese characters) are found where the class changes. A unit's
hash is the sum of its characters weighted by their place in it, and a shingle's hash is such a sum over five units.

Shapes: C characters of the text, L of them that are letters, U units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNITS_PER_SHINGLE = 5
_PLACE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(33)
_MAX_UNIT = 64
POWERS = np.cumprod(np.full(_MAX_UNIT, _PLACE, dtype=np.uint64))
_SPACE, _LETTER, _HAN = 0, 1, 2


def shingles(text: str) -> NDArray[np.uint64]:
    """Return the distinct shingles of a text, sorted."""
    return np.unique(shingles_in_order(text))


def shingles_in_order(text: str) -> NDArray[np.uint64]:
    """Return the shingles of a text, as often as they occur; case, spaces and punctuation do not count.

    A text of fewer than five units has one shingle, of all of them; a text without any has none.
    """
    units = unit_hashes(text)
    if len(units) == 0:
        return units
    width = min(UNITS_PER_SHINGLE, len(units))
    # Sum the units of every window at once: one shifted view of all units for each place in the window.
    total = np.zeros(len(units) - width + 1, dtype=np.uint64)
    for place in range(width):
        total += units[place : place + len(total)] * POWERS[place]
    return mixed(total)


def unit_hashes(text: str) -> NDArray[np.uint64]:
    """Return a number for every word and Chinese character of a text, in order."""
    codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    classes = _classes(codes)  # [C]
    # A unit starts at every Chinese character, and at a letter behind something else.
    starts = (classes != _SPACE) & ((classes == _HAN) | (np.concatenate(([_SPACE], classes[:-1])) != classes))
    kept = classes != _SPACE
    first = np.flatnonzero(starts[kept])  # [U], first letter of each unit
    if len(first) == 0:
        return np.zeros(0, dtype=np.uint64)
    letters = codes[kept]  # [L]
    # Place of each letter in its unit, [L]; the sums of a unit's weighted letters are then cut at `first`.
    place = np.arange(len(letters)) - np.repeat(first, np.diff(np.append(first, len(letters))))
    weighted = mixed(letters) * POWERS[place % _MAX_UNIT]
    return mixed(np.add.reduceat(weighted, first))


def _classes(codes: NDArray[np.uint64]) -> NDArray[np.int8]:
    """Return the class of each character: a Chinese one, another letter or digit, or neither."""
    ascii_letter = ((codes >= 97) & (codes <= 122)) | ((codes >= 48) & (codes <= 57))
    # Beyond ASCII: general punctuation, CJK punctuation and full-width forms of ASCII signs are no letters.
    sign = (codes < 0xC0) | ((codes >= 0x2000) & (codes < 0x2C00)) | ((codes >= 0x3000) & (codes < 0x3040))
    sign |= ((codes >= 0xFF00) & (codes < 0xFF10)) | (codes == 0xFEFF) | (codes >= 0xFF1A) & (codes < 0xFF21)
    han = ((codes >= 0x3400) & (codes <= 0x9FFF)) | ((codes >= 0x20000) & (codes <= 0x3FFFF))
    classes = np.where(ascii_letter | ~sign, _LETTER, _SPACE)
    return np.where(han, _HAN, classes).astype(np.int8)


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others (the finalizer of MurmurHash3, one round)."""
    mixed: NDArray[np.uint64] = (values ^ (values >> _SHIFT)) * _MIX
    return mixed ^ (mixed >> _SHIFT)
