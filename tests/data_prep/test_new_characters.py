"""Fast encoders split every text as the reference does, whatever version of Unicode each of the libraries knows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from data_prep.tokenizers.encoders import FAST_ENCODERS, EncodedDocuments, ReferenceEncoder
from data_prep.tokenizers.settled import SettledEncoder, has_new_characters
from harness.tokenizers.tokenizer import open_tokenizer

END = "<|endoftext|>"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama3": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def telling_tokenizer(split: str, file: Path) -> Path:
    """A byte-level BPE that merges any byte with a following `!`, `a` or `1`: whatever is split apart shows."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(each, end) for end in "!a1" for each in alphabet]
    symbols = dict.fromkeys([END, *alphabet, *(first + second for first, second in merges)])
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, merges))
    tokenizer.add_special_tokens([END])
    tokenizer.pre_tokenizer = SPLITS[split]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(file))
    return file


def texts_of_characters() -> list[str]:
    """Every character up to U+1FFFF but surrogates, which are none, and some of the large blocks behind."""
    code_points = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x40000, 37), *range(0xE0000, 0xE0200)]
    return [f"{code:c}! {code:c}a {code:c}1 !{code:c}a 1{code:c}a" for code in code_points]


def differing(found: EncodedDocuments, expected: EncodedDocuments, texts: list[str]) -> list[str]:
    if np.array_equal(found.ids, expected.ids) and np.array_equal(found.lengths, expected.lengths):
        return []
    pairs = (np.split(each.ids, np.cumsum(each.lengths)[:-1]) for each in (found, expected))
    return [text for text, one, other in zip(texts, *pairs, strict=True) if not np.array_equal(one, other)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", FAST_ENCODERS)
def test_every_character_is_split_as_the_reference_splits_it(name: str, split: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    tokenizer = open_tokenizer(telling_tokenizer(split, tmp_path / "tokenizer.json"))
    fast, reference, texts = FAST_ENCODERS[name](tokenizer), ReferenceEncoder(tokenizer), texts_of_characters()
    expected = reference.encode(texts)
    assert differing(SettledEncoder(fast, reference).encode(texts), expected, texts) == []
    # The fast encoder does the work wherever the libraries cannot differ.
    settled = [text for text in texts if not has_new_characters(text)]
    assert len(settled) > 60_000
    assert differing(fast.encode(settled), reference.encode(settled), settled) == []


def test_gigatoken_alone_differs_in_new_letters(tmp_path: Path) -> None:
    """This is why there is another encoder around it: if it fails, `SettledEncoder` may no longer be needed."""
    pytest.importorskip("gigatoken")
    tokenizer = open_tokenizer(telling_tokenizer("gpt2", tmp_path / "tokenizer.json"))
    texts = texts_of_characters()
    found, expected = (make(tokenizer).encode(texts) for make in (FAST_ENCODERS["gigatoken"], ReferenceEncoder))
    assert any("\ua7cf" in text for text in differing(found, expected, texts))


@pytest.mark.parametrize(
    ("text", "is_new"),
    [
        ("plain", False),
        ("春眠不觉晓 \U0001f99c \ue000 ﬁ", False),
        ("\U0001faff", False),
        ("\uffff", False),
        ("a\ua7cf", True),
    ],
)
def test_what_is_new(text: str, is_new: bool) -> None:
    assert has_new_characters(text) is is_new


class Named:
    """An encoder whose ids say who encoded a document: 1 for each character of the one, 2 of the other."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self._number = name, number

    def encode(self, documents: list[str]) -> EncodedDocuments:
        lengths = np.array(list(map(len, documents)), dtype=np.int64)
        return EncodedDocuments(np.full(lengths.sum(), self._number, dtype=np.uint32), lengths)


@pytest.mark.parametrize(
    ("documents", "ids"),
    [
        (["ab", "\ua7cf", "", "c", "d\ua7cf"], [1, 1, 2, 1, 2, 2]),
        (["\ua7cf", ""], [2]),
        (["\ua7cf"], [2]),
        (["", ""], []),
        ([], []),
    ],
)
def test_documents_keep_their_order(documents: list[str], ids: list[int]) -> None:
    encoded = SettledEncoder(Named("fast", 1), Named("reference", 2)).encode(documents)
    assert encoded.ids.tolist() == ids
    assert encoded.lengths.tolist() == list(map(len, documents))
    assert encoded.ids.dtype == np.uint32


def test_the_version_of_unicode_is_at_least_that_which_the_module_names() -> None:
    import unicodedata

    assert tuple(map(int, unicodedata.unidata_version.split("."))) >= (14, 0, 0), sys.version
