from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.tokenizers.choose_encoder import CALLS_BETWEEN_CHECKS, PROBES, SpotChecked, choose_encoder
from data_prep.tokenizers.encoders import (
    FAST_ENCODERS,
    EncodedDocuments,
    GigatokenEncoder,
    ReferenceEncoder,
    candidates,
    resident_bytes,
)
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

FAST = [
    ("fastokens", "json_file"),
    ("gigatoken", "json_file"),
    ("gigatoken", "model_file"),
    ("gigatoken", "tiktoken_file"),
]


def encode(encoder: object, documents: list[str]) -> list[list[int]]:
    encoded = encoder.encode(documents)  # type: ignore[attr-defined]
    return [part.tolist() for part in np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])]


@pytest.fixture(params=FAST, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[object, Tokenizer]:
    """A fast encoder and the reference for the same file."""
    name, file = request.param
    pytest.importorskip(name)
    tokenizer = open_tokenizer(request.getfixturevalue(file))
    return FAST_ENCODERS[name](tokenizer), tokenizer


@pytest.mark.parametrize("file", ["json_file", "model_file", "tiktoken_file"])
def test_reference_lays_the_ids_of_the_library_end_to_end(
    file: str, poems: list[str], request: pytest.FixtureRequest
) -> None:
    tokenizer = open_tokenizer(request.getfixturevalue(file))
    documents = [*poems[:20], "", "x"]
    assert encode(ReferenceEncoder(tokenizer), documents) == tokenizer.encode_documents(documents)


def test_fast_encoders_give_the_ids_of_the_reference(pair: tuple[object, Tokenizer], poems: list[str]) -> None:
    encoder, tokenizer = pair
    documents = [*poems, *PROBES]
    assert encode(encoder, documents) == tokenizer.encode_documents(documents)


def test_a_control_symbol_in_the_text_is_text_to_fast_encoders_too(pair: tuple[object, Tokenizer]) -> None:
    encoder, tokenizer = pair
    symbols = tokenizer.control_symbols()
    assert "<|endoftext|>" in symbols
    documents = [f"before{symbol} after" for symbol in symbols]
    encoded = encode(encoder, documents)
    assert encoded == tokenizer.encode_documents(documents)
    assert all(tokenizer.end_of_document_id not in ids for ids in encoded)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(documents=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=30), min_size=1, max_size=5))
def test_any_text_is_encoded_alike(pair: tuple[object, Tokenizer], documents: list[str]) -> None:
    encoder, tokenizer = pair
    assert encode(encoder, documents) == tokenizer.encode_documents(documents)


def test_the_fastest_that_agrees_is_chosen_and_said(json_file: Path, poems: list[str]) -> None:
    pytest.importorskip("fastokens")
    chosen = choose_encoder(open_tokenizer(json_file), poems[:10])
    assert chosen.encoder.name == "fastokens"
    characters = sum(map(len, poems[:10]))
    assert chosen.notes == (
        f"encoder fastokens: gave the reference's ids on 10 documents ({characters} characters) of this input",
    )


def test_without_the_packages_the_reference_is_used(
    json_file: Path, poems: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FAST_ENCODERS:
        monkeypatch.setitem(sys.modules, name, None)
    chosen = choose_encoder(open_tokenizer(json_file), poems[:3])
    assert chosen.encoder.name == "reference"
    assert chosen.notes == (
        "fastokens is not used: the package is not installed (extra `data-fast`)",
        "gigatoken is not used: the package is not installed (extra `data-fast`)",
        "encoder: the tokenizer's own library",
    )
    with pytest.raises(UsageError, match=r"--encoder fastokens needs the Python package fastokens.*`data-fast` extra"):
        choose_encoder(open_tokenizer(json_file), poems[:3], "fastokens")


def test_the_reference_can_be_asked_for(json_file: Path) -> None:
    assert choose_encoder(open_tokenizer(json_file), [], "reference").encoder.name == "reference"


class Wrong:
    """Encodes like the reference, but takes one letter for another."""

    name = "wrong"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._reference = ReferenceEncoder(tokenizer)

    def encode(self, documents: list[str]) -> EncodedDocuments:
        return self._reference.encode([document.replace("q", "p") for document in documents])


class Unable:
    name = "unable"

    def __init__(self, tokenizer: Tokenizer) -> None:
        raise ValueError("unsupported pre-tokenizer type: Metaspace\nand so on")


def test_one_wrong_id_is_enough_not_to_be_used(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.tokenizers.choose_encoder.FAST_ENCODERS", {"wrong": Wrong, "unable": Unable})
    monkeypatch.setattr("data_prep.tokenizers.choose_encoder.candidates", lambda tokenizer: ("unable", "wrong"))
    chosen = choose_encoder(tokenizer, ["fine", "also quick", "fine"])
    assert chosen.encoder.name == "reference"
    assert chosen.notes[:2] == (
        "unable is not used: it cannot read this tokenizer (unsupported pre-tokenizer type: Metaspace)",
        "wrong is not used: it differs from the reference in document 2 of the sample, which begins 'also quick'",
    )


def test_a_difference_that_shows_later_stops_the_work(tokenizer: Tokenizer) -> None:
    encoder = SpotChecked(Wrong(tokenizer), ReferenceEncoder(tokenizer))
    for _ in range(CALLS_BETWEEN_CHECKS):
        encoder.encode(["fine", "x" * 30_000])
    with pytest.raises(DataError, match=r"wrong encodes a document differently .*'quick'.*with --encoder reference"):
        encoder.encode(["quick", "quick"])


def test_unknown_kinds_of_tokenizers_have_no_fast_encoder(json_file: Path, model_file: Path) -> None:
    assert candidates(open_tokenizer(json_file)) == ("fastokens", "gigatoken")
    assert candidates(open_tokenizer(model_file)) == ("gigatoken",)


def test_gigatoken_is_opened_anew_when_it_has_grown(
    json_file: Path, poems: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken")
    monkeypatch.setattr("data_prep.tokenizers.encoders.CHARACTERS_BEFORE_A_LOOK", 0)
    sizes = iter([100, 150, 201, 50, 60])
    monkeypatch.setattr("data_prep.tokenizers.encoders.resident_bytes", lambda: next(sizes))
    tokenizer = open_tokenizer(json_file)
    encoder = GigatokenEncoder(tokenizer, max_growth_bytes=100)
    opened = []
    for _ in range(3):
        assert encode(encoder, poems[:3]) == tokenizer.encode_documents(poems[:3])
        opened.append(encoder._tokenizer)
    assert opened[0] is not opened[1] and opened[1] is opened[2]


def test_memory_of_this_process_is_known() -> None:
    assert resident_bytes() > 10_000_000 or sys.platform != "linux"
