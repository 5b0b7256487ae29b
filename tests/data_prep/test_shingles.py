from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.text.shingles import shingles


def test_shingles_are_five_words_or_chinese_characters() -> None:
    assert len(shingles("one two three four five six")) == 2
    assert len(shingles("春眠不觉晓处处")) == 3
    assert len(shingles("one two")) == len(shingles("春")) == 1
    assert len(shingles(" ,.!? \n，。")) == len(shingles("")) == 0
    assert len(shingles("a b c d e " * 20)) == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("One two, three FOUR five - six!", "one two three four five six"),
        ("春眠不觉晓，处处闻啼鸟。", "春眠 不觉晓\n处处闻啼鸟"),
        ("Ünïcode wörds are läßt fine", "ünïcode wörds ARE läßt fine"),
    ],
)
def test_case_spaces_and_punctuation_do_not_count(one: str, other: str) -> None:
    assert np.array_equal(shingles(one), shingles(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("ab c d e f", "a bc d e f"), ("a b c d e", "e d c b a"), ("ab cd", "ba cd"), ("x" * 64 + "ab", "x" * 64 + "ba")],
)
def test_what_is_different_has_different_shingles(one: str, other: str) -> None:
    assert not set(shingles(one).tolist()) & set(shingles(other).tolist())


def reference(text: str) -> set[tuple[str, ...]]:
    """The same sets the slow way, for letters and Chinese characters."""
    units: list[str] = []
    for word in text.lower().split():
        for character in word:
            before = units[-1][-1:] if units else ""
            if not before or "\u4e00" <= max(character, before) <= "\u9fff":
                units.append(character)
            else:
                units[-1] += character
        units.append("")
    units = [unit for unit in units if unit]
    width = min(5, len(units))
    return {tuple(units[i : i + width]) for i in range(len(units) - width + 1)} if units else set()


@given(st.text("abC春眠不 ", max_size=40))
def test_shingles_are_as_many_as_the_slow_way_finds(text: str) -> None:
    assert len(shingles(text)) == len(reference(text))
