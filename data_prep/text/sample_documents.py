"""Takes documents from all over an input, for checks and reports that need to have seen a little of everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from data_prep.text.file_kinds import kind_of
from data_prep.text.input_file import InputFile, file_bytes, open_bytes
from data_prep.text.read_documents import BEGINNING, Place, read_records, skip_to_line_end

MAX_FILES = 32
SPOTS = 32
"""Places of the whole input that are sampled. A compressed file has one, its beginning."""


def sample_documents(files: Sequence[InputFile], text_key: str, max_characters: int) -> list[str]:
    """Return documents at places spread evenly over the input, about `max_characters` in all; always the same."""
    count = min(len(files), MAX_FILES)
    chosen = [files[i * len(files) // count] for i in range(count)]
    # A stretch of a file goes from one place up to the next one.
    stretches: list[tuple[InputFile, Place, Place | None]] = []
    for file in chosen:
        places = _places(file, text_key, max(1, SPOTS // count))
        stretches += [(file, start, stop) for start, stop in zip_longest(places, places[1:])]
    characters = max_characters // max(1, len(stretches))
    return [text for stretch in stretches for text in _documents_of(*stretch, text_key, characters)]


def _documents_of(file: InputFile, start: Place, stop: Place | None, text_key: str, characters: int) -> Iterator[str]:
    """Yield documents of a stretch, up to a number of characters in all; the last one is cut to fit."""
    kind = kind_of(file.name)
    is_row = kind is not None and kind.content == "parquet"
    for record in read_records(file, text_key, start=start):
        if characters <= 0 or (stop and (record.line > stop.line if is_row else record.end_byte > stop.byte)):
            return
        if isinstance(record.content, str):
            yield record.content[:characters]
            characters -= len(record.content)


def _places(file: InputFile, text_key: str, count: int) -> list[Place]:
    kind = kind_of(file.name)
    if kind and kind.content == "parquet":
        from data_prep.text.parquet import count_rows

        num_rows = count_rows(file, text_key)
        return [Place(line=row) for row in sorted({i * num_rows // count for i in range(count)})]
    if kind and kind.packing != "plain":
        return [BEGINNING]
    offsets = [i * file_bytes(file) // count for i in range(1, count)]
    starts = [start for start in (_next_line(file, offset) for offset in offsets) if start < file_bytes(file)]
    return [BEGINNING, *(Place(byte=start, line=1) for start in sorted(set(starts)))]


def _next_line(file: InputFile, offset: int) -> int:
    """Return the first byte behind `offset` at which a line begins; the end of the file if no line does."""
    with open_bytes(file) as raw:
        raw.seek(offset)
        return offset + skip_to_line_end(raw, 1 << 20, f"{file}: the line at byte {offset}")
