from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.text.scripts import UNIT, WORD, units_of, words_of


@given(st.text("abé̄1_'’-\u200cกาक्ष中ひ \n.", max_size=30))
def test_the_short_way_finds_the_same(text: str) -> None:
    assert words_of(text) == WORD.findall(text) and units_of(text) == UNIT.findall(text)


@pytest.mark.parametrize("text", ["a plain’s text-book 12a_b", "ein Wörterbuch: où ça"])
def test_the_short_way_of_plain_text(text: str) -> None:
    assert words_of(text) == WORD.findall(text) and units_of(text) == UNIT.findall(text)
