"""The tokenizer beside exported weights: transformers must read the ids that the run was trained on."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import io
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import sentencepiece
import small_tokenizers
import tokenizers
from checkpoint_samples import published_manifest

from checkpoint_tools import tiktoken_model
from checkpoint_tools.our_tensors import OurTensors
from checkpoint_tools.sentencepiece_model import as_tokenizer_json
from checkpoint_tools.tokenizer_files import find_tokenizer
from harness.config.model import ModelConfig
from harness.errors import CheckpointError, UsageError
from harness.run.checkpoints.for_export import put_into
from harness.tokenizers.belonging_files import files_of_tokenizer
from harness.tokenizers.identity import identity_of
from harness.tokenizers.pieces import byte_characters
from harness.tokenizers.tokenizer import open_tokenizer

SENTENCES = [f"the quick brown fox {n} jumps over the lazy dog, 你好世界 number {n * 7}" for n in range(300)]
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def train(**options: Any) -> bytes:
    settings = {"vocab_size": 420, "byte_fallback": True, "character_coverage": 1.0, "minloglevel": 2}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, **(settings | options)
    )
    return model.getvalue()


TEXTS = ["the lazy fox 12", "  two spaces\n\tand a tab ", "世界 und Straße 🙂", "x", "number number"]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"model_type": "bpe", "add_dummy_prefix": False, **PLAIN}, id="bpe"),
        pytest.param({"model_type": "bpe", **PLAIN}, id="bpe with a space before"),
        pytest.param({"model_type": "unigram", **PLAIN}, id="unigram"),
    ],
)
def test_a_sentencepiece_model_gives_the_same_ids_through_tokenizers(options: dict[str, Any]) -> None:
    content = train(**options)
    text = as_tokenizer_json(content)
    assert text is not None
    translated = tokenizers.Tokenizer.from_str(text)
    original = sentencepiece.SentencePieceProcessor(model_proto=content)
    for sentence in (*SENTENCES, *TEXTS):
        ids = original.encode(sentence)
        assert translated.encode(sentence, add_special_tokens=False).ids == ids
        assert translated.decode(ids) == original.decode(ids)


@pytest.fixture(scope="module")
def tiktoken_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vocabulary as a tiktoken file, with the words' pattern and the control symbols beside it."""
    pytest.importorskip("tiktoken")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    spelt = {character: byte for byte, character in enumerate(byte_characters())}
    ranks = {bytes(spelt[c] for c in token): number for token, number in tokenizer.get_vocab().items()}
    folder = tmp_path_factory.mktemp("tiktoken")
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in sorted(ranks.items(), key=lambda i: i[1])]
    (folder / "own.tiktoken").write_text("\n".join(lines) + "\n")
    described = {"split": "cl100k", "special_tokens": {"<|endoftext|>": len(ranks), "<|x|>": len(ranks) + 1}}
    (folder / "own.tiktoken.json").write_text(json.dumps(described))
    return folder / "own.tiktoken"


def test_a_tiktoken_file_gives_the_same_ids_through_tokenizers(tiktoken_file: Path, tmp_path: Path) -> None:
    found = find_tokenizer(checkpoint_of(tmp_path, tiktoken_file), {}, tiktoken_file)
    assert found is not None
    assert found.warnings == ()
    assert set(found.files) == {"own.tiktoken", "own.tiktoken.json", "tokenizer.json", "tokenizer_config.json"}
    assert json.loads(found.files["tokenizer_config.json"])["eos_token"] == "<|endoftext|>"
    original, translated = (
        open_tokenizer(tiktoken_file),
        tokenizers.Tokenizer.from_buffer(found.files["tokenizer.json"]),
    )
    for sentence in (*SENTENCES, *TEXTS):
        [ids] = original.encode_documents([sentence])
        assert translated.encode(sentence, add_special_tokens=False).ids == ids
        assert translated.decode(ids) == original.decode(ids) == sentence
    assert translated.token_to_id("<|endoftext|>") == original.end_of_document_id


def test_a_pattern_that_tokenizers_does_not_know_is_told(tiktoken_file: Path, tmp_path: Path) -> None:
    """Then the file is copied as it is, with a warning."""
    with mock.patch.object(tiktoken_model, "_agree", return_value=False):
        found = find_tokenizer(checkpoint_of(tmp_path, tiktoken_file), {}, tiktoken_file)
    assert found is not None
    assert set(found.files) == {"own.tiktoken", "own.tiktoken.json"}
    (warning,) = found.warnings
    assert "own.tiktoken is not written as a tokenizer.json, for want of one with the same ids" in warning


def test_what_cannot_be_translated_is_not_guessed() -> None:
    assert as_tokenizer_json(train(model_type="bpe")) is None  # removes spaces, which BPE here cannot
    assert as_tokenizer_json(train(model_type="char", vocab_size=300, **PLAIN)) is None


def checkpoint_of(run: Path, tokenizer: Path | None) -> OurTensors:
    """As much of a checkpoint as says which tokenizer it was trained with."""
    recorded = identity_of(open_tokenizer(tokenizer)).as_json() if tokenizer else None
    model = ModelConfig(num_layers=1, hidden_size=4, num_attention_heads=1, ffn_hidden_size=4, vocab_size=420)
    manifest = published_manifest(1, fingerprint={"tokenizer": recorded})
    return OurTensors(path=run / "checkpoints" / "step_0000001", manifest=manifest, model=model, places={})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "own.model"
    path.write_bytes(train(model_type="bpe", add_dummy_prefix=False, **PLAIN))
    return path


def test_files_and_special_ids(tokenizer: Path, tmp_path: Path) -> None:
    found = find_tokenizer(checkpoint_of(tmp_path, tokenizer), {}, tokenizer)
    assert found is not None
    assert set(found.files) == {"tokenizer.model", "tokenizer.json", "tokenizer_config.json"}
    assert found.files["tokenizer.model"] == tokenizer.read_bytes()
    assert found.special_ids == {"bos_token_id": None, "eos_token_id": 2}
    assert json.loads(found.files["tokenizer_config.json"])["eos_token"] == "</s>"


def test_another_tokenizer_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.model"
    other.write_bytes(train(model_type="unigram", **PLAIN))
    with pytest.raises(
        CheckpointError,
        match=r"step_0000001 was trained with another tokenizer, own\.model with .*: .*other\.model has",
    ):
        find_tokenizer(checkpoint_of(tmp_path, tokenizer), {}, other)


def test_a_tokenizer_that_is_not_found_is_asked_for(tokenizer: Path, tmp_path: Path) -> None:
    ours = checkpoint_of(tmp_path, tokenizer)
    advice = r"Name it with --tokenizer, or give --without-tokenizer\."
    with pytest.raises(UsageError, match=rf"is not known: there is no readable config\.yaml\. {advice}"):
        find_tokenizer(ours, {}, None)
    with pytest.raises(UsageError, match=rf"cannot be opened: .*there is no such file.* {advice}"):
        find_tokenizer(ours, {}, tmp_path / "gone.model")


def test_a_tokenizer_that_grew_must_fit_into_the_model_and_is_told(tmp_path: Path) -> None:
    paths = []
    for name, words in (("before", ()), ("grown", ("telescope", "microscope"))):
        (tmp_path / name).mkdir()
        own = small_tokenizers.byte_level()
        own.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in words])
        own.save(str(tmp_path / name / "tokenizer.json"))
        paths.append(tmp_path / name / "tokenizer.json")
    before, grown = paths
    ours = checkpoint_of(tmp_path, before)
    found = find_tokenizer(ours, {}, grown)
    assert found is not None
    (warning,) = found.warnings
    assert "grew from the tokenizer that the checkpoint was trained with, from 330 to 332 ids" in warning
    narrow = dataclasses.replace(ours, model=ours.model.model_copy(update={"vocab_size": 331}))
    with pytest.raises(UsageError, match=r"grown/tokenizer\.json has 332 ids, the model 331 rows: "):
        find_tokenizer(narrow, {}, grown)
    assert find_tokenizer(narrow, {}, before) is not None


def test_a_run_without_a_tokenizer_needs_none(tmp_path: Path) -> None:
    assert find_tokenizer(checkpoint_of(tmp_path, None), {}, None) is None


def test_settings_beside_a_sentencepiece_model_hold_for_its_translation(tokenizer: Path, tmp_path: Path) -> None:
    """Of a run's own tokenizer transformers gives the trained ids, and has the tokens and the template beside it."""
    folder = tmp_path / "own"
    folder.mkdir()
    model = folder / tokenizer.name
    model.write_bytes(tokenizer.read_bytes())
    added = {"<|im_start|>": 420, "<|im_end|>": 421}
    described = {str(number): {"content": name, "special": True} for name, number in added.items()}
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "eos_token": "<|im_end|>",
        "bos_token": "<s>",
        "chat_template": "{{x}}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "added_tokens_decoder": described}))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    belongings = put_into("tokenizer", files_of_tokenizer(open_tokenizer(folder)))
    found = find_tokenizer(checkpoint_of(tmp_path, model), belongings, None)
    assert found is not None
    assert found.warnings == ()
    out = tmp_path / "out"
    out.mkdir()
    for name, content in found.files.items():
        (out / name).write_bytes(content)
    transformers = importlib.import_module("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    original = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes())
    for sentence in (*SENTENCES[:20], *TEXTS):
        assert loaded(sentence, add_special_tokens=False)["input_ids"] == original.encode(sentence)
    assert loaded("<|im_start|>x<|im_end|>")["input_ids"] == [420, *original.encode("x"), 421]
    assert (len(loaded), loaded.eos_token, loaded.bos_token, loaded.chat_template) == (
        422,
        "<|im_end|>",
        "<s>",
        "{{x}}",
    )
