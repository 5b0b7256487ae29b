"""Turns a text into the set of its shingles, as numbers: five words in a row.

Of a script without spaces they are as many letters as hold about as much as five Chinese ones. All is done in numpy:
characters are classed by a table, and units (words; letters of scripts without spaces) are found where the class
changes. A unit's hash is the sum of its characters weighted by their place in it, and a shingle's hash is such a sum
over its units.

Shapes: C characters of the text, L of them that are letters, U units.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from data_prep.text.scripts import HAN, KANA, SCRIPTS, WITHOUT_SPACES

UNITS_PER_SHINGLE = 5
_PLACE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(33)
_MAX_UNIT = 64
POWERS = np.cumprod(np.full(_MAX_UNIT, _PLACE, dtype=np.uint64))
_SPACE, _LETTER, _DENSE = 0, 1, 2
_FIRST_OF_SCRIPTS = 3
"""In the table of scripts: the class of `SCRIPTS[0]`; that of the others follows."""
_TABLE_SIZE = 0x10000
"""Beyond the basic plane every character is a letter, but for Chinese ones."""


def shingles(text: str) -> NDArray[np.uint64]:
    """Return the distinct shingles of a text, sorted."""
    return np.unique(shingles_in_order(text))


def shingles_in_order(text: str) -> NDArray[np.uint64]:
    """Return the shingles of a text, as often as they occur; case, spaces and punctuation do not count.

    A text of fewer than five units has one shingle, of all of them; a text without any has none.
    """
    units, scale = _units_of(text)
    if len(units) == 0:
        return units
    width = min(UNITS_PER_SHINGLE * scale, len(units))
    # Sum the units of every window at once: one shifted view of all units for each place in the window.
    total = np.zeros(len(units) - width + 1, dtype=np.uint64)
    for place in range(width):
        total += units[place : place + len(total)] * POWERS[place]
    return mixed(total)


def unit_hashes(text: str) -> NDArray[np.uint64]:
    """Return a number for every word, and every letter of a script without spaces, of a text, in order."""
    return _units_of(text)[0]


def _units_of(text: str) -> tuple[NDArray[np.uint64], int]:
    """Return the hashes of the units [U], and by how much more of them than of words make a shingle."""
    # A letter with its marks may be written as one character or as several.
    composed = unicodedata.normalize("NFC", text.lower())
    codes = np.frombuffer(composed.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    classes = _classes(codes)  # [C]
    # A unit starts at every letter of a script without spaces, and at another letter behind something else.
    starts = (classes != _SPACE) & ((classes == _DENSE) | (np.concatenate(([_SPACE], classes[:-1])) != classes))
    kept = classes != _SPACE
    first = np.flatnonzero(starts[kept])  # [U], first letter of each unit
    if len(first) == 0:
        return np.zeros(0, dtype=np.uint64), 1
    letters = codes[kept]  # [L]
    # Place of each letter in its unit, [L]; the sums of a unit's weighted letters are then cut at `first`.
    place = np.arange(len(letters)) - np.repeat(first, np.diff(np.append(first, len(letters))))
    weighted = mixed(letters) * POWERS[place % _MAX_UNIT]
    return mixed(np.add.reduceat(weighted, first)), _scale(codes, classes, starts)


def _scale(codes: NDArray[np.uint64], classes: NDArray[np.int8], starts: NDArray[np.bool_]) -> int:
    """Return how many letters of the script of a text hold as much as a Chinese one; 1 where words have spaces.

    All three arguments are of the characters, [C].
    """
    is_dense = classes == _DENSE
    if not is_dense.any():
        return 1
    dense = codes[is_dense]
    counts = np.bincount(_tables()[1][dense[dense < _TABLE_SIZE]], minlength=_FIRST_OF_SCRIPTS + len(SCRIPTS))
    words = {script: counts[_FIRST_OF_SCRIPTS + place] / script.per_word for place, script in enumerate(SCRIPTS)}
    script = max(words, key=lambda each: float(words[each]))
    num_others = int((starts & ~is_dense).sum())
    return max(1, round(script.per_word / HAN.per_word)) if words[script] > num_others else 1


def _classes(codes: NDArray[np.uint64]) -> NDArray[np.int8]:
    """Return the class of each character: of a script without spaces, another letter or digit, or neither."""
    table = _tables()[0]
    if not len(codes) or int(codes.max()) < _TABLE_SIZE:
        return table[codes]
    classes = table[np.minimum(codes, _TABLE_SIZE - 1)]
    beyond = codes >= _TABLE_SIZE
    is_han = (codes >= 0x20000) & (codes <= 0x3FFFF)
    return np.where(beyond, np.where(is_han, _DENSE, _LETTER), classes).astype(np.int8)


@cache
def _tables() -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Return the class of each character of the basic plane, and its script among those without spaces."""
    classes = np.zeros(_TABLE_SIZE, dtype=np.int8)
    scripts = np.zeros(_TABLE_SIZE, dtype=np.int8)
    for code in range(_TABLE_SIZE):
        character = chr(code)
        if unicodedata.category(character)[0] not in "LMN":
            continue
        classes[code] = _LETTER
        if WITHOUT_SPACES.match(character):
            classes[code] = _DENSE
            own = (place for place, script in enumerate(SCRIPTS) if script.pattern.match(character))
            place = SCRIPTS.index(HAN) if KANA.match(character) else next(own)
            scripts[code] = _FIRST_OF_SCRIPTS + place
    return classes, scripts


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others (the finalizer of MurmurHash3, one round)."""
    mixed: NDArray[np.uint64] = (values ^ (values >> _SHIFT)) * _MIX
    return mixed ^ (mixed >> _SHIFT)
