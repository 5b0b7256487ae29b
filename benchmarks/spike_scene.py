"""Real text with two sections of dirt, and the run that meets them: the scene of `benchmarks.spike`.

Chinese, English and code of the demo. In the dirty corpus a file of garbled source code lies in the channel `code`, and
a file of pages that are nothing but line breaks in the channel `zh`, each as a part of its own between clean parts. The
clean corpus is the same without these two parts. Held out are documents that no part contains.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from data_prep.demo.build import SHIPPED, DemoSettings, standard_library_documents
from data_prep.tokenizers.train_tokenizer import train_sentencepiece
from harness.run.files import replace_file
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

VOCAB_SIZE = 2048
SEQ_LENGTH = 64
SHARES = {"zh": 6, "en": 4, "code": 6}
"""Samples of each channel in a step."""
BATCH = sum(SHARES.values())
DIRTY = {"code": "part-00001", "zh": "part-00001"}
"""The part of each channel that holds dirt."""
_TOKENIZER_CHARACTERS = 50_000
_HELD_OUT_TOKENS = 64 * SEQ_LENGTH
_PIECE_CHARACTERS = 2000
_PAGE_CHARACTERS = 400
_PAGE_BREAK = "\n" * 24


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The schedule of a scene."""

    code_onset: int = 121
    """First step that gets garbled code."""
    zh_onset: int = 281
    """First step that would get pages of line breaks if nothing were skipped before."""
    dirty_steps: int = 50
    """Steps that the dirt of a channel lasts."""
    train_steps: int = 360
    skip_steps: int = 60
    evaluate_every_steps: int = 10

    @property
    def clean_steps(self) -> int:
        """Steps for which there is clean text: those of the run and those skipped twice."""
        return self.train_steps + 2 * self.skip_steps + 1


def write_corpora(root: Path, scene: Scene) -> None:
    """Makes `root/tokenizer.model` and the channels below `root/clean`, `root/dirty` and `root/held_out`."""
    texts = _texts(scene)
    root.mkdir(parents=True, exist_ok=True)
    sample = (text for documents in texts.values() for text in _first(documents, _TOKENIZER_CHARACTERS))
    replace_file(root / "tokenizer.model", train_sentencepiece(sample, VOCAB_SIZE, character_coverage=0.98))
    tokenizer = open_tokenizer(root / "tokenizer.model")
    dirt = {"code": _garbled(texts["code"]), "zh": _empty_pages()}
    onsets = {"code": scene.code_onset, "zh": scene.zh_onset}
    for channel, documents in texts.items():
        tokens = _tokens(tokenizer, documents)
        held_out = _take(tokens, _HELD_OUT_TOKENS)
        before = _take(tokens, _tokens_of(channel, onsets.get(channel, 2) - 1))
        after = _take(tokens, _tokens_of(channel, scene.clean_steps - onsets.get(channel, 2)))
        _write(root / "held_out" / channel, {0: held_out})
        clean = {0: before, 2: after}  # a part's name shuffles it: the clean parts have the same in both corpora
        _write(root / "clean" / channel, clean)
        if channel in dirt:
            bad = _take(_tokens(tokenizer, dirt[channel]), _tokens_of(channel, scene.dirty_steps))
            clean = {0: before, 1: bad, 2: after}
        _write(root / "dirty" / channel, clean)


def configuration(root: Path, scene: Scene, *, corpus: str, seed: int) -> dict[str, Any]:
    """Return the run on one of the two corpora. The watcher's settings suit steps of some milliseconds."""
    channels = {
        name: {"path": str(root / corpus / name), "validation_path": str(root / "held_out" / name)} for name in SHARES
    }
    return {
        "run": {"name": f"{corpus}-{seed}", "seed": seed},
        "model": {
            "num_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "ffn_hidden_size": 176,
            "vocab_size": VOCAB_SIZE,
        },
        "data": {"tokenizer": str(root / "tokenizer.model"), "channels": channels},
        "phases": [
            {
                "name": "main",
                "train_steps": scene.train_steps,
                "seq_length": SEQ_LENGTH,
                "global_batch_size": BATCH,
                "blend": SHARES,
                "schedule": {"style": "cosine", "warmup_steps": 20},
            }
        ],
        "parallel": {"micro_batch_size": BATCH},
        "optimizer": {"learning_rate": 5e-3},
        "precision": {"dtype": "fp32"},
        "checkpoint": {"save_every_steps": 20, "keep_last": 6},
        "evaluation": {"every_steps": scene.evaluate_every_steps, "num_samples_per_channel": 64},
        "logging": {"tensorboard": False, "console_every_steps": 20},
        "watch": {
            "action": "rollback",
            "rollback_margin_steps": 20,
            "skip_lead_steps": 5,
            "skip_steps": scene.skip_steps,
            "most_skip_steps": scene.skip_steps,
            "cool_down_steps": 5,
            "verify_steps": 5,
            "poll_s": 0.05,
            "least_free_gib": 0,
        },
    }


def _texts(scene: Scene) -> dict[str, list[str]]:
    """Return the documents of every channel, clean and mixed so well that all sections are alike."""
    code_bytes = 5 * _tokens_of("code", scene.clean_steps + scene.dirty_steps)
    code = standard_library_documents(DemoSettings(code_bytes=code_bytes))
    return {
        "zh": list(_pages(_mixed(_shipped("zh")))),
        "en": _mixed(_cut(_shipped("en"))),
        "code": _mixed(_cut(code)),
    }


def _shipped(channel: str) -> list[str]:
    with gzip.open(SHIPPED / f"{channel}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def _pages(poems: Iterable[str]) -> Iterator[str]:
    """Join poems to pages like a scanned book: blank lines down to the next page."""
    page = ""
    for poem in poems:
        page += poem + "\n\n"
        if len(page) >= _PAGE_CHARACTERS:
            yield page + _PAGE_BREAK
            page = ""


def _cut(documents: Iterable[str]) -> Iterator[str]:
    for text in documents:
        yield from (text[begin : begin + _PIECE_CHARACTERS] for begin in range(0, len(text), _PIECE_CHARACTERS))


def _mixed(documents: Iterable[str]) -> list[str]:
    listed = list(documents)
    random.Random(0).shuffle(listed)
    return listed


def _garbled(documents: Sequence[str]) -> Iterator[str]:
    """Return source code after a failed conversion: most characters are others, some of them unreadable."""
    chance = random.Random(1)
    marks = [chr(code) for code in range(0x00A1, 0x0180)] + ["\N{REPLACEMENT CHARACTER}"] * 40
    for text in documents:
        yield "".join(chance.choice(marks) if chance.random() < 0.8 else character for character in text[:600])


def _empty_pages() -> Iterator[str]:
    """Return a scan of pages on which only the number was recognized."""
    for number in range(1, 10_000):
        yield f"{number}" + "\n" * 1500


def _first(documents: Iterable[str], num_characters: int) -> Iterator[str]:
    for text in documents:
        if num_characters <= 0:
            return
        yield text
        num_characters -= len(text)


def _tokens(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[list[int]]:
    for text in documents:
        yield [*tokenizer.encode_documents([text])[0], tokenizer.end_of_document_id]


def _take(documents: Iterator[list[int]], num_tokens: int) -> list[list[int]]:
    """Return documents with exactly this many tokens in all; the rest of the last one is left out."""
    taken: list[list[int]] = []
    missing = num_tokens
    while missing:
        document = next(documents, None)
        if document is None:
            raise ValueError(f"the text ends {missing} tokens too early for this scene: make it shorter")
        taken.append(document[:missing])
        missing -= len(taken[-1])
    return taken


def _tokens_of(channel: str, num_steps: int) -> int:
    """Return the tokens of a part that lasts this many steps."""
    return num_steps * SHARES[channel] * SEQ_LENGTH + 1


def _write(folder: Path, parts: Mapping[int, Sequence[Sequence[int]]]) -> None:
    folder.mkdir(parents=True)
    for number, documents in parts.items():
        writer = PartWriter(folder, number, token_dtype(VOCAB_SIZE))
        for document in documents:
            writer.add_document(document)
        writer.finish()
