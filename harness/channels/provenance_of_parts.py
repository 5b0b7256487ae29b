"""Says where the documents of parts came from: of whole parts, or of some documents of a run."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from itertools import repeat
from pathlib import Path

from harness.channels.channels import PARTS_FILE, bare_part, has_list, listed_parts
from harness.channels.parts import Part
from harness.channels.provenance import UNKNOWN, Provenance, ProvenanceFile, open_provenance
from harness.errors import DataError

_MOST_OPEN = 64
"""Files that stay open at once."""


def provenance_of(part: Part) -> ProvenanceFile | None:
    """Open what is recorded of the documents of a part; None if nothing is.

    Raises:
        DataError: It is damaged, or of another part.
    """
    opened = open_provenance(part.provenance_path)
    if opened is not None:
        try:
            opened.require_owner(None if part.xxh3 is None else int(part.xxh3, 16), part.num_documents)
        except BaseException:
            opened.close()
            raise
    return opened


def all_of_part(part: Part) -> Generator[Provenance, None, None]:
    """Yield where every document of a part came from; of a part without a record, that it is not known.

    Raises:
        DataError: The record is damaged.
    """
    opened = provenance_of(part)
    if opened is None:
        yield from repeat(UNKNOWN, part.num_documents)
        return
    with opened:
        opened.require_whole()
        yield from opened.entries()


def provenance_of_document(part: Part, document: int) -> Provenance:
    """Return where a document of a part came from; `UNKNOWN` if that is not recorded, or the record is damaged."""
    try:
        opened = provenance_of(part)
        if opened is None:
            return UNKNOWN
        with opened:
            return opened.entry(document)
    except (DataError, OSError):
        return UNKNOWN


class Provenances:
    """Says where documents of channels came from. What is missing or damaged is not known, and never stops anybody."""

    def __init__(self, channels: Mapping[str, Path]) -> None:
        """Take the folder, or the bare prefix, of each channel by name. Nothing is read before it is asked for."""
        self._paths = channels
        self._parts: dict[str, dict[str, Part]] = {}
        self._open: dict[tuple[str, str], ProvenanceFile | None] = {}

    def __enter__(self) -> Provenances:
        """Return itself; the files that it opens are closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all files."""
        self._close()

    def of(self, channel: str, part: str, documents: Sequence[int]) -> list[Provenance]:
        """Return where documents of a part came from; `UNKNOWN` for each of which it cannot be said."""
        try:
            opened = self._opened(channel, part)
            return [UNKNOWN if opened is None else opened.entry(document) for document in documents]
        except (DataError, OSError):
            if (opened := self._open.get((channel, part))) is not None:
                opened.close()
            self._open[(channel, part)] = None
            return [UNKNOWN] * len(documents)

    def in_words(self, channel: str, part: str, documents: Sequence[int]) -> list[str] | None:
        """Return where documents of a part came from, each in a line for people; None if it is known of none."""
        found = self.of(channel, part, documents)
        return None if all(each is UNKNOWN for each in found) else [each.in_words() for each in found]

    def _opened(self, channel: str, part: str) -> ProvenanceFile | None:
        key = (channel, part)
        if key not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._close()
            found = self._parts_of(channel).get(part)
            self._open[key] = provenance_of(found) if found else None
        return self._open[key]

    def _parts_of(self, channel: str) -> dict[str, Part]:
        if channel not in self._parts:
            self._parts[channel] = {}
            path = self._paths.get(channel)
            if path is not None:
                parts = listed_parts(path / PARTS_FILE) if has_list(path) else (bare_part(path),)
                self._parts[channel] = {part.name: part for part in parts}
        return self._parts[channel]

    def _close(self) -> None:
        for opened in self._open.values():
            if opened is not None:
                opened.close()
        self._open.clear()
