"""Takes documents from all over an input, for checks and reports that need to have seen a little of everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_prep.text.input_files import InputFile, file_bytes, open_bytes
from data_prep.text.read_documents import BEGINNING, Place, read_records

MAX_FILES = 32
SPOTS = 32
"""Places of the whole input that are sampled. A compressed file has one, its beginning."""


def sample_documents(files: Sequence[InputFile], text_key: str, max_characters: int) -> list[str]:
    """Return documents at places spread evenly over the input, about `max_characters` in all; always the same."""
    count = min(len(files), MAX_FILES)
    chosen = [files[i * len(files) // count] for i in range(count)]
    stretches = [stretch for file in chosen for stretch in _stretches(file, max(1, SPOTS // count))]
    documents: list[str] = []
    for stretch in stretches:
        documents += _documents_of(stretch, text_key, max_characters // len(stretches))
    return documents


class _Stretch(NamedTuple):
    """A part of a file, from one place up to where the next one begins."""

    file: InputFile
    start: Place
    stop: Place | None


def _documents_of(stretch: _Stretch, text_key: str, characters: int) -> Iterator[str]:
    """Yield documents of a section until `max_characters` is reached; the last one is cut to fit."""
    stop = stretch.stop
    for record in read_records(stretch.file, text_key, start=stretch.start):
        is_row = stretch.file.suffix == ".parquet"
        if characters <= 0 or (stop and (record.line > stop.line if is_row else record.end_byte > stop.byte)):
            return
        if isinstance(record.content, str):
            yield record.content[:characters]
            characters -= len(record.content)


def _stretches(file: InputFile, count: int) -> list[_Stretch]:
    places = _places(file, count)
    return [_Stretch(file, start, stop) for start, stop in zip(places, [*places[1:], None], strict=True)]


def _places(file: InputFile, count: int) -> list[Place]:
    if file.suffix == ".parquet":
        from data_prep.text.parquet import count_rows

        num_rows = count_rows(file)
        return [Place(line=row) for row in sorted({i * num_rows // count for i in range(count)})]
    if file.suffix != ".jsonl":
        return [BEGINNING]
    offsets = [i * file_bytes(file) // count for i in range(1, count)]
    starts = [start for start in (_next_line(file, offset) for offset in offsets) if start < file_bytes(file)]
    return [BEGINNING, *(Place(byte=start, line=1) for start in sorted(set(starts)))]


def _next_line(file: InputFile, offset: int) -> int:
    """Return the first byte behind `offset` at which a line begins; the end of the file if no line does."""
    with open_bytes(file) as raw:
        raw.seek(offset)
        while piece := raw.readline(1 << 20):
            offset += len(piece)
            if piece.endswith(b"\n"):
                break
    return offset
