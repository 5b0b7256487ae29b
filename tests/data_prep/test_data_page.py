"""Runs every command of docs/data.md, in order, on real text."""

from __future__ import annotations

import gzip
import html
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from judges import trained

import data_prep.demo
from data_prep.demo.build import DemoSettings, standard_library_documents
from harness.cli import root
from harness.data.files.opened import parts_of

PAGE = Path(data_prep.demo.__file__).parents[2] / "docs" / "data.md"
SHIPPED = Path(data_prep.demo.__file__).parent


def commands() -> list[str]:
    """The lines of the page's shell blocks."""
    blocks = PAGE.read_text(encoding="utf-8").split("```sh\n")[1:]
    return [line for block in blocks for line in block.partition("```")[0].splitlines() if line]


def corpus_file() -> str:
    """The page's YAML block."""
    return PAGE.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three sources of text, of three kinds of files."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    zstandard = pytest.importorskip("zstandard")
    pytest.importorskip("rensa")
    pytest.importorskip("datatrove")
    for name in ("zh", "en", "code"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    (tmp_path / "raw/zh/0.jsonl.gz").write_bytes((SHIPPED / "zh.jsonl.gz").read_bytes())
    with gzip.open(SHIPPED / "en.jsonl.gz") as lines:
        english = [json.loads(line)["text"] for line in lines][:40]
    english += [text.replace("the", "a", 2) for text in english[:8]]
    parquet.write_table(arrow.table({"text": english}), tmp_path / "raw/en/0.parquet")
    code = standard_library_documents(DemoSettings(code_bytes=300_000))
    lines_of_code = "".join(json.dumps({"text": text}) + "\n" for text in code)
    _write_pages(tmp_path, english)
    (tmp_path / "words.txt").write_text("梯度下降\nMegatron\n")
    (tmp_path / "corpus.yaml").write_text(corpus_file())
    (tmp_path / "raw/code/0.jsonl.zst").write_bytes(zstandard.compress(lines_of_code.encode()))
    return tmp_path


def _write_pages(folder: Path, english: Sequence[str]) -> None:
    """An archive of web pages and a page by itself, a model for their quality, and a list of words."""
    for package in ("trafilatura", "pypdfium2", "warcio", "fasttext"):
        pytest.importorskip(package)
    (folder / "raw/pages").mkdir()
    records = []
    for number, text in enumerate(english[:6]):
        paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line.strip())
        page = f"<html><head><title>{number}</title></head><body><article>{paragraphs}</article></body></html>".encode()
        payload = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://site{number % 2}.example.org/\r\n"
        head += f"WARC-Record-ID: <urn:uuid:{number}>\r\nContent-Length: {len(payload)}\r\n\r\n"
        records.append(gzip.compress(head.encode() + payload + b"\r\n\r\n"))
    (folder / "raw/pages/crawl.warc.gz").write_bytes(b"".join(records))
    (folder / "raw/pages/alone.html").write_bytes(page)
    trained(folder / "quality.bin", {"hq": english[:30], "cc": ["click buy cheap casino bonus prize"] * 30})
    (folder / "banned.txt").write_text("casino\n")


def test_every_command_of_the_page_works(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw)
    outputs: dict[str, str] = {}
    for command in commands():
        program, *arguments = shlex.split(command)
        assert program == "harness"
        result = CliRunner().invoke(root, arguments)
        assert result.exit_code == 0, (command, result.output, result.exception)
        outputs[command] = result.stdout
    verbs = {command.split()[2] for command in outputs}
    assert verbs == {
        *("clean", "dedup", "order", "train-tokenizer", "inspect-tokenizer", "extend-tokenizer", "tokenize", "merge"),
        *("verify", "count", "sample", "show", "mix", "prepare", "extract", "split"),
    }
    assert {path.name for path in (raw / "topics").iterdir()} == {
        "site0.example.org",
        "site1.example.org",
        "unlabelled",
    }
    # The merged channel is the channel; what is mixed can be opened.
    shard, whole = (parts_of(raw / path)[0] for path in ("merged/zh", "data/zh"))
    assert (shard.xxh3, shard.num_documents) == (whole.xxh3, whole.num_documents)
    # One command makes of a source what its commands one by one make.
    one, same = (parts_of(raw / path)[0] for path in ("channels/code", "data/code"))
    assert (one.xxh3, one.num_documents) == (same.xxh3, same.num_documents)
    section = yaml.safe_load(outputs[commands()[-1]])
    assert set(section["data"]["channels"]) == {"zh", "en", "code"}
