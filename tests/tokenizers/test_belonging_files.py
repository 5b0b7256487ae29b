"""The files that make up a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_tokenizers import byte_level, sentencepiece_model

from harness.errors import DataError
from harness.tokenizers.belonging_files import (
    files_of_tokenizer,
    lost_settings,
    names_in_model,
    settings_of,
    with_settings_of,
)
from harness.tokenizers.tokenizer import open_tokenizer

SETTINGS = {
    "tokenizer_config.json": b'{"eos_token": "<|endoftext|>"}',
    "special_tokens_map.json": b"{}",
    "chat_template.jinja": b"{{ x }}",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
}
BESIDE = {"vocab.json": b"{}", "merges.txt": b"", "added_tokens.json": b"{}"}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def test_a_tokenizer_json_has_everything_beside_it(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, {**SETTINGS, **BESIDE, "config.json": b"{}", "model.safetensors": b""})
    files = files_of_tokenizer(open_tokenizer(tmp_path))
    assert set(files) == {"tokenizer.json", *SETTINGS, *BESIDE}
    assert {name: files[name] for name in SETTINGS} == SETTINGS
    assert settings_of(files) == SETTINGS


def test_one_of_another_name_has_the_settings_only(tmp_path: Path) -> None:
    """vocab.json and merges.txt are those of the tokenizer.json."""
    byte_level().save(str(tmp_path / "extended.json"))
    write(tmp_path, {**SETTINGS, **BESIDE})
    files = files_of_tokenizer(open_tokenizer(tmp_path / "extended.json"))
    assert set(files) == {"tokenizer.json", *SETTINGS}
    assert files["tokenizer.json"] == (tmp_path / "extended.json").read_bytes()


def test_a_sentencepiece_model_has_the_files_beside_it_if_it_is_alone(tmp_path: Path) -> None:
    write(tmp_path, {"own.model": sentencepiece_model(), **SETTINGS})
    assert set(files_of_tokenizer(open_tokenizer(tmp_path, needs_end=False))) == {"tokenizer.model", *SETTINGS}
    byte_level().save(str(tmp_path / "tokenizer.json"))
    own = open_tokenizer(tmp_path / "own.model", needs_end=False)
    assert set(files_of_tokenizer(own)) == {"tokenizer.model"}


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").symlink_to("gone")
    with pytest.raises(DataError, match=r"tokenizer .*chat_template\.jinja: cannot be read: No such file"):
        files_of_tokenizer(open_tokenizer(tmp_path))


def test_names_in_the_folder_of_a_model(tmp_path: Path) -> None:
    others = ("config.json", "model.safetensors", "README.md", "modeling_x.py", "generation_config.json", "LICENSE")
    own = (
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
        *("merges.txt", "tokenizer.model", "tokenizer.model.v3", "tekken.json", "qwen.tiktoken", "spiece.model"),
        *("tokenization_internlm2.py", "chat_template.jinja", "chat_template.json", "chat_templates/tools.jinja"),
        *("additional_chat_templates/rag.jinja", "vocab.txt"),
    )
    write(tmp_path, dict.fromkeys((*own, *others), b""))
    assert names_in_model(tmp_path) == sorted(own)


CONFIG = "tokenizer_config.json"
BEFORE = {
    "eos_token": "</s>",
    "chat_template": "{{ x }}",
    "model_max_length": 99,
    "added_tokens_decoder": {"2": "</s>"},
}


def as_bytes(fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_settings_of_a_tokenizer_that_grew_are_merged_key_by_key() -> None:
    own = {"eos_token": "<end>", "added_tokens_decoder": {"420": "<end>"}}
    merged = with_settings_of(
        {CONFIG: as_bytes(BEFORE), "tokenizer.json": b"old", "chat_template.jinja": b"x"},
        {CONFIG: as_bytes(own), "tokenizer.json": b"new"},
    )
    decoder = {"2": "</s>", "420": "<end>"}
    assert json.loads(merged[CONFIG]) == {**BEFORE, "eos_token": "<end>", "added_tokens_decoder": decoder}
    assert (merged["tokenizer.json"], merged["chat_template.jinja"]) == (b"new", b"x")


def test_settings_stay_byte_for_byte_where_one_side_has_them_all() -> None:
    small, large = as_bytes({"eos_token": "</s>"}), b'{"eos_token":   "</s>", "pad_token": "x"}'
    for before, own in ((small, large), (large, small)):
        assert with_settings_of({CONFIG: before}, {CONFIG: own}) == {CONFIG: large}
    assert with_settings_of({CONFIG: b"{"}, {CONFIG: small}) == {CONFIG: small}


def test_a_chat_template_of_its_own_is_not_hidden_by_the_file_before() -> None:
    own = {CONFIG: as_bytes({"chat_template": "mine"})}
    assert with_settings_of({"chat_template.jinja": b"theirs"}, own) == own


def test_lost_settings_are_named_by_content() -> None:
    before = {CONFIG: as_bytes(BEFORE), "chat_template.jinja": b"x", "tokenizer.json": b"y"}
    poorer = {CONFIG: as_bytes({"eos_token": "</s>", "model_max_length": 7}), "chat_template.jinja": b"z"}
    lost = ["chat_template.jinja", f"{CONFIG} (added_tokens_decoder, chat_template, model_max_length)"]
    assert lost_settings(before, poorer) == lost
    assert lost_settings(before, {}) == ["chat_template.jinja", CONFIG]
    assert lost_settings(before, {**before, CONFIG: json.dumps(BEFORE, indent=4).encode()}) == []
