"""`harness data extract`: the text of real HTML, WARC and PDF, what is listed, and pages that mean harm."""

from __future__ import annotations

import gc
import gzip
import io
import json
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from texts import CHINESE, ENGLISH

pytest.importorskip("datatrove")
pytest.importorskip("trafilatura")
pytest.importorskip("pypdfium2")
pytest.importorskip("warcio")

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_prep.corpus import extracting
from data_prep.text.input_files import find_inputs
from data_prep.text.pages.child import PageReader
from data_prep.text.pages.warc import MOST_HEADER_BYTES, read_warc
from data_prep.verbs.corpus_verbs import clean, extract
from data_prep.verbs.prepare_verb import prepare
from harness.channels.provenance import Provenance, open_provenance
from harness.errors import DataError, UsageError

LINES = "\n".join(f"{number}. {CHINESE}" for number in range(1, 6))
ASKED = {"kind": "html", "favor": "balance", "tables": True}


def page(text: str, head: str = "<title>A heading</title>") -> bytes:
    """A web page with its text between what every page has."""
    paragraphs = "".join(f"<p>{line}</p>" for line in text.split("\n"))
    return (
        f"<!DOCTYPE html><html lang='en-GB'><head>{head}</head><body><nav><a href='/'>Home</a> "
        f"<a href='/x'>News</a></nav><article>{paragraphs}</article><footer>Copyright of nobody</footer></body></html>"
    ).encode()


def book(*pages: str) -> bytes:
    stream = io.BytesIO()
    with PdfPages(stream) as pdf:
        for text in pages:
            figure = Figure()
            figure.text(0.1, 0.5, text)
            pdf.savefig(figure)
        pdf.infodict()["Title"] = "A book"
    return stream.getvalue()


class Archive:
    """A WARC file that warcio writes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._stream = io.BytesIO()
        self._writer = WARCWriter(self._stream, gzip=file.name.endswith(".gz"))

    def add(
        self, url: str, body: bytes, content_type: str = "text/html", status: str = "200 OK", **headers: str
    ) -> None:
        # warcio's writer leaves temporary files to the collector.
        named = [("Content-Type", content_type), *((name.replace("_", "-"), value) for name, value in headers.items())]
        http = StatusAndHeaders(status, named, protocol="HTTP/1.1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self._writer.write_record(
                self._writer.create_warc_record(url, "response", io.BytesIO(body), http_headers=http)
            )
            gc.collect()

    def add_other(self, url: str, body: bytes, kind: str, content_type: str) -> None:
        found = self._writer.create_warc_record(
            url, kind, payload=io.BytesIO(body), length=len(body), warc_content_type=content_type
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self._writer.write_record(found)
            del found
            gc.collect()

    def write(self) -> bytes:
        self.file.write_bytes(self._stream.getvalue())
        return self._stream.getvalue()


def chunked(body: bytes) -> bytes:
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(extract, [str(argument) for argument in arguments])


def lines_of(file: Path) -> list[dict[str, Any]]:
    content = file.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(content) if file.suffix == ".gz" else content).splitlines()]


def origins_of(file: Path) -> list[Provenance]:
    opened = open_provenance(file.with_name(file.name + ".provenance"))
    assert opened is not None
    with opened:
        return list(opened.entries())


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder of web pages, a book and an archive."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.html").write_bytes(page(ENGLISH, "<title>A heading</title><meta name='date' content='2024-03-05'>"))
    (folder / "b.HTM.gz").write_bytes(gzip.compress(page(LINES, "<meta charset='gbk'>").decode().encode("gbk")))
    (folder / "book.pdf").write_bytes(book("The first page has a\nfew words.", "And so has the second one."))
    (folder / "c.html").write_bytes(b"")
    (folder / "notes.txt").write_text("not read")
    archive = Archive(folder / "crawl.warc.gz")
    archive.add("https://example.org/1", page(ENGLISH))
    archive.add(
        "https://example.org/2",
        chunked(gzip.compress(page(ENGLISH))),
        Content_Encoding="gzip",
        Transfer_Encoding="chunked",
    )
    archive.add("https://example.org/3", page(LINES, "").decode().encode("gbk"), "text/html; charset=GBK")
    archive.add("https://example.org/missing", page(ENGLISH), status="404 Not Found")
    archive.add("https://example.org/picture", b"\x89PNG", "image/png")
    archive.add("https://example.org/book", book("A book in an archive."), "application/octet-stream")
    archive.add_other("https://example.org/4", CHINESE.encode(), "conversion", "text/plain")
    archive.add_other(
        "https://example.org/5", b"GET / HTTP/1.1\r\n\r\n", "request", "application/http; msgtype=request"
    )
    archive.write()
    return folder


def test_text_of_pages_books_and_archives(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call(raw, "--output", out)
    assert result.exception is None, result.exception
    assert "kept 8 of 11 documents" in result.stdout and "  not a page: 2 (18.18%)\n" in result.stdout
    assert "1 is left out, the name ends in none of .html, .htm" in result.stderr and "notes.txt" in result.stderr
    first, second, third = lines_of(out / "pages-00000.jsonl.gz")
    assert first["text"] == ENGLISH and "Copyright" not in first["text"]
    about = {name: value for name, value in first.items() if name != "text"}
    assert about == {"title": "A heading", "date": "2024-03-05", "language": "en", "id": str(raw / "a.html")}
    assert second["text"] == LINES  # by the charset that the page says
    assert third["text"] == "The first page has a\nfew words.\n\nAnd so has the second one."
    assert (third["title"], third["date"]) == ("A book", date.today().isoformat())
    assert lines_of(out / "pages-00000.jsonl.gz.dropped") == [
        {"line": 1, "reason": "no text", "page": str(raw / "c.html")}
    ]
    found = lines_of(out / "crawl.jsonl.gz")
    assert [entry["url"][-1] for entry in found] == ["1", "2", "3", "k", "4"]
    assert [entry["text"] for entry in found] == [ENGLISH, ENGLISH, LINES, "A book in an archive.", CHINESE]
    assert all(entry["id"].startswith("<urn:uuid:") and "T" in entry["crawled"] for entry in found)
    assert [(entry["line"], entry["reason"]) for entry in lines_of(out / "crawl.jsonl.gz.dropped")] == [
        (4, "not a page: HTTP 404"),
        (5, "not a page: image/png"),
    ]
    # Every line says which page of which file it is.
    assert origins_of(out / "pages-00000.jsonl.gz") == [
        Provenance(str(raw / name), 1) for name in ("a.html", "b.HTM.gz", "book.pdf")
    ]
    assert origins_of(out / "crawl.jsonl.gz") == [
        Provenance(str(raw / "crawl.warc.gz"), number) for number in (1, 2, 3, 6, 7)
    ]
    # What was written is text for the next step; run again, nothing is done.
    assert [file.name for file in find_inputs([str(out)])] == ["crawl.jsonl.gz", "pages-00000.jsonl.gz"]
    assert call(raw, "--output", out).stdout == result.stdout
    assert "was made of another extract" in str(call(raw, "--no-tables", "--output", out).exception)
    cleaned = CliRunner().invoke(clean, [str(out), "--preset", "light", "--output", str(tmp_path / "cleaned")])
    assert "kept 8 of 8 documents" in cleaned.stdout
    assert origins_of(tmp_path / "cleaned" / "crawl.jsonl.gz") == origins_of(out / "crawl.jsonl.gz")


def test_many_pages_go_to_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep.text.pages import bundles

    monkeypatch.setattr(bundles, "MOST_FILES", 2)
    names = ["a.html", "b.html", "c.pdf", "d.warc", "d.warc.gz", "e.html"]
    found = bundles.bundles_of([Path(name) for name in names], [1, 2, 4, 8, 16, 32])
    assert [(bundle.name, [file.name for file in bundle.files], bundle.size) for bundle in found] == [
        ("pages-00000.jsonl.gz", ["a.html", "b.html"], 3),
        ("pages-00001.jsonl.gz", ["c.pdf"], 4),
        ("d.jsonl.gz", ["d.warc"], 8),
        ("d-2.jsonl.gz", ["d.warc.gz"], 16),
        ("pages-00002.jsonl.gz", ["e.html"], 32),
    ]


def test_a_page_that_means_harm_costs_only_itself(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "a.warc")
    bomb = gzip.compress(bytes(300 << 20))
    archive.add("https://example.org/bomb", bomb, Content_Encoding="gzip")
    archive.add("https://example.org/wide", b"<html><body>" + b"<p>a</p>" * 2_000_000)
    archive.add("https://example.org/deep", b"<html><body>" + b"<div>" * 200_000 + ENGLISH.encode())
    archive.add("https://example.org/pdf", book("A page.")[:3000], "application/pdf")
    archive.add("https://example.org/no-length", b"zz\r\n" + page(ENGLISH), Transfer_Encoding="chunked")
    archive.add("https://example.org/good", page(ENGLISH))
    archive.write()
    result = call(tmp_path / "a.warc", "--output", tmp_path / "out")
    assert result.exception is None, result.exception
    reasons = [entry["reason"].partition(":")[0] for entry in lines_of(tmp_path / "out/a.jsonl.gz.dropped")]
    assert reasons[:4] == ["too large", "too much memory", "no text", "damaged"]
    assert lines_of(tmp_path / "out/a.jsonl.gz")[-1]["url"] == "https://example.org/good"


def test_a_slow_page_is_left_out_and_the_next_one_is_read() -> None:
    with PageReader(1 << 30, 0.01) as reader:
        found = reader.read(ASKED, page("A line of words. " * 20 + "\n" + "<b>x</b>" * 30_000))
        assert found["rejected"].startswith("too slow: more than ")
    with PageReader(1 << 30, 20) as reader:
        assert reader.read(ASKED, page(ENGLISH))["text"] == ENGLISH


def test_a_reader_that_dies_is_told_and_replaced() -> None:
    with PageReader(1 << 30, 20) as reader:
        assert reader.read(ASKED, page(ENGLISH))["text"] == ENGLISH
        assert reader._child is not None
        reader._child.kill()
        reader._child.wait()
        assert reader.read(ASKED, page(ENGLISH)) == {"rejected": "breaks its reader: SIGKILL"}
        assert reader.read(ASKED, page(ENGLISH))["text"] == ENGLISH


def test_damaged_files(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "a.warc")
    archive.add("https://example.org/1", page(ENGLISH))
    whole = archive.write()
    (tmp_path / "a.warc").write_bytes(whole + whole[: len(whole) - 10])
    error = call(tmp_path / "a.warc", "--output", tmp_path / "out").exception
    assert isinstance(error, DataError)
    assert "a.warc: record 2: it is cut short. The file is damaged" in str(error)
    assert not (tmp_path / "out/files.json").exists()
    (tmp_path / "b.html.gz").write_bytes(gzip.compress(page(ENGLISH))[:100])
    (tmp_path / "c.html").write_bytes(gzip.compress(page(ENGLISH)))
    (tmp_path / "d.html.gz").write_bytes(gzip.compress(bytes(100 << 20)))
    result = call(*(tmp_path / name for name in ("b.html.gz", "c.html", "d.html.gz")), "--output", tmp_path / "out2")
    assert result.exception is None, result.exception
    reasons = [entry["reason"] for entry in lines_of(tmp_path / "out2/pages-00000.jsonl.gz.dropped")]
    assert "damaged or cut short" in reasons[0] and "its content is gz, though" in reasons[1]
    assert reasons[2] == "too large: more than 16,777,216 bytes"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<html></html>", "record 1: it begins with '<html></html>', and not with WARC/"),
        (b"WARC/1.0\r\n\r\n", "record 1: its header does not say how long it is"),
        (b"WARC/1.0\r\nContent-Length: -5\r\n\r\n", "does not say how long it is"),
        (b"WARC/1.0\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n", "does not say how long it is"),
        (b"WARC/1.0\r\nContent-Length: 5\r\n\r\nab", "record 1: it is cut short"),
        (b"WARC/1.0\r\nContent-Le", "record 1: it is cut short"),
        (b"WARC/1.0\r\nx: " + b"a" * MOST_HEADER_BYTES, "its header has more than 1,048,576 bytes"),
        (b"\r\n" * MOST_HEADER_BYTES, "its header has more than"),
    ],
)
def test_archives_that_are_none(content: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why):
        list(read_warc(io.BytesIO(content), Path("a.warc"), 1 << 20))


def test_a_record_that_is_too_long_is_read_over() -> None:
    stream = io.BytesIO()
    for body in (b"a" * 2000, b"b"):
        stream.write(b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (len(body), body))
    stream.seek(0)
    found = list(read_warc(stream, Path("a.warc"), 1000))
    assert [(record.number, record.content is None) for record in found] == [(1, True), (2, False)]


def test_a_package_that_is_missing_is_one_line(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracting, "PACKAGES", ("trafilatura_of_nobody",))
    error = call(raw, "--output", tmp_path / "out").exception
    assert isinstance(error, UsageError) and "`data-web` extra" in str(error) and not (tmp_path / "out").exists()


def test_pages_in_a_corpus_file(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "output: corpus\nsources:\n  web: {input: [raw], extract: {favor: recall}, kind: knowledge}\n"
    (tmp_path / "corpus.yaml").write_text(text + "  other: {input: [raw]}\n")
    early = CliRunner().invoke(clean, ["--config", "corpus.yaml", "--source", "web"])
    assert "has not been processed by `harness data extract` yet" in str(early.exception)
    assert "other has no section extract" in str(call("--config", "corpus.yaml", "--source", "other").exception)
    assert "kept 8 of 11" in call("--config", "corpus.yaml").stdout
    (tmp_path / "corpus.yaml").write_text(text)
    done = CliRunner().invoke(prepare, ["--config", "corpus.yaml", "--until", "clean"])
    assert done.exception is None, done.exception
    looked = CliRunner().invoke(prepare, ["--config", "corpus.yaml", "--until", "clean", "--dry-run", "--json"])
    assert [(line["step"], line["kind"]) for line in json.loads(looked.stdout)] == [
        ("extract", "up to date"),
        ("clean", "up to date"),
    ]
    assert sorted(path.name for path in (tmp_path / "corpus/cleaned/web").glob("*.gz")) == [
        "crawl.jsonl.gz",
        "pages-00000.jsonl.gz",
    ]
    # Another setting: made anew, with what was made of it.
    (tmp_path / "corpus.yaml").write_text(text.replace("recall", "precision"))
    redone = CliRunner().invoke(prepare, ["--config", "corpus.yaml", "--until", "clean"])
    assert redone.exception is None, redone.exception
    assert 'extract.favor: "precision" now' in " ".join(redone.stdout.split())
