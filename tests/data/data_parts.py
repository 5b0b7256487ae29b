"""Parts made with Megatron's own writer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from harness.channels.channels import Channel
from harness.channels.parts import Part

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

VOCAB_SIZE = 1000
Documents = list[npt.NDArray[np.int64]]


def random_documents(num_documents: int, seed: int = 0, longest: int = 40) -> Documents:
    random = np.random.RandomState(seed)  # its numbers never change, unlike those of numpy's newer generators
    return [random.randint(0, VOCAB_SIZE, size=random.randint(1, longest)) for _ in range(num_documents)]


def write_part(prefix: Path, documents: Sequence[npt.NDArray[np.int64]], dtype: type = np.uint16) -> Part:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        builder.add_document(document, [len(document)])
    builder.finalize(f"{prefix}.idx")
    content = Path(f"{prefix}.bin").read_bytes()
    return Part(
        prefix=prefix,
        name=prefix.name,
        num_tokens=sum(len(document) for document in documents),
        num_documents=len(documents),
        bin_bytes=len(content),
        xxh3=xxhash.xxh3_64_hexdigest(content),
    )


def part_line(part: Part) -> str:
    values = {"prefix": part.name, "tokens": part.num_tokens, "documents": part.num_documents}
    return json.dumps({**values, "bin_bytes": part.bin_bytes, "xxh3": part.xxh3}) + "\n"


def write_channel(folder: Path, parts: Sequence[Sequence[npt.NDArray[np.int64]]]) -> Channel:
    made = tuple(write_part(folder / f"part-{number:05}", documents) for number, documents in enumerate(parts))
    (folder / "parts.jsonl").write_text("".join(part_line(part) for part in made))
    return Channel(name=folder.name, parts=made)


def three_channels(folder: Path) -> tuple[Channel, ...]:
    """Channels zh, en and code of three small parts each."""
    return tuple(
        write_channel(folder / name, [random_documents(30, seed=10 * number + part) for part in range(3)])
        for number, name in enumerate(("zh", "en", "code"))
    )
