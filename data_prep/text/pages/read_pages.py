"""Reads the pages of input files, as they are stored: a file of HTML or PDF is one page, a WARC file has many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.text.file_kinds import PAGES
from data_prep.text.input_file import InputFile
from data_prep.text.packed_file import open_plain
from data_prep.text.pages.extraction import DAMAGED, MOST_HTML_BYTES, MOST_PDF_BYTES, TOO_LARGE
from data_prep.text.pages.warc import read_warc
from harness.errors import DataError


@dataclass(frozen=True, slots=True)
class Page:
    """A page as it is stored."""

    number: int
    """Of the record in its file, 1-based; 1 in a file that is one page."""
    name: str
    """Address or path, for people."""
    kind: str
    """`html`, `pdf` or `warc`, for `extraction`."""
    content: bytes
    rejected: str | None
    """Why it was not read."""
    known: dict[str, str]
    """Facts about it besides its text."""


def read_pages(file: InputFile) -> Iterator[Page]:
    """Yield the pages of a file. One that is one page and cannot be read is a page with the reason.

    Raises:
        DataError: An archive is damaged.
        UsageError: The file is zstandard and the package is not installed.
    """
    kind = PAGES.kind_of(file.name)
    if kind is None:
        raise AssertionError(f"{file} is no file of pages")
    if kind.content == "warc":
        yield from _records(file)
        return
    known, most = {"id": str(file)}, MOST_PDF_BYTES if kind.content == "pdf" else MOST_HTML_BYTES
    content, rejected = b"", None
    try:
        with open_plain(file, lambda: "its beginning") as (stream, _):
            content = stream.read(most + 1)
    except DataError as error:
        rejected = f"{DAMAGED}: {error}"
    if len(content) > most:
        content, rejected = b"", f"{TOO_LARGE}: more than {most:,} bytes"
    yield Page(1, str(file), kind.content, content, rejected, known)


def _records(file: InputFile) -> Iterator[Page]:
    number = 0
    with open_plain(file, lambda: f"record {number}") as (stream, _):
        for record in read_warc(stream, file, MOST_PDF_BYTES):
            number, fields = record.number, record.fields
            url = fields.get("warc-target-uri", "").strip("<>")
            known = {"id": fields.get("warc-record-id", ""), "url": url, "crawled": fields.get("warc-date", "")}
            rejected = f"{TOO_LARGE}: more than {MOST_PDF_BYTES:,} bytes" if record.content is None else None
            yield Page(number, url, "warc", record.content or b"", rejected, known)
