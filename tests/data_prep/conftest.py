"""A small tokenizer for the tests of data preparation."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest
import tokenizers
from tokenized import write_lines
from tokenizers import decoders, models, pre_tokenizers, trainers

import data_prep.demo
from data_prep.channels.tokenize_channel import ChannelJob
from data_prep.demo.build import DemoSettings
from data_prep.tokenizers.train_tokenizer import SPLIT_PATTERN, train_sentencepiece
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

SHIPPED = Path(data_prep.demo.__file__).parent


@pytest.fixture(scope="session")
def poems() -> list[str]:
    """Real documents, each some dozens of tokens long."""
    with gzip.open(SHIPPED / "zh.jsonl.gz") as lines:
        return [json.loads(next(lines))["text"] for _ in range(300)]


@pytest.fixture(scope="session")
def model_file(poems: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    file.write_bytes(train_sentencepiece(iter(poems), 3500, DemoSettings().character_coverage))
    return file


@pytest.fixture(scope="session")
def tokenizer(model_file: Path) -> Tokenizer:
    return open_tokenizer(model_file)


@pytest.fixture(scope="session")
def json_file(poems: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer.json that splits as GPT-2 does, with two control symbols."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(poems, trainer)
    file = tmp_path_factory.mktemp("byte_level") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


def stand_ins() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


@pytest.fixture(scope="session")
def tiktoken_file(poems: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiktoken file that splits as Qwen 2 does, of 900 ids and two control symbols."""
    pytest.importorskip("tiktoken")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(poems, trainer)
    table = stand_ins()
    lines = [
        base64.b64encode(bytes(table[character] for character in piece)).decode() + f" {number}\n"
        for piece, number in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    ]
    folder = tmp_path_factory.mktemp("tiktoken")
    (folder / "small.tiktoken").write_text("".join(lines))
    beside = {"split": "qwen2", "special_tokens": {"<|endoftext|>": 900, "<|im_start|>": 901}}
    (folder / "small.tiktoken.json").write_text(json.dumps(beside))
    tokenizer.save(str(folder / "equal.tokenizer.json"))
    return folder / "small.tiktoken"


@pytest.fixture
def job(poems: list[str], tmp_path: Path) -> ChannelJob:
    """300 poems in two files; about ten parts."""
    first = write_lines(tmp_path / "0.jsonl", *({"text": poem} for poem in poems[:200]))
    second = tmp_path / "1.jsonl.gz"
    second.write_bytes(gzip.compress("".join(json.dumps({"text": poem}) + "\n" for poem in poems[200:]).encode()))
    return ChannelJob(inputs=[first, second], folder=tmp_path / "data" / "zh", tokens_per_part=3000)
