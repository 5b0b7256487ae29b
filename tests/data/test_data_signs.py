"""Signs of dirt in a sample's tokens and text."""

from __future__ import annotations

import numpy as np
import pytest

from harness.data.signs import SHOWN_CHARACTERS, text_signs, token_signs


@pytest.mark.parametrize(
    ("tokens", "one_token", "repeated"),
    [
        (list(range(40)), 1 / 40, 0.0),
        ([7] * 40, 1.0, 24 / 25),
        ([1, 2, 3, 4] * 10, 0.25, 21 / 25),
        ([5, 6], 0.5, 0.0),
    ],
    ids=["all different", "one token", "a cycle", "shorter than a run"],
)
def test_tokens(tokens: list[int], one_token: float, repeated: float) -> None:
    signs = token_signs(np.array(tokens, dtype=np.int64))
    assert signs["most_common_token_share"] == pytest.approx(one_token, abs=1e-4)
    assert signs["repeated_share"] == pytest.approx(repeated, abs=1e-4)


def test_text() -> None:
    assert text_signs("数据\n\n\n\n\n\n") | {"compression_ratio": 0} == {
        "newline_share": 0.75,
        "unreadable_share": 0.0,
        "repeated_line_share": 0.0,
        "compression_ratio": 0,
        "text": "数据\n\n\n\n\n\n",
    }
    assert text_signs("ab\ufffd\x00")["unreadable_share"] == 0.5
    assert text_signs("")["newline_share"] == 0.0
    assert text_signs("menu\nmenu\na text\nmenu\n")["repeated_line_share"] == round(12 / 22, 4)
    assert text_signs("\n\n\n \n \n")["repeated_line_share"] == 0.0
    long = text_signs("abc " * 500)
    assert isinstance(long["compression_ratio"], float)
    assert long["compression_ratio"] > 20
    assert len(str(long["text"])) == SHOWN_CHARACTERS
