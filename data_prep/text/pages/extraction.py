"""Takes the text out of a web page or a book. It runs in a child with limits (`child`), for it reads files of anybody.

The libraries: trafilatura for HTML, pypdfium2 for PDF, warcio for the content of an archive's record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from data_prep.text.languages.identify import code_of
from harness.json_text import parse_json

MOST_HTML_BYTES = 16 << 20
MOST_PDF_BYTES = 256 << 20
MOST_TEXT_CHARACTERS = 16 << 20
"""Four bytes of UTF-8 each, it is the longest line that is read."""
MOST_TITLE = 1000

NO_TEXT = "no text"
NOT_A_PAGE = "not a page"
TOO_LARGE = "too large"
DAMAGED = "damaged"

_HTML = frozenset(("text/html", "application/xhtml+xml"))
_CHARSET = re.compile(rb"<(?:meta[^>]{1,200}charset\s*=|\?xml[^>]{1,200}encoding\s*=)\s*[\"']?\s*([\w.:-]{1,40})", re.I)
_READ_AS = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "ascii": "cp1252", "us-ascii": "cp1252"}
"""Charsets that pages name, and those that browsers take them for."""
_LOOKED_AT = 2048
_DATE = re.compile(r"D:(\d{4})(\d\d)(\d\d)")
_HYPHEN = re.compile("[\x02\ufffe]\n?")
"""Character that PDFium puts in the place of a hyphen at the end of a line."""
_NO_TEXT_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class RejectedError(ValueError):
    """No text is in the page. The text of the error is the reason."""


@dataclass(frozen=True)
class Wanted:
    """Text to take from a page, besides its main text."""

    favor: str = "balance"
    tables: bool = True


def extract(kind: str, content: bytes, wanted: Wanted) -> dict[str, str]:
    """Return `text` and what else is known of a page: `title`, `date`, `language`, `url`.

    Raises:
        RejectedError: There is no text in it.
    """
    if kind == "warc":
        kind, content, charset = _payload(content)
    else:
        charset = None
    if kind == "pdf":
        found = _of_pdf(content)
    elif kind == "plain":
        found = {"text": content.decode("utf-8", "replace")}
    else:
        found = _of_html(content, charset, wanted)
    found = {name: _NO_TEXT_CHARACTERS.sub("", value.replace("\r\n", "\n")).strip() for name, value in found.items()}
    if not found["text"]:
        raise RejectedError(NO_TEXT)
    if len(found["text"]) > MOST_TEXT_CHARACTERS:
        raise RejectedError(f"{TOO_LARGE}: {len(found['text']):,} characters of text")
    return {name: value for name, value in found.items() if value}


def prepare() -> None:
    """Import the libraries, and read a page with them, before limits are set."""
    import pypdfium2  # noqa: F401
    import warcio.archiveiterator  # noqa: F401

    page = b"<html><body><article><p>A page of some words, of no interest at all.</p></article></body></html>"
    extract("html", page, Wanted())


def answer(request: bytes, content: bytes) -> dict[str, str]:
    """Return what `extract` finds for a request in JSON, or `rejected` with the reason."""
    asked: Mapping[str, Any] = parse_json(request)
    try:
        return extract(asked["kind"], content, Wanted(asked["favor"], asked["tables"]))
    except RejectedError as error:
        return {"rejected": str(error)}
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a library says of a page
        return {"rejected": f"{DAMAGED}: {type(error).__name__}: {str(error)[:200]}"}


def _payload(record: bytes) -> tuple[str, bytes, str | None]:
    """Return kind, bytes and charset of the page in a WARC record."""
    from warcio.archiveiterator import ArchiveIterator

    found = next(iter(ArchiveIterator(BytesIO(record))))
    http = found.http_headers
    if found.rec_type == "response" and http is None:
        raise RejectedError(f"{NOT_A_PAGE}: no answer of a web server")
    if http is not None and not str(http.get_statuscode()).startswith("200"):
        raise RejectedError(f"{NOT_A_PAGE}: HTTP {str(http.get_statuscode())[:20]}")
    named = (
        http.get_header("Content-Type") if http is not None else found.rec_headers.get_header("Content-Type")
    ) or ""
    stated, _, rest = named.partition(";")
    identified = found.rec_headers.get_header("WARC-Identified-Payload-Type")
    content = _read(found.content_stream(), MOST_PDF_BYTES)
    kind = _kind_of((identified or stated).strip().lower(), content, found.rec_type)
    charset = re.search(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", rest, re.I)
    return kind, content, charset[1] if charset else None


def _read(stream: Any, most_bytes: int) -> bytes:  # noqa: ANN401 (of warcio)
    pieces, size = [], 0
    while piece := stream.read(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise RejectedError(f"{TOO_LARGE}: more than {most_bytes:,} bytes")
    return b"".join(pieces)


def _kind_of(media_type: str, content: bytes, record_type: str) -> str:
    begin = content[:_LOOKED_AT].lstrip()
    if begin.startswith(b"%PDF-"):
        return "pdf"
    if record_type == "conversion" and media_type in ("text/plain", ""):
        return "plain"
    is_unsaid = media_type in ("", "application/octet-stream", "unk")
    if media_type in _HTML or (is_unsaid and re.match(rb"<(?:!doctype html|html)\b", begin, re.I)):
        return "html"
    raise RejectedError(f"{NOT_A_PAGE}: {media_type[:80] or 'of unknown content'}")


def _of_html(content: bytes, charset: str | None, wanted: Wanted) -> dict[str, str]:
    from trafilatura import bare_extraction
    from trafilatura.utils import load_html

    if len(content) > MOST_HTML_BYTES:
        raise RejectedError(f"{TOO_LARGE}: more than {MOST_HTML_BYTES:,} bytes of HTML")
    tree = load_html(_decoded(content, charset))
    if tree is None:
        raise RejectedError(NO_TEXT)
    language = str(tree.get("lang") or tree.get("{http://www.w3.org/XML/1998/namespace}lang") or "")
    found = bare_extraction(
        tree,
        favor_precision=wanted.favor == "precision",
        favor_recall=wanted.favor == "recall",
        include_comments=False,
        include_tables=wanted.tables,
        with_metadata=True,
        date_extraction_params={"original_date": True, "extensive_search": False},
    )
    if found is None or not found.text:
        raise RejectedError(NO_TEXT)
    about = {
        "title": str(found.title or "")[:MOST_TITLE],
        "date": str(found.date or ""),
        "url": str(found.url or ""),
        "language": code_of(language) if re.fullmatch(r"[A-Za-z]{2,3}([-_].{1,20})?", language) else "",
    }
    return {"text": str(found.text), **about}


def _decoded(content: bytes, charset: str | None) -> str | bytes:
    """Return a page as text by the charset that it says, else as UTF-8; bytes are left to trafilatura's guess."""
    named = _CHARSET.search(content[:_LOOKED_AT])
    said = [charset, named[1].decode("ascii", "replace") if named else None]
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    by_mark = next((name for mark, name in marks.items() if content.startswith(mark)), None)
    for name in filter(None, [by_mark, *said, "utf-8"]):
        try:
            return content.decode(_READ_AS.get(name.lower(), name))
        except (LookupError, ValueError):  # unknown, or not so
            continue
    return content


def _of_pdf(content: bytes) -> dict[str, str]:
    import pypdfium2

    if len(content) > MOST_PDF_BYTES:
        raise RejectedError(f"{TOO_LARGE}: more than {MOST_PDF_BYTES:,} bytes")
    pages, size = [], 0
    with pypdfium2.PdfDocument(content) as document:
        about = document.get_metadata_dict()
        for number in range(len(document)):
            page = document[number]
            text = page.get_textpage().get_text_range().replace("\r\n", "\n")
            page.close()
            pages.append(_HYPHEN.sub("", text).strip())
            size += len(text)
            if size > MOST_TEXT_CHARACTERS:
                raise RejectedError(f"{TOO_LARGE}: more than {MOST_TEXT_CHARACTERS:,} characters of text")
    date = _DATE.match(about.get("CreationDate", ""))
    return {
        "text": "\n\n".join(filter(None, pages)),
        "title": about.get("Title", "")[:MOST_TITLE],
        "date": "-".join(date.groups()) if date else "",
    }
