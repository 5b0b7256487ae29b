"""A small tokenizer for the tests of data preparation."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

import data_prep.demo
from data_prep.demo.build import DemoSettings, train_tokenizer
from harness.data.tokenizer import Tokenizer, open_tokenizer

SHIPPED = Path(data_prep.demo.__file__).parent


@pytest.fixture(scope="session")
def poems() -> list[str]:
    """Real documents, each some dozens of tokens long."""
    with gzip.open(SHIPPED / "zh.jsonl.gz") as lines:
        return [json.loads(next(lines))["text"] for _ in range(300)]


@pytest.fixture(scope="session")
def model_file(poems: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    file.write_bytes(train_tokenizer(poems, DemoSettings(vocab_size=3500)))
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
