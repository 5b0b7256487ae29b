"""Text that does not come back from its tokens is told, and refused above a small share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from odd_tokenizers import TEXTS, byte_level, words
from tokenized import make, write_lines
from tokenizers import normalizers

from data_prep.channels.channel_job import ChannelJob
from data_prep.channels.document_counts import TextCheck
from data_prep.tokenizers.encoders import EncodedDocuments
from data_prep.tokenizers.round_trip import count_lost, lost_characters, round_trip
from data_prep.verbs.append_verb import append
from data_prep.verbs.channel_verbs import verify
from data_prep.verbs.data_verbs import tokenize
from data_prep.verbs.tokenizer_verbs import inspect_tokenizer
from harness.errors import DataError
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

CODE = "def f(x):\n\tif x:\n        return  {'a': 1}\n"


def sentencepiece_default(folder: Path) -> Path:
    """As the trainer of SentencePiece makes it unasked: NFKC, white space joined, no bytes."""
    import sentencepiece

    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TEXTS for line in text.splitlines()),
        model_prefix=str(folder / "m"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder / "m.model"


def lowercase(folder: Path) -> Path:
    return byte_level(folder, normalizer=normalizers.Lowercase())


def wide_forms(folder: Path) -> Path:
    return byte_level(folder, normalizer=normalizers.NFKC())


def incomplete(folder: Path) -> Path:
    return byte_level(folder, is_complete=False)


@pytest.mark.parametrize(
    ("text", "decoded", "lost"),
    [
        ("as it is", "as it is", ""),
        ("prefix", " prefix", ""),
        ("a  b\r\n", "a b\n", " \r"),
        ("Ab", "ab", "A"),
        ("１½", "11⁄2", "１½"),
        ("", "", ""),
        ("中文", "��", "中文"),
        ("a\ufffdb", "a\ufffdb", ""),
    ],
)
def test_lost_is_what_the_decoded_text_has_less_often(text: str, decoded: str, lost: str) -> None:
    assert "".join(lost_characters(text, decoded).elements()) == lost


@pytest.mark.parametrize(
    ("tokenizer", "text", "kind", "example"),
    [
        (lowercase, "Hello WORLD", "capital letters, which become small ones: ", "comes back as 'hello world'"),
        (wide_forms, "ＡＢ ok", "replaced by simpler ones (normalization): 'Ａ' 1 times", "comes back as 'AB ok'"),
        (incomplete, "中文", "characters that the vocabulary does not have: '文' 1 times", "'中文' comes back as '中'"),
        (words, "The slow brown fox", "white space: ' ' 3 times", "comes back as 'Thebrownfox'"),
        (sentencepiece_default, CODE, "white space: ' ' 7 times, '\\n' 3 times, '\\t' 1 times", "comes back as 'def"),
    ],
)
def test_the_kind_of_loss_is_said_with_examples(
    tmp_path: Path, tokenizer: Any, text: str, kind: str, example: str
) -> None:
    found = round_trip([text], open_tokenizer(tokenizer(tmp_path / "t")))
    assert found.changed_documents == 1 and found.lost
    if tokenizer is not words:  # its decoder writes spaces between words
        assert kind in found.describe(), found.describe()
        assert example in found.describe(), found.describe()


def test_white_space_is_counted_apart(tmp_path: Path) -> None:
    found = round_trip([CODE], open_tokenizer(sentencepiece_default(tmp_path / "t")))
    assert count_lost(found.lost) == (0, 11) and found.worst_share == 0
    assert found.describe().startswith("26.19% of the characters of the sample do not come back (11 of 42, ")
    assert "0.00% without white space" in found.describe()


def test_a_tokenizer_that_keeps_text_loses_nothing(tokenizer: Tokenizer, poems: list[str], tmp_path: Path) -> None:
    for each in (tokenizer, open_tokenizer(byte_level(tmp_path))):
        found = round_trip([*poems[:20], "\t\r\n", "🦜\ufffd"], each)
        assert (found.lost_share, found.unknown_tokens, found.changed_documents, found.examples) == (0, 0, 0, [])


def call(verb: Any, *arguments: object) -> Result:  # noqa: ANN401
    return CliRunner().invoke(verb, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", [lowercase, incomplete, words, sentencepiece_default])
@pytest.mark.parametrize("encoder", ["auto", "reference"])
def test_tokenize_refuses_before_a_part_is_written_unless_it_is_accepted(
    tmp_path: Path, kind: Any, encoder: str
) -> None:
    file = write_lines(tmp_path / "a.jsonl", *({"text": CODE + "Hello WORLD 文字"} for _ in range(20)))
    model, folder = kind(tmp_path / "t"), tmp_path / "data" / "c"
    options = ("--tokenizer", model, "--channel", "c", "--output", folder.parent, "--encoder", encoder)
    error = call(tokenize, file, *options).exception
    assert isinstance(error, DataError)
    assert "loses text of this input: " in str(error) and "--max-lost-share" in str(error)
    assert not folder.exists()
    result = call(tokenize, file, *options, "--max-lost-share", 1)
    assert result.exception is None
    assert "of the characters of the sample do not come back" in result.stderr
    assert "  lost: " in result.stdout
    verified = call(verify, folder)
    assert (verified.exit_code, verified.stdout.startswith(f"{folder}: BAD, ")) == (65, True)
    assert "text was lost: when the channel was made, " in verified.stdout
    assert call(verify, folder, "--max-lost-share", 1).exit_code == 0
    further = write_lines(tmp_path / "b.jsonl", {"text": "文字 B"})
    assert isinstance(call(append, further, *options).exception, DataError)


def test_a_small_loss_is_told_and_taken(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"text": "x" * 999 + "X"})
    options = ("--tokenizer", lowercase(tmp_path / "t"), "--channel", "c", "--output", tmp_path / "data")
    result = call(tokenize, file, *options)
    assert result.exception is None
    assert "0.10% of the characters of the sample do not come back (1 of 1,000, in 1 documents)" in result.stderr
    assert "of 1,000 characters decoded again 0.1000% did not come back" in result.stdout
    assert call(verify, tmp_path / "data").stdout.startswith(f"{tmp_path}/data/c: good, ")


def test_loss_behind_the_sample_is_found_in_the_whole_run(tmp_path: Path) -> None:
    """The sample of a packed file is its beginning."""
    texts = ["The quick brown fox"] * 50 + ["nothing known here at all"] * 50
    job = ChannelJob(inputs=[write_lines(tmp_path / "a.jsonl", *({"text": text} for text in texts))], folder=tmp_path)
    tokenizer = open_tokenizer(words(tmp_path / "t"))
    with pytest.raises(DataError, match=r"the tokenizer loses text: .*of all tokens stand for unknown text; allowed"):
        make(job, tokenizer)
    assert not (tmp_path / "parts.jsonl").exists()
    totals = make(replace(job, max_lost_share=1.0), tokenizer).totals
    assert totals.unknown_tokens == 50 * 5
    assert totals.lost_characters > 0 and totals.decoded_characters == sum(map(len, texts))


def test_counts_depend_on_documents_and_not_on_batches(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(words(tmp_path / "t"))
    texts = [["The fox", "a fox ran", "", "quick"][number % 4] for number in range(700)]
    check = TextCheck(tokenizer, [1])

    def encoded(some: list[str]) -> EncodedDocuments:
        ids = tokenizer.encode_documents(some)
        return EncodedDocuments(np.array(sum(ids, []), dtype=np.uint32), np.array(list(map(len, ids))))

    whole = check.look_at(texts, encoded(texts), 0)
    pieces = [check.look_at(texts[a : a + 33], encoded(texts[a : a + 33]), a) for a in range(0, 700, 33)]
    for name in ("unknown_tokens", "symbols_inside", "decoded_characters", "lost_characters"):
        assert np.concatenate([getattr(piece, name) for piece in pieces]).tolist() == getattr(whole, name).tolist()
    assert whole.unknown_tokens.tolist()[:4] == [0, 2, 0, 0]
    assert (whole.decoded_characters[:200] == [len(text) for text in texts[:200]]).all()
    assert (200 + np.flatnonzero(whole.decoded_characters[200:])).tolist() == [233, 267, 411, 555, 644, 699]


@pytest.mark.parametrize("every", [1, 2, 3, 10])
def test_loss_that_begins_behind_the_first_documents_is_seen(tmp_path: Path, every: int) -> None:
    tokenizer = open_tokenizer(lowercase(tmp_path / "t"))
    texts = ["SOME TEXT" if number % every == 0 else "some text" for number in range(8000)]
    ids = tokenizer.encode_documents(texts)
    encoded = EncodedDocuments(np.array(sum(ids, []), dtype=np.uint32), np.array(list(map(len, ids))))
    found = TextCheck(tokenizer, []).look_at(texts, encoded, 1000)
    assert found.decoded_characters.sum() > 0.01 * sum(map(len, texts))
    share = found.lost_characters.sum() / found.decoded_characters.sum() * 9 / 8
    assert share == pytest.approx(1 / every, rel=0.3)


@pytest.mark.parametrize("number", [0, 5000])
@pytest.mark.parametrize("begin", [0, 60_000, 400_000])
def test_loss_in_a_long_document_is_seen(tmp_path: Path, number: int, begin: int) -> None:
    tokenizer = open_tokenizer(lowercase(tmp_path / "t"))
    text = "some text " * (begin // 10) + "SOME TEXT " * 10_000
    ids = tokenizer.encode_documents([text])[0]
    encoded = EncodedDocuments(np.array(ids, dtype=np.uint32), np.array([len(ids)]))
    found = TextCheck(tokenizer, []).look_at([text], encoded, number)
    assert 0.02 * len(text) <= found.decoded_characters[0] < (0.04 * len(text) if number else 60_000)
    wanted = 0.8 * 100_000 / len(text)
    assert found.lost_characters[0] / found.decoded_characters[0] == pytest.approx(wanted, rel=0.5)


def test_a_long_document_that_comes_back_is_no_loss(tmp_path: Path) -> None:
    for made in (byte_level(tmp_path / "t"), sentencepiece_default(tmp_path / "s")):
        tokenizer = open_tokenizer(made)
        text = "The quick brown fox. " * 5000
        ids = tokenizer.encode_documents([text])[0]
        encoded = EncodedDocuments(np.array(ids, dtype=np.uint32), np.array([len(ids)]))
        found = TextCheck(tokenizer, []).look_at([text], encoded, 0)
        assert found.lost_characters[0] == 0 < found.decoded_characters[0]


def test_verify_finds_unknown_tokens_and_broken_characters(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", *({"text": "丐丑 The fox"} for _ in range(9)))
    for kind, words_of_it in ((words, "stand for unknown text"), (incomplete, "are broken, because bytes are missing")):
        folder, model = tmp_path / "data" / kind.__name__, kind(tmp_path / kind.__name__)
        make(ChannelJob(inputs=[file], folder=folder, max_lost_share=1.0), open_tokenizer(model))
        source = folder / "source.json"
        source.unlink()  # as another program leaves it
        found = call(verify, folder, "--tokenizer", model)
        assert (found.exit_code, found.stdout.startswith(f"{folder}: BAD, ")) == (65, True)
        assert words_of_it in found.stdout
        (reports,) = json.loads(call(verify, folder, "--tokenizer", model, "--json").stdout).values()
        assert any(words_of_it in problem for problem in reports[0]["problems"])
        assert call(verify, folder, "--tokenizer", model, "--max-lost-share", 1).exit_code == 0


def test_a_replacement_character_of_the_text_itself_is_not_broken(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"text": "\ufffd" * 50})
    model = byte_level(tmp_path / "t")
    make(ChannelJob(inputs=[file], folder=tmp_path / "c"), open_tokenizer(model))
    assert call(verify, tmp_path / "c", "--tokenizer", model).stdout.startswith(f"{tmp_path}/c: good, ")


@pytest.mark.parametrize("kind", [words, lowercase, incomplete])
def test_inspect_says_what_is_lost_of_every_kind_of_vocabulary(tmp_path: Path, kind: Any) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"text": "The Quick 文 fox"})
    model = kind(tmp_path / "t")
    result = call(inspect_tokenizer, model, file)
    assert result.exception is None and "lost" in result.stdout and "unknown" in result.stdout
    (report,) = json.loads(call(inspect_tokenizer, model, file, "--json").stdout)["text"]
    assert report["lost_share"] > 0 and report["unknown_tokens"] == (2 if kind is words else 0)


def test_inspect_opens_a_tokenizer_whose_end_is_not_known(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"text": "one"})
    result = call(inspect_tokenizer, byte_level(tmp_path / "t", settings={"eos_token": "<no>"}), file)
    assert result.exception is None and "end of document not known" in result.stdout
