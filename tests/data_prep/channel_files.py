"""Small channels written by hand, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.channels.indexed_writer import PartWriter, token_dtype


def write_channel(folder: Path, *parts: list[list[int]], vocab_size: int = 1000) -> Path:
    """A channel folder with these documents in each part, and no `source.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, documents in enumerate(parts):
        writer = PartWriter(folder, number, token_dtype(vocab_size))
        for document in documents:
            writer.add_document(document)
        writer.finish()
    return folder


def read_part(prefix: Path, dtype: str = "<u2") -> list[int]:
    """All tokens of a part."""
    return [int(token) for token in np.fromfile(prefix.with_name(prefix.name + ".bin"), dtype=dtype)]
