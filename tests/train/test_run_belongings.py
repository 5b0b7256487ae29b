"""Files that the checkpoints of a run hold for an export: taken over from the checkpoint, or from `data.tokenizer`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoint_samples import entry_of, sample_manifest, store_in, write_files
from small_tokenizers import byte_level, sentencepiece_model

from harness.run.checkpoints.entries import Checkpoint
from harness.tokenizers.identity import OTHER_TOKENIZERS, identity_of
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer
from harness.train.components.belongings import belongings_for

KEPT = {
    "origin/config.json": b"{}",
    "tokenizer/chat_template.jinja": b"{{ x }}",
    "tokenizer/tokenizer_config.json": b'{"eos_token": "<|endoftext|>"}',
    "tokenizer/vocab.json": b"{}",
}


@pytest.fixture
def own(tmp_path: Path) -> Tokenizer:
    """A bare tokenizer.json."""
    (tmp_path / "own").mkdir()
    byte_level().save(str(tmp_path / "own" / "tokenizer.json"))
    return open_tokenizer(tmp_path / "own")


def file_of(tokenizer: Tokenizer) -> dict[str, bytes]:
    return {"tokenizer/tokenizer.json": tokenizer.path.read_bytes()}


def entry_with(folder: Path, tokenizers: list[Tokenizer], belongings: dict[str, bytes]) -> Checkpoint:
    store = store_in(folder)
    partial = store.begin(10)
    write_files(partial)
    first, *others = [identity_of(tokenizer).as_json() for tokenizer in tokenizers]
    manifest = sample_manifest(10, fingerprint={"tokenizer": first, OTHER_TOKENIZERS: others}, longest_seq_length=0)
    return entry_of(store, store.publish(partial, manifest, belongings=belongings))


def test_a_run_that_begins_has_those_of_its_tokenizer(own: Tokenizer) -> None:
    found = belongings_for(own, None)
    assert (found.files, found.notes) == (file_of(own), ())
    assert belongings_for(None, None).files == {}


def test_the_same_tokenizer_keeps_what_the_checkpoint_has(own: Tokenizer, tmp_path: Path) -> None:
    kept = {**KEPT, **file_of(own)}
    entry = entry_with(tmp_path, [own], kept)
    for tokenizer in (own, None):
        found = belongings_for(tokenizer, entry)
        assert (found.files, found.notes) == (kept, ())


def test_settings_beside_the_tokenizer_that_are_not_taken_are_told(own: Tokenizer, tmp_path: Path) -> None:
    (own.path.parent / "chat_template.jinja").write_bytes(b"{{ mine }}")
    entry = entry_with(tmp_path, [own], {**KEPT, **file_of(own)})
    found = belongings_for(own, entry)
    assert found.files["tokenizer/chat_template.jinja"] == b"{{ x }}"
    (note,) = found.notes
    assert note == (
        f"the checkpoint's own chat_template.jinja go on with the run, not those beside {own.path}: they are of the "
        f"same tokenizer. To export with yours, give to-hf --tokenizer {own.path}"
    )


def test_a_tokenizer_that_grew_takes_the_place_and_keeps_the_settings(own: Tokenizer, tmp_path: Path) -> None:
    entry = entry_with(tmp_path, [own], {**KEPT, **file_of(own)})
    larger = byte_level()
    larger.add_tokens(["<new>"])
    larger.save(str(tmp_path / "grown.json"))
    grown = open_tokenizer(tmp_path / "grown.json")
    found = belongings_for(grown, entry)
    settings = {name: content for name, content in KEPT.items() if name != "tokenizer/vocab.json"}
    assert found.files == {**settings, **file_of(grown)}
    (note,) = found.notes
    assert note.startswith("tokenizer.json, vocab.json in the checkpoint belong to its tokenizer; from here on")


def test_settings_beside_one_that_grew_are_merged_and_told(own: Tokenizer, tmp_path: Path) -> None:
    settings = {"tokenizer/tokenizer_config.json": b'{"eos_token": "<|endoftext|>", "model_max_length": 99}'}
    entry = entry_with(tmp_path, [own], {**file_of(own), **settings})
    larger = byte_level()
    larger.add_tokens(["<new>"])
    (tmp_path / "grown").mkdir()
    larger.save(str(tmp_path / "grown" / "tokenizer.json"))
    (tmp_path / "grown" / "tokenizer_config.json").write_text('{"eos_token": "<|pad|>"}')
    found = belongings_for(open_tokenizer(tmp_path / "grown"), entry)
    merged = json.loads(found.files["tokenizer/tokenizer_config.json"])
    assert merged == {"eos_token": "<|pad|>", "model_max_length": 99}
    assert found.notes[-1].startswith(
        "of the settings in the checkpoint tokenizer_config.json (eos_token) are from here"
    )


def test_of_two_different_ones_in_a_model_only_the_trained_one_goes_on(own: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "other.model").write_bytes(sentencepiece_model())
    other = open_tokenizer(tmp_path / "other.model")
    kept = {**KEPT, **file_of(own), "tokenizer/tokenizer.model": other.path.read_bytes()}
    found = belongings_for(other, entry_with(tmp_path, [own, other], kept))
    assert "tokenizer/tokenizer.json" not in found.files
    assert found.files["tokenizer/tokenizer.model"] == other.path.read_bytes()
    assert belongings_for(own, entry_with(tmp_path / "b", [own, other], kept)).files == kept
