from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("datatrove")

from datatrove.utils.text import split_into_sentences, split_into_words

from data_prep.corpus.words import Words


def test_words_are_words_numbers_signs_and_chinese_characters() -> None:
    words = Words().word_tokenize("Don't re-read 3.14 of it: 春眠不觉晓, twice?!")
    assert words == ["Don't", "re-read", "3", ".", "14", "of", "it", ":", *"春眠不觉晓", ",", "twice", "?!"]


def test_sentences_end_where_people_end_them() -> None:
    text = "It rained. “Why?” she asked; 3.5 mm fell.\n他走了。“真的吗？”是的！\n\nno end here\nlast"
    assert Words().sent_tokenize(text) == [
        "It rained.",
        "“Why?”",
        "she asked; 3.5 mm fell.",
        "他走了。",
        "“真的吗？”",
        "是的！",
        "no end here",
        "last",
    ]


@given(st.text("aB. 。？!\n春", max_size=60))
def test_sentences_together_are_the_whole_text(text: str) -> None:
    spans = Words().span_tokenize(text)
    assert "".join(text[begin:end] for begin, end in spans) == text
    assert all(end > begin for begin, end in spans)


def test_datatrove_takes_it_for_a_language() -> None:
    assert split_into_words("one two 春", Words()) == ["one", "two", "春"]
    assert split_into_sentences("One. Two.", Words()) == ["One.", " Two."]
    assert pickle.loads(pickle.dumps(Words())) == Words() and hash(Words()) == hash(Words())
