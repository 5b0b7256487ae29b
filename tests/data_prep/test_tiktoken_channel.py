"""tiktoken's files: read, checked, described by name or by a file beside them, and made into channels."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from channel_files import read_part
from click.testing import CliRunner

from data_prep.verbs.data_verbs import tokenize
from harness.errors import DataError, UsageError
from harness.tokenizers.tiktoken_file import PUBLISHED, SPLITS, is_tiktoken
from harness.tokenizers.tokenizer import open_tokenizer

pytest.importorskip("tiktoken")


def test_ids_are_those_of_the_same_vocabulary_in_the_other_format(tiktoken_file: Path, poems: list[str]) -> None:
    other = tokenizers.Tokenizer.from_file(str(tiktoken_file.with_name("equal.tokenizer.json")))
    texts = [*poems, "It's 2026, isn't it?\n\n  Ünïcode 🦜 \t x ", "<|endoftext|>"]
    expected = [encoding.ids for encoding in other.encode_batch_fast(texts, add_special_tokens=False)]
    tokenizer = open_tokenizer(tiktoken_file)
    assert tokenizer.encode_documents(texts) == expected
    assert [tokenizer.decode(ids) for ids in expected] == texts
    sizes = np.array(tokenizer.bytes_per_token())
    assert [int(sizes[ids].sum()) for ids in expected] == [len(text.encode()) for text in texts]


def test_what_a_tokenizer_is_asked_for(tiktoken_file: Path, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(tiktoken_file)
    assert (tokenizer.vocab_size, tokenizer.end_of_document_id) == (902, 900)
    assert tokenizer.control_symbols() == ["<|endoftext|>", "<|im_start|>"]
    assert tokenizer.decode([900, 901]) == "" and tokenizer.bytes_per_token()[900] == 0
    # The description is part of what makes the ids.
    for name in ("small.tiktoken", "small.tiktoken.json"):
        shutil.copy(tiktoken_file.with_name(name), tmp_path / name)
    assert open_tokenizer(tmp_path).file_hash == tokenizer.file_hash
    (tmp_path / "small.tiktoken.json").write_text(
        json.dumps({"split": "gpt2", "special_tokens": {"<|endoftext|>": 900}})
    )
    assert open_tokenizer(tmp_path).file_hash != tokenizer.file_hash


def test_llama_calls_its_file_a_model(tiktoken_file: Path, tmp_path: Path) -> None:
    content = tiktoken_file.read_bytes()
    assert is_tiktoken(content)
    assert not is_tiktoken(b"\n\x0e\n\x05<unk>\x15")
    shutil.copy(tiktoken_file, tmp_path / "tokenizer.model")
    shutil.copy(tiktoken_file.with_name("small.tiktoken.json"), tmp_path / "tokenizer.tiktoken.json")
    assert open_tokenizer(tmp_path / "tokenizer.model").vocab_size == 902


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_splits_are_patterns_that_tiktoken_takes(name: str, tiktoken_file: Path, tmp_path: Path) -> None:
    shutil.copy(tiktoken_file, tmp_path / f"{name}.tiktoken")
    with pytest.raises(DataError, match="called like a published file, and has other content: it may be truncated"):
        open_tokenizer(tmp_path / f"{name}.tiktoken")
    described = {"split": PUBLISHED[name].name, "special_tokens": {"<|endoftext|>": 900}}
    (tmp_path / f"{name}.tiktoken.json").write_text(json.dumps(described))
    tokenizer = open_tokenizer(tmp_path / f"{name}.tiktoken")
    text = "He'll pay 12345 for it —\r\n\n  春眠不觉晓ABCdef/x\n"
    assert tokenizer.decode(tokenizer.encode_documents([text])[0]) == text
    assert set(SPLITS) == {"gpt2", "cl100k", "o200k", "qwen2"}


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (None, "this is none of the published ones \\(r50k_base, .*Write .*small.tiktoken.json with"),
        ("{", "small.tiktoken.json: does not describe a tiktoken file"),
        ('{"special_tokens": {"<|endoftext|>": 900}}', "needs either a pattern or a split of gpt2, cl100k"),
        ('{"split": "gpt9", "special_tokens": {}}', "needs either a pattern or a split"),
        ('{"split": "gpt2"}', "KeyError: 'special_tokens'"),
        ('{"split": "gpt2", "special_tokens": {"<|endoftext|>": 5}}', "id 5 is a token of the file and a control"),
        ('{"split": "gpt2", "special_tokens": {"<|x|>": 900}}', "no symbol that ends a document"),
        ('{"pattern": "(", "special_tokens": {"<|endoftext|>": 900}}', "tiktoken does not take it"),
    ],
)
def test_descriptions_that_say_too_little(
    beside: str | None, message: str, tiktoken_file: Path, tmp_path: Path
) -> None:
    shutil.copy(tiktoken_file, tmp_path)
    if beside is not None:
        (tmp_path / "small.tiktoken.json").write_text(beside)
    with pytest.raises(DataError, match=message):
        open_tokenizer(tmp_path / "small.tiktoken")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"", "the file is empty"),
        (b"YQ== 0\nYg== 2\n", "id 1 has no token"),
        (b"YQ== 0\nYg== 0\n", "id 1 has no token"),
        (b"YQ== 0\nYQ== 1\n", "id 0 has no token"),
        (b"YQ== 0\nYQ== 0\n", "a token or an id occurs twice"),
        (b"YQ==\n", "line 1 is not a token in base64 and an id"),
        (base64.b64encode(b"a") + b" 0\n", "byte 0x00 has no id"),
    ],
)
def test_files_that_are_broken(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.tiktoken").write_bytes(content)
    (tmp_path / "own.tiktoken.json").write_text('{"split": "gpt2", "special_tokens": {"<|endoftext|>": 900}}')
    with pytest.raises(DataError, match=message):
        open_tokenizer(tmp_path / "own.tiktoken")


def test_the_package_is_asked_for(tiktoken_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    with pytest.raises(UsageError, match="needs the Python package tiktoken.*`data-fast` extra"):
        open_tokenizer(tiktoken_file)


def test_a_channel_by_gigatoken_is_the_one_by_tiktoken(tiktoken_file: Path, poems: list[str], tmp_path: Path) -> None:
    pytest.importorskip("gigatoken")
    (tmp_path / "zh.jsonl").write_text("".join(json.dumps({"text": poem}) + "\n" for poem in poems))
    for encoder in ("auto", "reference"):
        options = ["--tokenizer", str(tiktoken_file), "--channel", encoder, "--output", str(tmp_path / "data")]
        result = CliRunner().invoke(tokenize, [str(tmp_path / "zh.jsonl"), *options, "--encoder", encoder])
        assert result.exception is None, result.exception
        assert ("encoder gigatoken: gave the reference's ids" in result.stderr) == (encoder == "auto")
    fast, own = (read_part(tmp_path / "data" / name / "part-00000") for name in ("auto", "reference"))
    expected = [[*ids, 900] for ids in open_tokenizer(tiktoken_file).encode_documents(poems)]
    assert fast == own == np.concatenate(expected).tolist()
