"""Corpora of real text for the tests of `harness data prepare`."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import data_prep.demo

SHIPPED = Path(data_prep.demo.__file__).parent
CORPUS = """\
output: corpus
sources:
  zh: {{input: [raw/zh], clean: {{preset: {preset}}}, dedup: {{methods: [exact]}}{more}}}
  en: {{input: [raw/en], kind: knowledge, dedup: {{methods: [exact]}}, order: {{by: shuffle}},
       tokenize: {{max_document_tokens: 256}}}}
executor: {{local: {{workers: 1}}}}
tokenize: {{tokenizer: {tokenizer}, output: {output}, tokens_per_part: 1000}}
mix: {{channels: {output}, shares: {{zh: 4, en: 1}}, tokens: 10K}}
"""


def shipped(name: str, begin: int, end: int) -> bytes:
    """Lines of the shipped text of a language."""
    with gzip.open(SHIPPED / f"{name}.jsonl.gz") as lines:
        return b"".join(line for number, line in enumerate(lines) if begin <= number < end)


def write_raw(folder: Path) -> None:
    """Four files of Chinese poems and two of English books, with copies."""
    for name, files, size in (("zh", 4, 60), ("en", 2, 4)):
        (folder / "raw" / name).mkdir(parents=True)
        for number in range(files):
            lines = shipped(name, number * size, (number + 1) * size) + shipped(name, 0, 2)
            (folder / "raw" / name / f"{number}.jsonl").write_bytes(lines)


def write_corpus(folder: Path, tokenizer: Path, preset: str = "light", output: str = "data", more: str = "") -> Path:
    """The corpus file, which is named relatively where tests work."""
    file = folder / "corpus.yaml"
    file.write_text(CORPUS.format(tokenizer=tokenizer, preset=preset, output=output, more=more))
    return file


def what_is_in(*folders: Path) -> Mapping[str, tuple[int, int, bytes]]:
    """Inode, time of the last change, and content of every file but the locks."""
    found = (file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file())
    files = [file for file in found if file.name != ".lock"]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def results_in(folder: Path) -> Mapping[str, bytes]:
    """What steps have written: text, lists of what was dropped, parts of channels."""
    found = (file for made in ("corpus", "data") for file in (folder / made).rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in found
        if ".stages" not in file.parts and file.name not in (".lock", "files.json", "resume.jsonl")
    }
