"""The symbols before and behind documents: chosen, told, recorded, and honoured everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from odd_tokenizers import byte_level
from tokenized import read_channel, write_lines

from data_prep.verbs.append_verb import append
from data_prep.verbs.channel_verbs import show, verify
from data_prep.verbs.combine_verbs import merge
from data_prep.verbs.data_verbs import tokenize
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import open_tokenizer

HTML = [{"text": f"<p>old price {number}</s> new"} for number in range(50)]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "html.jsonl", *HTML)


def call(verb: Any, *arguments: object) -> Result:  # noqa: ANN401
    return CliRunner().invoke(verb, [str(argument) for argument in arguments])


def made(page: Path, tokenizer: Path, *options: object) -> tuple[Result, Path]:
    folder = page.parent / "data" / "c"
    options = ("--tokenizer", tokenizer, "--channel", "c", "--output", folder.parent, *options)
    return call(tokenize, page, *options), folder


def test_the_end_is_told_with_its_reason(page: Path, tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "t", control=("</s>", "<|im_end|>"), settings={"eos_token": "<|im_end|>"})
    result, folder = made(page, tokenizer)
    assert "tokenize c: documents end with <|im_end|> (id 1): eos_token of tokenizer_config.json" in result.stderr
    assert {document[-1] for document in read_channel(folder)} == {1}
    verified = call(verify, folder)
    assert (verified.exit_code, verified.stdout.startswith(f"{folder}: good, ")) == (0, True)


def test_an_end_that_is_not_there_makes_nothing_until_it_is_named(page: Path, tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "t", control=("</s>", "<x>"), settings={"eos_token": "<|endoftext|>"})
    result, folder = made(page, tokenizer)
    assert isinstance(result.exception, DataError) and "--end-of-document SYMBOL" in str(result.exception)
    assert not folder.exists()
    result, _ = made(page, tokenizer, "--end-of-document", "<x>")
    assert result.exception is None
    assert "documents end with <x> (id 1): --end-of-document" in result.stderr
    assert json.loads((folder / "source.json").read_text())["end_of_document_id"] == 1
    # Whoever reads the channel with this tokenizer needs no end from it.
    assert call(verify, folder, "--tokenizer", tokenizer).stdout.startswith(f"{folder}: good, ")
    assert call(show, folder, "--tokenizer", tokenizer).exception is None


def test_text_that_becomes_the_end_is_told_and_is_not_good(page: Path, tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "t", control=("<pad>",), text_symbols=("</s>",), settings={"eos_token": "</s>"})
    result, folder = made(page, tokenizer)
    assert "WARNING: </s> is no control symbol of the tokenizer" in result.stderr
    assert "WARNING: text within documents became 50 times the symbol" in result.stdout
    assert json.loads((folder / "source.json").read_text())["finished"]["symbols_inside"] == 50
    for options in ((), ("--tokenizer", tokenizer)):
        verified = call(verify, folder, *options)
        assert verified.stdout.startswith(f"{folder}: doubtful, ")
        assert "50 end-of-document tokens are inside documents" in verified.stdout
    shown = json.loads(call(show, folder, "--tokenizer", tokenizer, "--json").stdout)
    assert shown[0]["text"] == HTML[0]["text"]


def test_a_tokenizer_that_begins_every_text_is_told_of(page: Path, tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "t", control=("</s>", "<s>"), begin="<s>")
    warning = "WARNING: no document begins with <s> (id 1), though its post-processor puts it before every text"
    result, _ = made(page, tokenizer)
    assert warning in result.stderr and "--begin-of-document '<s>'" in result.stderr
    result, _ = made(page, tokenizer, "--begin-of-document", "none")
    assert "begin" not in result.stderr
    result, _ = made(page, tokenizer, "--begin-of-document", "<s>")
    assert isinstance(result.exception, UsageError)
    assert "begin_of_document_id: there None, now 1" in str(result.exception)


@pytest.mark.parametrize(("name", "end", "begin"), [("</s>", 0, 1), ("0", 0, 1)])
def test_a_begin_is_put_before_every_document_and_honoured(
    page: Path, tmp_path: Path, name: str, end: int, begin: int
) -> None:
    tokenizer = byte_level(tmp_path / "t", control=("</s>", "<s>"))
    options = ("--end-of-document", name, "--begin-of-document", "<s>", "--max-document-tokens", 20)
    result, folder = made(page, tokenizer, *options)
    assert result.exception is None and "documents begin with <s> (id 1): --begin-of-document" in result.stderr
    documents = read_channel(folder)
    assert {(document[0], document[-1]) for document in documents} == {(begin, end)}
    assert max(map(len, documents)) == 20 and len(documents) > 50
    opened = open_tokenizer(tokenizer)
    assert "".join(opened.decode(document[1:-1]) for document in documents) == "".join(entry["text"] for entry in HTML)
    further = write_lines(tmp_path / "more.jsonl", {"text": "more"})
    where = ("--tokenizer", tokenizer, "--channel", "c", "--output", folder.parent)
    assert call(append, further, *where).exception is None
    assert read_channel(folder)[-1] == [begin, *opened.encode_documents(["more"])[0], end]
    assert call(verify, folder).stdout.startswith(f"{folder}: good, ")
    shown = json.loads(call(show, folder, "--tokenizer", tokenizer, "--document", len(documents), "--json").stdout)
    assert (shown[0]["text"], shown[0]["ids"][0], shown[0]["ids"][-1]) == ("more", begin, end)


def test_channels_with_other_symbols_are_not_merged(page: Path, tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "t", control=("</s>", "<s>"))
    _, folder = made(page, tokenizer)
    folder.rename(folder.with_name("plain"))
    made(page, tokenizer, "--begin-of-document", "<s>")
    error = call(merge, folder.with_name("plain"), folder, "--output", tmp_path / "merged").exception
    assert isinstance(error, UsageError) and "documents begin with 1 and None" in str(error)
    assert call(merge, folder, "--output", tmp_path / "merged").exception is None
    assert json.loads((tmp_path / "merged" / "source.json").read_text())["begin_of_document_id"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--end-of-document", "<no>"), r"--end-of-document '<no>': the vocabulary has no such piece"),
        (("--begin-of-document", "<no>"), r"--begin-of-document '<no>': the vocabulary has no such piece"),
        (("--no-append-eod", "--end-of-document", "</s>"), "and --no-append-eod exclude each other"),
        (("--begin-of-document", "<s>", "--max-document-tokens", 2), "leaves no room for text besides the 2 symbols"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    page: Path, tmp_path: Path, options: tuple[object, ...], words: str
) -> None:
    result, folder = made(page, byte_level(tmp_path / "t", control=("</s>", "<s>")), *options)
    assert isinstance(result.exception, UsageError) and words in str(result.exception)
    assert not folder.exists()


def test_a_tokenizer_without_any_end_makes_a_channel_without_ends(page: Path, tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "t", control=("<pad>",))
    result, folder = made(page, tokenizer)
    assert isinstance(result.exception, DataError) and "no symbol that ends a document" in str(result.exception)
    result, _ = made(page, tokenizer, "--no-append-eod")
    assert result.exception is None and "nothing is put behind documents" in result.stderr
    assert call(verify, folder, "--tokenizer", tokenizer).stdout.startswith(f"{folder}: good, ")
