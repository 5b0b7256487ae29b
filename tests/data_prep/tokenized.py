"""Channels made of real text, for the tests of tokenize."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from data_prep.channels.tokenize_channel import ChannelJob, ChannelResult, tokenize_channel
from harness.channels.source import Totals
from harness.tokenizers.tokenizer import Tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core.datasets.indexed_dataset import IndexedDataset


def silent(totals: Totals, bytes_read: int) -> None:
    """Shows no progress."""


def write_lines(file: Path, *values: object) -> Path:
    file.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return file


def make(job: ChannelJob, tokenizer: Tokenizer) -> ChannelResult:
    return tokenize_channel(job, tokenizer, silent)


def read_channel(folder: Path) -> list[list[int]]:
    documents = []
    for line in (folder / "parts.jsonl").read_text().splitlines():
        dataset = IndexedDataset(str(folder / json.loads(line)["prefix"]))
        documents += [dataset[i].tolist() for i in range(len(dataset))]
    return documents


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
