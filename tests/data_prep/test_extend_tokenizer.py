from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from data_prep.tokenizers.extend_tokenizer import extend, report_on_extension
from data_prep.verbs.tokenizer_verbs import extend_tokenizer
from harness.errors import UsageError
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

WORDS = ("Megatron", "梯度下降", "art")


@pytest.fixture(params=["json_file", "model_file"])
def original(request: pytest.FixtureRequest) -> Tokenizer:
    return open_tokenizer(request.getfixturevalue(request.param))


@pytest.fixture
def extended(original: Tokenizer, tmp_path: Path) -> Tokenizer:
    file = tmp_path / f"extended{original.path.suffix}"
    file.write_bytes(extend(original, WORDS))
    return open_tokenizer(file)


def test_old_ids_stay_and_words_come_behind(original: Tokenizer, extended: Tokenizer, poems: list[str]) -> None:
    assert extended.vocab_size % 128 == 0 and extended.vocab_size >= original.vocab_size + len(WORDS)
    assert extended.encode_documents(poems) == original.encode_documents(poems)
    assert extended.end_of_document_id == original.end_of_document_id
    text = "用Megatron做梯度下降。"
    ids = extended.encode_documents([text])[0]
    new = [token for token in ids if token >= original.vocab_size]
    assert original.vocab_size + 1 in new and extended.decode(ids) == text
    sizes = np.array(extended.bytes_per_token())
    assert int(sizes[original.vocab_size + 1]) == len("梯度下降".encode())
    assert not sizes[original.vocab_size + len(WORDS) :].any()


def test_words_between_spaces_do_not_cut_longer_ones(json_file: Path, tmp_path: Path) -> None:
    original = open_tokenizer(json_file)
    (tmp_path / "extended.json").write_bytes(extend(original, WORDS))
    extended = open_tokenizer(tmp_path / "extended.json")
    documents = ["a party of art lovers"]
    report = report_on_extension(documents, extended, original, WORDS)
    assert report.changed == () and report.words == 4
    assert report.tokens_after < report.tokens_before


def test_sentencepiece_takes_a_word_anywhere_and_the_report_says_so(model_file: Path, tmp_path: Path) -> None:
    original = open_tokenizer(model_file)
    (tmp_path / "extended.model").write_bytes(extend(original, WORDS))
    report = report_on_extension(
        ["a party of art lovers"], open_tokenizer(tmp_path / "extended.model"), original, WORDS
    )
    assert report.changed == ("party",)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(extend_tokenizer, [str(argument) for argument in arguments])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A corpus and a list of words."""
    (tmp_path / "en.jsonl").write_text(json.dumps({"text": "a party of art lovers reads Megatron"}) + "\n")
    (tmp_path / "words.txt").write_text("\n".join([*WORDS, "", "art"]))
    return tmp_path / "en.jsonl", tmp_path / "words.txt"


def test_the_command_warns_of_words_that_change(files: tuple[Path, Path], model_file: Path, json_file: Path) -> None:
    corpus, words = files
    out = corpus.parent / "extended"
    warned = call(model_file, f"en={corpus}", "--words", words, "--output", out.with_suffix(".model"))
    assert warned.exception is None, warned.exception
    assert "3 words, " in warned.stdout and " spare ids\n" in warned.stdout
    assert "WARNING: 1 of 5 words that were not added are encoded in other ids" in warned.stdout
    assert warned.stdout.endswith("For example 'party'\n")
    calm = call(json_file, f"en={corpus}", "--words", words, "--output", out.with_suffix(".json"))
    assert "all 5 words that were not added are encoded in the same ids" in calm.stdout
    again = call(json_file, corpus, "--words", words, "--output", out.with_suffix(".json")).exception
    assert isinstance(again, UsageError) and "exists. It stays as it is" in str(again)
    other = call(json_file, corpus, "--words", words, "--output", corpus.parent / "x.model").exception
    assert isinstance(other, UsageError) and "the name must end in .json" in str(other)


def test_what_cannot_be_added(original: Tokenizer, tiktoken_file: Path) -> None:
    with pytest.raises(UsageError, match="there are no words to add"):
        extend(original, ())
    with pytest.raises(UsageError, match="'a' is a single token already. Remove it from the list"):
        extend(original, ("a",))
    with pytest.raises(UsageError, match="not to a tiktoken file"):
        extend(open_tokenizer(tiktoken_file), WORDS)
