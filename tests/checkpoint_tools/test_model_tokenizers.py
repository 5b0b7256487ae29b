"""The tokenizers of a Hugging Face model's folder, as a run will know them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import byte_level, sentencepiece_model
from tokenizers import AddedToken

from checkpoint_tools.model_tokenizers import look_at_tokenizers
from checkpoint_tools.sentencepiece_model import as_tokenizer_json
from harness.errors import DataError, UsageError
from harness.tokenizers.identity import OTHER_TOKENIZERS, identity_of, recorded_tokenizers
from harness.tokenizers.tokenizer import open_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    byte_level().save(str(tmp_path / "model" / "tokenizer.json"))
    return tmp_path / "model"


def write(folder: Path, *words: str, **changes: Any) -> Path:
    folder.mkdir()
    tokenizer = byte_level(**changes)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_one_tokenizer_is_recorded(folder: Path) -> None:
    found = look_at_tokenizers(folder, None, 330)
    assert found.warnings == () and recorded_tokenizers(found.fingerprint()) == (identity_of(open_tokenizer(folder)),)


def test_folder_without_one(tmp_path: Path) -> None:
    assert look_at_tokenizers(tmp_path, None, 330).fingerprint() == {}


def test_one_id_more_than_rows_is_said_with_what_helps(folder: Path) -> None:
    (warning,) = look_at_tokenizers(folder, None, 329).warnings
    assert warning.startswith("tokenizer.json has 330 ids, the model 329 rows")
    assert warning.endswith("convert with --vocab-size 330")


def test_two_files_of_different_tokenizers_are_said_and_both_recorded(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    found = look_at_tokenizers(folder, None, 512)
    assert "tokenizer.json and tokenizer.model are different tokenizers" in found.warnings[0]
    assert [record["file"] for record in found.fingerprint()[OTHER_TOKENIZERS]] == ["tokenizer.model"]
    assert len(recorded_tokenizers(found.fingerprint())) == 2


def test_two_files_of_one_tokenizer(tmp_path: Path) -> None:
    content = sentencepiece_model(normalization_rule_name="identity", remove_extra_whitespaces=False)
    text = as_tokenizer_json(content)
    assert text is not None, "this model can be expressed"
    (tmp_path / "tokenizer.model").write_bytes(content)
    (tmp_path / "tokenizer.json").write_text(text)
    assert look_at_tokenizers(tmp_path, None, 360).warnings == ()


def test_file_that_cannot_be_read_is_said_and_does_not_end_the_conversion(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"nonsense")
    found = look_at_tokenizers(folder, None, 330)
    assert "tokenizer.model was not looked at" in found.warnings[0] and len(found.own) == 1


def test_named_tokenizer_that_grew(folder: Path, tmp_path: Path) -> None:
    grown = write(tmp_path / "grown", "telescope")
    found = look_at_tokenizers(folder, grown, 331)
    assert recorded_tokenizers(found.fingerprint()) == (identity_of(open_tokenizer(grown)),)
    assert found.warnings[0].startswith("the tokenizer grew from 330 to 331 ids")
    with pytest.raises(UsageError, match=r"has 331 ids, the model 330 rows\. Give --vocab-size 331"):
        look_at_tokenizers(folder, grown, 330)


def test_named_tokenizer_that_is_another_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is another tokenizer than the model's own"):
        look_at_tokenizers(folder, write(tmp_path / "other", add_prefix_space=True), 330)
    with pytest.raises(DataError, match="no such file"):
        look_at_tokenizers(folder, tmp_path / "nowhere", 330)


@pytest.mark.parametrize("content", [b"{", b"", b"version https://git-lfs.github.com/spec/v1\n", b"{}", b"[]"])
def test_broken_tokenizer_json_is_said_and_no_other_takes_its_place_unsaid(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    warnings = look_at_tokenizers(tmp_path, None, 512).warnings
    assert warnings[0].startswith("tokenizer.json was not looked at: ")
    assert warnings[1].startswith("no tokenizer could be recorded for the model (tokenizer.json: none is a tokenizer")
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    found = look_at_tokenizers(tmp_path, None, 512)
    assert found.warnings[0].startswith("tokenizer.json was not looked at: ")
    assert found.warnings[1].startswith(
        "tokenizer.model is recorded as the model's tokenizer, because tokenizer.json, "
    )


def test_vocabulary_without_rules_is_said(tmp_path: Path) -> None:
    byte_level().model.save(str(tmp_path))
    (warning,) = look_at_tokenizers(tmp_path, None, 512).warnings
    assert "(merges.txt, vocab.json: vocab.json and merges.txt do not say how text is split)" in warning


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"[OLD]": 3, "[NEW]": 512}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"512": {"content": "[NEW]"}}, "model_max_length": 4096}),
    ],
)
@pytest.mark.parametrize("kind", ["tokenizer.json", "tokenizer.model"])
def test_added_tokens_beyond_the_rows_are_said(tmp_path: Path, name: str, content: object, kind: str) -> None:
    byte_level().save(str(tmp_path / kind)) if kind == "tokenizer.json" else (tmp_path / kind).write_bytes(
        sentencepiece_model()
    )
    (tmp_path / name).write_text(json.dumps(content))
    (warning,) = look_at_tokenizers(tmp_path, None, 512).warnings
    assert warning.startswith(f"with its added tokens ({name}) the tokenizer has 513 ids, the model 512 rows: ")
    assert warning.endswith("--vocab-size 513")
    assert look_at_tokenizers(tmp_path, None, 513).warnings == ()


@pytest.mark.parametrize("content", ["[]", "{", '{"added_tokens_decoder": [1]}', '{"x": "y", "z": -1, "t": true}'])
def test_odd_files_beside_a_tokenizer_add_nothing(folder: Path, content: str) -> None:
    for name in ("added_tokens.json", "tokenizer_config.json"):
        (folder / name).write_text(content)
    assert not [told for told in look_at_tokenizers(folder, None, 330).warnings if "with its added tokens" in told]
