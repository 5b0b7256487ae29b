from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from data_prep.text.named_inputs import draw_by_weight, draw_samples, named_inputs, thinned
from data_prep.tokenizers.choose_encoder import choose_encoder
from data_prep.tokenizers.tokenizer_report import REASONS, compare, report_on_text, report_on_vocabulary
from data_prep.tokenizers.train_tokenizer import TrainerSettings, cut_at_words, padded_vocab_size, spare_symbols, train
from data_prep.verbs.tokenizer_verbs import inspect_tokenizer, train_tokenizer
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

ENGLISH = ["The quick brown fox 2026 jumps over the lazy dog. " * 20, "Sphinx of black quartz, judge my vow! " * 20]
RARE = "龘 🦜 \t\r\n  αβγ é 𠀀 \x00 end <|endoftext|><|spare_3|>"
KINDS = {"sentencepiece": ".model", "byte-level": ".json"}


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, poems: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Chinese and English, eight spare ids, a user word and a forbidden one."""
    settings = TrainerSettings(
        kind=request.param,
        vocab_size=1000 if request.param == "byte-level" else 3500,
        num_spare_ids=8,
        user_words=["杜甫《"],
        forbidden_words=["fox", "李白"],
        character_coverage=0.99,
    )
    file = tmp_path_factory.mktemp("trained") / f"tokenizer{KINDS[request.param]}"
    file.write_bytes(train(iter([*poems, *ENGLISH]), settings))
    return open_tokenizer(file)


def test_text_comes_back_and_markers_stay_text(trained: Tokenizer, poems: list[str]) -> None:
    documents = [*poems, *ENGLISH, RARE]
    encoded = trained.encode_documents(documents)
    assert [trained.decode(ids) for ids in encoded] == documents
    assert trained.end_of_document_id not in encoded[-1]


def test_the_number_of_ids_is_a_multiple_of_128(trained: Tokenizer) -> None:
    assert trained.vocab_size in (1024, 3584)


def test_spare_ids_are_there(trained: Tokenizer) -> None:
    assert set(spare_symbols(8)) | {"<|endoftext|>"} <= set(trained.control_symbols())


def test_every_digit_is_a_token(trained: Tokenizer) -> None:
    (ids,) = trained.encode_documents(["20262026"])
    assert len(ids) in (8, 9)  # SentencePiece may have no digit without a space before it
    assert report_on_vocabulary(trained).splits_digits


def test_a_user_word_is_one_token(trained: Tokenizer) -> None:
    (ids,) = trained.encode_documents(["杜甫《"])
    assert [trained.decode([token]) for token in ids] == ["杜甫《"]


def test_forbidden_words_are_in_no_token(trained: Tokenizer) -> None:
    texts = [trained.decode([token]) for token in range(trained.vocab_size)]
    assert any("brown" in text for text in texts)
    assert not [text for text in texts if "fox" in text.lower() or "李白" in text]


def test_equal_samples_give_equal_bytes(poems: list[str]) -> None:
    for kind in ("sentencepiece", "byte-level"):
        settings = TrainerSettings(kind=kind, vocab_size=3500, num_spare_ids=0)  # type: ignore[arg-type]
        assert train(iter(poems), settings) == train(iter(poems), settings)


@pytest.mark.parametrize("name", ["fastokens", "gigatoken"])
def test_fast_encoders_read_what_was_trained(trained: Tokenizer, poems: list[str], name: str) -> None:
    pytest.importorskip(name)
    if trained.path.suffix == ".model" and name == "fastokens":
        pytest.skip("fastokens reads no SentencePiece model")
    assert choose_encoder(trained, poems[:50], name).encoder.name == name


@given(
    text=st.text("abfoxFOX杜甫 ", max_size=60),
    words=st.lists(st.text("abfox杜甫", min_size=2, max_size=4), min_size=1, max_size=3),
)
def test_no_piece_of_a_cut_text_holds_a_word(text: str, words: list[str]) -> None:
    pieces = list(cut_at_words(iter([text]), words))
    assert "".join(pieces) == text
    assert not [piece for piece in pieces for word in words if word.lower() in piece.lower()]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 256}, r"--vocab-size 256 leaves no room for words: .* 0 spare ids and 0 user words need 258"),
        ({"forbidden_words": ["x"]}, r"forbidden word 'x' has fewer than two characters"),
        ({"user_words": ["a foxy"], "forbidden_words": ["FOX"]}, r"user word 'a foxy' contains a forbidden word"),
        ({"vocab_size": 100_000}, r"SentencePiece cannot train 100096 ids on this sample.*smaller --vocab-size"),
        (
            {"vocab_size": 100_000, "kind": "byte-level"},
            r"the sample has words for \d+ ids only, not for 100096\. Give",
        ),
    ],
)
def test_what_cannot_be_trained_is_said(changes: dict[str, object], words: str) -> None:
    settings = {"kind": "sentencepiece", "vocab_size": 400, "num_spare_ids": 0} | changes
    with pytest.raises(UsageError, match=words):
        train(iter(ENGLISH), TrainerSettings(**settings))  # type: ignore[arg-type]


def test_sizes_are_rounded_up() -> None:
    assert [padded_vocab_size(size) for size in (1, 128, 129, 64_000)] == [128, 128, 256, 64_000]


def test_samples_follow_the_shares_and_make_up_for_what_is_short() -> None:
    assert draw_by_weight({"zh": 1000, "en": 1000}, {"zh": 3, "en": 1}, 400) == {"zh": 300, "en": 100}
    assert draw_by_weight({"zh": 50, "en": 1000}, {"zh": 3, "en": 1}, 400) == {"zh": 50, "en": 350}
    assert draw_by_weight({"zh": 50, "en": 10}, {"zh": 3, "en": 1}, 400) == {"zh": 50, "en": 10}


def test_thinned_lists_keep_something_from_everywhere() -> None:
    documents = [f"{number:04d}" for number in range(1000)]
    kept = thinned(documents, 400)
    assert 396 <= sum(map(len, kept)) <= 404
    assert set(kept) < set(documents)
    assert kept[0] < "0020" and kept[-1] > "0980"
    assert thinned(["x" * 1000, "y" * 10], 100) == ["x" * 99]
    assert thinned(documents, 10**6) == documents


@pytest.fixture
def corpus(tmp_path: Path, poems: list[str]) -> Path:
    for name, texts in (("zh", poems), ("en", ENGLISH)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tmp_path


def test_inputs_have_names(corpus: Path) -> None:
    inputs = named_inputs([f"zh={corpus}/zh.jsonl", f"{corpus}/en.jsonl"])
    assert inputs == {"zh": [corpus / "zh.jsonl"], "text": [corpus / "en.jsonl"]}
    drawn = draw_samples(inputs, {"zh": 3.0}, "text", 4000)
    assert 2900 < sum(map(len, drawn["zh"])) < 3100
    with pytest.raises(UsageError, match="--share en: there is no such channel. Channels: zh, text."):
        draw_samples(inputs, {"en": 1.0}, "text", 4000)
    with pytest.raises(DataError, match="channel zh has no document under the key 'body'"):
        draw_samples(inputs, {}, "body", 4000)


def call_train(corpus: Path, *options: object) -> Result:
    arguments = [f"zh={corpus}/zh.jsonl", f"en={corpus}/en.jsonl", "--spare-ids", 4, *options]
    return CliRunner().invoke(train_tokenizer, [str(argument) for argument in arguments])


def test_command_trains_and_reports(corpus: Path) -> None:
    (corpus / "bad.txt").write_text("quartz\n\n 李白 \n")
    options = ("--vocab-size", 1000, "--output", corpus / "t.json", "--forbidden-words", corpus / "bad.txt")
    result = call_train(corpus, *options, "--share", "zh=2")
    assert result.exception is None, result.exception
    assert "sample of zh: 300 documents" in result.stderr
    assert "\n1,024 ids (a multiple of 128), 5 control symbols, digits are split, end of document 1019" in result.stdout
    assert "longest tokens: " in result.stdout
    again = call_train(corpus, *options)
    assert "t.json exists. It stays as it is: choose another name" in str(again.exception)


def test_wrong_names_and_unreadable_lists_are_refused(corpus: Path) -> None:
    error = call_train(corpus, "--vocab-size", 900, "--output", corpus / "t.bin").exception
    assert "the name must end in .model (SentencePiece) or .json (byte-level BPE)" in str(error)
    options = ("--vocab-size", 900, "--output", corpus / "t.json", "--user-words", corpus / "no.txt")
    assert "no.txt: cannot be read" in str(call_train(corpus, *options).exception)


def test_report_on_text_counts_what_is_spelt_in_bytes(model_file: Path, tokenizer: Tokenizer) -> None:
    report = report_on_text("zh", ["春眠不觉晓", "🦜"], tokenizer)
    assert (report.documents, report.characters, report.changed_documents) == (2, 6, 0)
    ids = tokenizer.encode_documents(["春眠不觉晓", "🦜"])
    assert report.tokens == sum(map(len, ids))
    assert report.byte_pieces_share == pytest.approx(len(ids[1]) / report.tokens)
    assert report.characters_per_token == pytest.approx(6 / report.tokens)
    assert report.bytes_per_token == pytest.approx(19 / report.tokens)


def test_comparison_finds_words_in_other_ids(tokenizer: Tokenizer, json_file: Path) -> None:
    same = compare(ENGLISH, tokenizer, tokenizer)
    assert (same.tokens_ratio, same.changed_words) == (1.0, 0)
    other = compare(ENGLISH, tokenizer, open_tokenizer(json_file))
    assert other.words == 16
    assert other.changed_words == 16 and "quick" in other.examples


@pytest.mark.parametrize(
    ("token", "reason"),
    [("https://", "an address"), ("1984", "a number of several digits"), ("--------", "one character many times")],
)
def test_suspicious_tokens(token: str, reason: str) -> None:
    assert [name for name, pattern in REASONS.items() if pattern.search(token)] == [reason]


def test_inspect_command(corpus: Path, model_file: Path, json_file: Path) -> None:
    arguments = [str(model_file), f"zh={corpus}/zh.jsonl", f"en={corpus}/en.jsonl"]
    output = CliRunner().invoke(inspect_tokenizer, [*arguments, "--against", str(json_file)]).stdout
    assert "tokens for each token of the other" in output
    assert "WARNING: " in output and "words are encoded in other ids" in output
    unchanged = CliRunner().invoke(inspect_tokenizer, [*arguments, "--against", str(model_file)]).stdout
    assert "en: 1.000 tokens for each token of the other\n  all 16 words are encoded in the same ids" in unchanged
    content = json.loads(CliRunner().invoke(inspect_tokenizer, [*arguments, "--json"]).stdout)
    assert [text["name"] for text in content["text"]] == ["zh", "en"]
    assert content["vocabulary"]["splits_digits"] is True
