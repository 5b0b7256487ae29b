"""Whether two tokenizers are the same follows from what they do, not from how their files are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from small_tokenizers import byte_level, sentencepiece_model
from tokenizers import AddedToken, normalizers, processors

from checkpoint_tools.sentencepiece_model import as_tokenizer_json
from harness.tokenizers.identity import difference, identity_of, recorded_identity, relation_to
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer


def opened(folder: Path, tokenizer: tokenizers.Tokenizer) -> Tokenizer:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return open_tokenizer(folder)


def described(tokenizer: tokenizers.Tokenizer, change: Callable[[dict[str, Any]], object]) -> tokenizers.Tokenizer:
    content = json.loads(tokenizer.to_str())
    change(content)
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def opened_model(folder: Path, content: bytes) -> Tokenizer:
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(content)
    return open_tokenizer(folder)


def test_the_same_tokenizer_written_in_another_way(tmp_path: Path) -> None:
    one = opened(tmp_path / "one", byte_level())
    again = tmp_path / "again"
    again.mkdir()
    content = json.loads(one.path.read_bytes())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]  # as older libraries write
    (again / "tokenizer.json").write_text(json.dumps(dict(reversed(content.items())), indent=7, ensure_ascii=True))
    other = open_tokenizer(again)
    assert one.file_hash != other.file_hash
    assert relation_to(identity_of(one), other) == "same"


def test_what_does_not_change_the_ids_of_a_text_is_not_part_of_it(tmp_path: Path) -> None:
    tokenizer = byte_level()
    one = opened(tmp_path / "one", tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.enable_truncation(7)
    tokenizer.enable_padding(length=9)
    assert relation_to(identity_of(one), opened(tmp_path / "other", tokenizer)) == "same"


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "merges in another order": lambda content: content["model"]["merges"].__setitem__(
        slice(0, 2), content["model"]["merges"][1::-1]
    ),
    "one merge less": lambda content: content["model"]["merges"].pop(),
    "two ids exchanged": lambda content: content["model"]["vocab"].update(
        {"a": content["model"]["vocab"]["b"], "b": content["model"]["vocab"]["a"]}
    ),
    "a control symbol that is text": lambda content: content["added_tokens"][1].update(special=False),
    "a control symbol of another name": lambda content: (
        content["added_tokens"][1].update(content="<|end|>"),
        content["model"]["vocab"].update({"<|end|>": content["model"]["vocab"].pop("<|pad|>")}),
    ),
    "a space before every text": lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
    "lower case": lambda content: content.update(normalizer={"type": "Lowercase"}),
    "another form of Unicode": lambda content: content.update(normalizer={"type": "NFKC"}),
    "whole words before merges": lambda content: content["model"].update(ignore_merges=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_tokenizer_of_equal_size(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    one, other = opened(tmp_path / "one", byte_level()), opened(tmp_path / "other", described(byte_level(), change))
    assert one.vocab_size == other.vocab_size
    assert relation_to(identity_of(one), other) == "other" and relation_to(identity_of(other), one) == "other"
    assert "other" in difference(identity_of(one), other)


def test_a_tokenizer_grows(tmp_path: Path) -> None:
    tokenizer = byte_level()
    one = opened(tmp_path / "one", tokenizer)
    tokenizer.add_tokens([AddedToken("telescope", normalized=False)])
    tokenizer.add_special_tokens(["<|tool|>"])
    grown = opened(tmp_path / "grown", tokenizer)
    assert relation_to(identity_of(one), grown) == "grown"
    assert relation_to(identity_of(grown), one) == "other"
    # One of the same size with other pieces did not grow from it.
    unrelated = opened(tmp_path / "unrelated", byte_level(vocab_size=332))
    changed = described(tokenizer, lambda content: CHANGES["two ids exchanged"](content))
    assert unrelated.vocab_size == grown.vocab_size
    assert relation_to(identity_of(one), opened(tmp_path / "changed", changed)) == "other"


def test_sentencepiece_model_and_the_json_made_of_it_are_the_same(tmp_path: Path) -> None:
    content = sentencepiece_model(
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=1.0
    )
    model = opened_model(tmp_path / "model", content)
    text = as_tokenizer_json(content)
    assert text is not None, "this model can be expressed"
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "tokenizer.json").write_text(text)
    translated = open_tokenizer(tmp_path / "json")
    assert model.kind != translated.kind
    assert relation_to(identity_of(model), translated) == "same"
    changed = tokenizers.Tokenizer.from_str(text)
    changed.normalizer = normalizers.Sequence([normalizers.Lowercase(), changed.normalizer])
    assert relation_to(identity_of(model), opened(tmp_path / "changed", changed)) == "other"


def _scores(model: Any) -> None:
    model.pieces[300].score, model.pieces[301].score = model.pieces[301].score, model.pieces[300].score


MODEL_CHANGES: dict[str, Callable[[Any], object]] = {
    "scores": _scores,
    "dummy prefix": lambda model: setattr(model.normalizer_spec, "add_dummy_prefix", False),
    "white space": lambda model: setattr(model.normalizer_spec, "remove_extra_whitespaces", False),
    "normalization": lambda model: setattr(model.normalizer_spec, "precompiled_charsmap", b""),
    "kind of a piece": lambda model: setattr(model.pieces[310], "type", 4),
}


@pytest.mark.parametrize("change", MODEL_CHANGES.values(), ids=MODEL_CHANGES)
def test_another_sentencepiece_model_of_equal_size(tmp_path: Path, change: Callable[[Any], object]) -> None:
    content = sentencepiece_model()
    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    one = opened_model(tmp_path / "one", content)
    model.trainer_spec.self_test_sample_size = 3  # a remark of the training
    assert relation_to(identity_of(one), opened_model(tmp_path / "same", model.SerializeToString())) == "same"
    change(model)
    assert relation_to(identity_of(one), opened_model(tmp_path / "other", model.SerializeToString())) == "other"


def test_record_comes_back_and_an_earlier_one_knows_only_the_file(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path / "one", byte_level())
    identity = identity_of(tokenizer)
    assert recorded_identity(json.loads(json.dumps(identity.as_json()))) == identity
    early = recorded_identity({"file": "tokenizer.json", "xxh3": tokenizer.file_hash, "vocab_size": 330})
    assert early is not None and relation_to(early, tokenizer) == "same"
    rewritten = opened(tmp_path / "other", byte_level(vocab_size=331))
    assert relation_to(early, rewritten) == "other"
    assert "knows only the hash of the file" in difference(early, rewritten)
    assert recorded_identity(None) is None and recorded_identity({"file": "x"}) is None
