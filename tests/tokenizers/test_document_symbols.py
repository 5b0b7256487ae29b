"""Which symbol ends a document and why, and which would begin one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from odd_tokenizers import byte_level, words
from small_tokenizers import sentencepiece_model

from harness.errors import DataError, UsageError
from harness.tokenizers.document_symbols import begins_by_settings, symbol_called
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer


def reason(tokenizer: Tokenizer) -> tuple[str, str]:
    end = tokenizer.symbols.require_end()
    assert tokenizer.end_of_document_id == end.id
    return end.spelling, end.reason


@pytest.mark.parametrize("named", ["<|im_end|>", {"content": "<|im_end|>", "special": True}])
def test_the_settings_name_the_end(tmp_path: Path, named: object) -> None:
    folder = byte_level(tmp_path, control=("</s>", "<|im_end|>"), settings={"eos_token": named})
    assert reason(open_tokenizer(folder)) == ("<|im_end|>", "eos_token of tokenizer_config.json")


@pytest.mark.parametrize("settings", [None, {}, {"eos_token": None}])
def test_else_a_usual_name_is_taken(tmp_path: Path, settings: dict[str, object] | None) -> None:
    folder = byte_level(tmp_path, control=("</s>", "<eos>"), settings=settings)
    assert reason(open_tokenizer(folder)) == ("</s>", "a usual name; the tokenizer itself names none")


@pytest.mark.parametrize("named", ["<|endoftext|>", "", 7, ["</s>"]])
def test_an_end_that_is_named_and_not_there_is_an_error_and_no_other_is_taken(tmp_path: Path, named: object) -> None:
    folder = byte_level(tmp_path, settings={"eos_token": named})
    with pytest.raises(DataError, match=r"tokenizer_config\.json: eos_token is .*which is not in the vocabulary of"):
        open_tokenizer(folder)
    opened = open_tokenizer(folder, needs_end=False)
    with pytest.raises(DataError, match="eos_token is"):
        _ = opened.end_of_document_id


def test_older_settings_name_the_end_in_a_file_of_their_own(tmp_path: Path) -> None:
    byte_level(tmp_path, control=("</s>", "<|im_end|>"), settings={"eos_token": None})
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>"}}')
    assert reason(open_tokenizer(tmp_path)) == ("<|im_end|>", "eos_token of special_tokens_map.json")
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<gone>"}')
    with pytest.raises(DataError, match=r"special_tokens_map\.json: eos_token is '<gone>'"):
        open_tokenizer(tmp_path)


def test_a_sentencepiece_model_has_the_end_that_its_settings_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(control_symbols=["<pad>"]))
    assert reason(open_tokenizer(tmp_path)) == ("</s>", "the model's own end of a sentence")
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text('{"eos_token": "<pad>"}')
    assert reason(open_tokenizer(tmp_path)) == ("<pad>", "eos_token of tokenizer_config.json")
    settings.write_text('{"eos_token": "<gone>"}')
    with pytest.raises(DataError, match=r"eos_token is '<gone>', which is not in the vocabulary of tokenizer\.model"):
        open_tokenizer(tmp_path)
    # An added token is known to transformers alone.
    settings.write_text('{"eos_token": "<|im_end|>", "added_tokens_decoder": {"360": {"content": "<|im_end|>"}}}')
    spelling, why = reason(open_tokenizer(tmp_path))
    assert spelling == "</s>" and "<|im_end|>, the eos_token of tokenizer_config.json, is an added token" in why


def test_settings_that_are_nested_without_end(tmp_path: Path) -> None:
    byte_level(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not readable as JSON"):
        open_tokenizer(tmp_path)


def test_settings_that_are_no_object_are_an_error(tmp_path: Path) -> None:
    byte_level(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: not readable as JSON \(not a JSON object\)"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("settings", "post_processor", "expected"),
    [
        (None, None, None),
        (None, "<s>", "its post-processor puts it before every text"),
        ({"add_bos_token": True, "bos_token": "<s>"}, None, "tokenizer_config.json puts it before every text"),
        ({"bos_token": "<s>"}, None, None),
        ({"add_bos_token": True, "bos_token": "<no>"}, None, None),
        ({"add_bos_token": False, "bos_token": "<s>"}, "<s>", None),
        ({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>"}, None, "tokenizer_config.json puts it"),
    ],
)
def test_the_symbol_that_the_tokenizer_would_begin_with(
    tmp_path: Path, settings: dict[str, object] | None, post_processor: str | None, expected: str | None
) -> None:
    folder = byte_level(tmp_path, control=("</s>", "<s>"), settings=settings, begin=post_processor)
    begin = open_tokenizer(folder).symbols.begin
    if expected is None:
        assert begin is None
    else:
        assert begin is not None
        assert (begin.spelling, begin.reason.startswith(expected)) == ("<s>", True)


def test_classes_that_begin_every_text_do_so_unless_told_not_to() -> None:
    assert begins_by_settings({"tokenizer_class": "GemmaTokenizer"}) is True
    assert begins_by_settings({"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}) is False
    assert begins_by_settings({"tokenizer_class": "Qwen2Tokenizer"}) is None


def test_the_unknown_symbol_is_known(tmp_path: Path) -> None:
    assert open_tokenizer(words(tmp_path / "words")).symbols.unknown_id == 0
    assert open_tokenizer(byte_level(tmp_path / "bytes")).symbols.unknown_id is None


def test_a_symbol_is_called_by_its_spelling_or_its_id(tmp_path: Path) -> None:
    pieces = open_tokenizer(byte_level(tmp_path, control=("</s>", "<a>"), text_symbols=("<b>",))).pieces()
    assert symbol_called(pieces, "<a>", "--x").id == 1
    assert (symbol_called(pieces, "1", "--x").spelling, symbol_called(pieces, "1", "--x").reason) == ("<a>", "--x")
    assert symbol_called(pieces, "<b>", "--x").id == len(pieces) - 1
    for wrong in ("<c>", "99999", ""):
        with pytest.raises(UsageError, match=r"--x .*: the vocabulary has no such .*control symbols are: </s>, <a>"):
            symbol_called(pieces, wrong, "--x")


def test_sentencepiece_ends_with_its_own_symbol_and_begins_as_its_settings_say(tmp_path: Path) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h"] * 50),
        model_prefix=str(tmp_path / "m"),
        vocab_size=30,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    tokenizer = open_tokenizer(tmp_path / "m.model")
    assert reason(tokenizer) == ("</s>", "the model's own end of a sentence")
    assert (tokenizer.symbols.unknown_id, tokenizer.symbols.begin) == (0, None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    begin = open_tokenizer(tmp_path / "m.model").symbols.begin
    assert begin is not None and (begin.id, begin.spelling) == (1, "<s>")
