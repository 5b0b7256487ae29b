"""The tables "What good covers" of docs/data.md: for each line, something that breaks just that is caught."""

from __future__ import annotations

import bz2
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from odd_tokenizers import byte_level, spaceless, words
from tokenized import write_lines
from tokenizers import normalizers

from data_prep.channels.indexed_writer import PartWriter
from data_prep.verbs.append_verb import append
from data_prep.verbs.channel_verbs import verify
from data_prep.verbs.data_verbs import tokenize
from harness.errors import HarnessError

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
TEXTS = [f"The quick brown fox number {number}. Ωmega" for number in range(40)]


class Bench:
    """A small input, and calls on the channel made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.input = write_lines(folder / "in.jsonl", *({"text": text} for text in TEXTS))
        self.channel = folder / "data" / "c"
        self.tokenizer = byte_level(folder / "t", control=("</s>", "<s>"))

    def call(self, verb: Any, *arguments: object) -> Result:  # noqa: ANN401
        return CliRunner().invoke(verb, [str(argument) for argument in arguments])

    def tokenize(self, *options: object, inputs: Path | None = None, tokenizer: Path | None = None) -> str:
        """Make the channel, and return all that was said."""
        where = ("--tokenizer", tokenizer or self.tokenizer, "--channel", "c", "--output", self.channel.parent)
        return _said(self.call(tokenize, inputs or self.input, *where, *options))

    def verify(self, *options: object) -> str:
        """Return what is said of the channel, and the exit code behind it."""
        return _said(self.call(verify, self.channel, *options))

    def rewrite(self, *documents: list[int]) -> None:
        """Put other documents into the channel, with hashes that fit."""
        (self.channel / "parts.jsonl").unlink()
        writer = PartWriter(self.channel, 0, np.dtype("<u2"))
        for document in documents:
            writer.add_document(document)
        writer.finish()
        source = self.channel / "source.json"
        if source.exists():
            content = json.loads(source.read_text())
            content["finished"]["tokens"] = sum(map(len, documents))
            source.write_text(json.dumps(content))


def _said(result: Result) -> str:
    error = result.exception
    code = error.exit_code if isinstance(error, HarnessError) else result.exit_code
    text = f"{result.output}{error if isinstance(error, HarnessError) else ''}"
    return f"{text}\nexit {code}"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_is_good_is_called_good(bench: Bench) -> None:
    said = bench.tokenize()
    assert said.endswith("exit 0") and "WARNING" not in said and "lost" not in said and "left out" not in said
    for options in ((), ("--tokenizer", bench.tokenizer)):
        found = bench.verify(*options)
        assert f"{bench.channel}: good, 1 part, 40 documents" in found and found.endswith("exit 0")


def left_out(bench: Bench) -> str:
    (bench.folder / "more").mkdir()
    bench.input.rename(bench.folder / "more" / "a.jsonl")
    (bench.folder / "more" / "b.csv").touch()
    return bench.tokenize(inputs=bench.folder / "more")


def damaged(bench: Bench) -> str:
    packed = bench.folder / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(bench.input.read_bytes())[:-20])
    return bench.tokenize(inputs=packed)


def packed_otherwise(bench: Bench) -> str:
    (bench.folder / "b.jsonl").write_bytes(gzip.compress(bench.input.read_bytes()))
    return bench.tokenize(inputs=bench.folder / "b.jsonl")


def without_document(bench: Bench) -> str:
    bench.input.write_text('{"data": [{"text": "one"}, {"text": "two"}]}\n')
    return bench.tokenize()


def no_bytes(bench: Bench) -> str:
    bench.input.write_bytes(b"")
    said = bench.tokenize()
    (bench.folder / "b.jsonl.gz").touch()
    return said + bench.tokenize(inputs=bench.folder / "b.jsonl.gz")


def bad_lines(bench: Bench) -> str:
    bench.input.write_text(bench.input.read_text() + "not JSON\n")
    return bench.tokenize()


def empty(bench: Bench) -> str:
    bench.input.write_text(bench.input.read_text() + '\n{"text": " "}\n')
    return bench.tokenize()


def lost(bench: Bench) -> str:
    return bench.tokenize(tokenizer=byte_level(bench.folder / "low", normalizer=normalizers.Lowercase()))


def without_white_space(bench: Bench, *options: object) -> str:
    """Made with a tokenizer whose pieces are parted at white space, which it gives not back."""
    bench.input.write_text('{"text": "The fox The fox"}\n')
    return bench.tokenize(*options, tokenizer=spaceless(bench.folder / "spaceless"))


def white_space_when_made(bench: Bench) -> str:
    without_white_space(bench)
    return bench.verify()


def unknown(bench: Bench) -> str:
    # The sample is a million characters from the beginning of a packed file.
    packed = bench.folder / "b.jsonl.gz"
    known = json.dumps({"text": "The" + " quick" * 2000}) + "\n"
    packed.write_bytes(gzip.compress((known * 100 + json.dumps({"text": "x " * 90_000}) + "\n").encode()))
    return bench.tokenize(inputs=packed, tokenizer=words(bench.folder / "words"))


def end_told(bench: Bench) -> str:
    return bench.tokenize()


def no_such_end(bench: Bench) -> str:
    return bench.tokenize(tokenizer=byte_level(bench.folder / "e", settings={"eos_token": "<no>"}))


def begin_told(bench: Bench) -> str:
    return bench.tokenize(tokenizer=byte_level(bench.folder / "b", control=("</s>", "<s>"), begin="<s>"))


def border_inside(bench: Bench) -> str:
    bench.input.write_text(bench.input.read_text().replace("number 7", "<end>"))
    return bench.tokenize(
        "--end-of-document", "<end>", tokenizer=byte_level(bench.folder / "x", text_symbols=("<end>",))
    )


def twice(bench: Bench) -> str:
    bench.tokenize()
    further = write_lines(bench.folder / "b.jsonl", {"text": "more"})
    where = ("--tokenizer", bench.tokenizer, "--channel", "c", "--output", bench.channel.parent)
    added = _said(bench.call(append, bench.input, further, *where))
    return bench.tokenize(inputs=further) + added


def missing_file(bench: Bench) -> str:
    bench.tokenize()
    (bench.channel / "part-00000.bin").unlink()
    return bench.verify()


def flip_bit(file: Path, byte: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)


def flipped(bench: Bench) -> str:
    bench.tokenize()
    flip_bit(bench.channel / "part-00000.bin", 100)
    return bench.verify()


def other_index(bench: Bench) -> str:
    bench.tokenize()
    flip_bit(bench.channel / "part-00000.idx", 34)
    return bench.verify()


def damaged_provenance(bench: Bench) -> str:
    bench.tokenize()
    flip_bit(bench.channel / "part-00000.provenance", 20)
    return bench.verify()


def provenance_of_some(bench: Bench) -> str:
    bench.tokenize("--tokens-per-part", 100)
    (bench.channel / "part-00001.provenance").unlink()
    return bench.verify()


def beyond(bench: Bench) -> str:
    bench.tokenize()
    bench.rewrite([5, 60_000, 0])
    return bench.verify()


def other_tokenizer(bench: Bench) -> str:
    bench.tokenize()
    return bench.verify("--tokenizer", words(bench.folder / "words"))


def no_border(bench: Bench) -> str:
    bench.tokenize("--begin-of-document", "<s>")
    bench.rewrite([1, 5, 0], [5, 0], [1, 5])
    found = bench.verify()
    assert "1 documents do not begin with the token that begins documents (id 1)" in found
    return found


def inner_border(bench: Bench) -> str:
    bench.tokenize()
    bench.rewrite([5, 0, 6, 0])
    return bench.verify()


def unfinished(bench: Bench) -> str:
    bench.tokenize()
    source = bench.channel / "source.json"
    source.write_text(json.dumps(json.loads(source.read_text()) | {"finished": None}))
    return bench.verify()


def test_one_symbol_before_and_behind_documents_is_inside_only_where_it_is_neither(bench: Bench) -> None:
    bench.tokenize("--begin-of-document", "</s>")
    assert f"{bench.channel}: good, 1 part, 40 documents" in bench.verify()
    bench.rewrite([0, 5, 0], [0], [0, 5, 0, 6, 0], [0, 0])
    found = bench.verify()
    assert "doubtful: 1 end-of-document tokens are inside documents" in found and "that begin documents" not in found


def lost_when_made(bench: Bench) -> str:
    tokenizer = byte_level(bench.folder / "low", normalizer=normalizers.Lowercase())
    bench.tokenize("--max-lost-share", 1, tokenizer=tokenizer)
    return bench.verify()


def unknown_tokens(bench: Bench) -> str:
    tokenizer = words(bench.folder / "words")
    bench.input.write_text('{"text": "The fox"}\n')
    bench.tokenize("--max-lost-share", 1, tokenizer=tokenizer)
    (bench.channel / "source.json").unlink()
    bench.rewrite([2, 0, 5, 1])
    return bench.verify("--tokenizer", tokenizer)


def broken_characters(bench: Bench) -> str:
    bench.tokenize()
    (bench.channel / "source.json").unlink()
    vocabulary = json.loads((bench.tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    bench.rewrite([vocabulary["ä"], vocabulary["a"], 0])  # the byte 0xe4 alone
    return bench.verify("--tokenizer", bench.tokenizer)


def stands_for_more(bench: Bench) -> str:
    with bz2.open(bench.folder / "in.jsonl.bz2", "wb") as stream:
        for _ in range(130):
            stream.write(bytes(1 << 20))
    return bench.tokenize(inputs=bench.folder / "in.jsonl.bz2")


def without_a_part(bench: Bench) -> str:
    bench.tokenize("--tokens-per-part", 100)
    parts = bench.channel / "parts.jsonl"
    parts.write_text("".join(parts.read_text().splitlines(keepends=True)[:-1]))
    return bench.verify()


LINES: dict[str, tuple[Callable[[Bench], str], str]] = {
    "what lies in a folder or under a pattern and is not read": (left_out, r"1 is left out, .*: b\.csv.*exit 0$"),
    "a packed file that is damaged or cut short": (damaged, r"damaged or cut short.*exit 65$"),
    "a file that is packed otherwise than its name says": (packed_otherwise, r"its content is gz, though.*exit 65$"),
    "a packed file that stands for far more than text can": (
        stands_for_more,
        r"stands for more than 1,032 times its own size, and more than 128 MiB.*exit 65$",
    ),
    "lines that are no documents": (bad_lines, r"1 of 41 lines \(2\.44%\) are not documents.*exit 65$"),
    "a file that has lines, and not one document": (
        without_document,
        r"the file has not one document\. The first reason, of line 1: no key 'text'.*exit 65$",
    ),
    "empty lines and documents": (empty, r"  2 empty lines and documents left out\n\nexit 0$"),
    "files of 0 bytes": (no_bytes, r"of 0 bytes, so without any text: .*it has 0 bytes.*exit 65$"),
    "characters of a sample that do not come back from their tokens": (lost, r"do not come back.*exit 65$"),
    "white space of a sample that does not come back (tokenizers that work on words give none back)": (
        without_white_space,
        r"WARNING: white space is lost .*20\.00% of the characters.*; 0\.00% without white space\).*exit 0$",
    ),
    "tokens that stand for unknown text, in the whole input": (unknown, r"% of all tokens stand for unknown.*65$"),
    "the symbol that ends a document, and why it was taken": (end_told, r"documents end with </s> \(id 0\): a usual"),
    "an `eos_token` that is not in the vocabulary": (no_such_end, r"eos_token is '<no>', which is not.*exit 65$"),
    "a tokenizer that would begin every text with a symbol": (begin_told, r"WARNING: no document begins with <s>"),
    "text inside documents that becomes the symbol at their borders": (border_inside, r"became 1 times the symbol"),
    "files that are in the channel already": (
        twice,
        r"To add files .*append.*exit 64.*in\.jsonl already: left",
    ),
    "every part's files are there, with the size that `parts.jsonl` says": (
        missing_file,
        r"cannot find .*bin.*\nexit 65$",
    ),
    "the parts hold as many tokens as were written when the channel was made": (
        without_a_part,
        r": BAD, .*tokens were written when the channel was made, and its parts have.*exit 65$",
    ),
    "every byte of the tokens is as it was written": (
        flipped,
        r": BAD, .*was altered: its hash is.*exit 65$",
    ),
    "the index fits the tokens": (other_index, r": BAD, .*part-00000.*exit 65$"),
    "where documents came from, if it is recorded, is as it was written, and of this part": (
        damaged_provenance,
        r": BAD, .*part-00000\.provenance is damaged.*exit 65$",
    ),
    "it is recorded of all parts, or of none": (
        provenance_of_some,
        r": doubtful, .*not recorded where their documents came from, as it is of others: part-00001\n.*exit 0$",
    ),
    "every id is in the vocabulary": (beyond, r": BAD, .*1 tokens are beyond the vocabulary.*exit 65$"),
    "the tokenizer that is given made the channel": (other_tokenizer, r"made with another tokenizer.*exit 64$"),
    "every document ends with the recorded symbol, and begins with it": (
        no_border,
        r": doubtful, .*1 documents do not end with the end-of-document token \(id 0\).*exit 0$",
    ),
    "that symbol is nowhere inside a document": (
        inner_border,
        r": doubtful, .*1 end-of-document tokens are inside",
    ),
    "all input is in the channel": (
        unfinished,
        r": doubtful, .*unfinished: the call that makes it was interrupted or still runs; 40 documents so far.*exit 0$",
    ),
    "text came back from its tokens when the channel was made": (
        lost_when_made,
        r": BAD, .*when the channel was made, .*did not come back.*exit 65$",
    ),
    "white space came back when the channel was made": (
        white_space_when_made,
        r": doubtful, .*white space was lost: .*20\.00% of 15 characters.*exit 0$",
    ),
    "no token stands for unknown text (with `--tokenizer`)": (
        unknown_tokens,
        r": BAD, .*1 tokens \(25\.00%\) stand for unknown text.*exit 65$",
    ),
    "characters of a sample of documents are whole (with `--tokenizer`)": (
        broken_characters,
        r": BAD, .*1 \(50\.00%\) are broken, because bytes are missing.*exit 65$",
    ),
}


def test_the_page_has_these_lines() -> None:
    section = PAGE.read_text().partition("### What *good* covers")[2].partition("\n### ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert [row for row in rows if not row.startswith(("`tokenize`", "`verify`"))] == list(LINES)


@pytest.mark.parametrize("line", list(LINES))
def test_what_breaks_a_line_is_caught(bench: Bench, line: str) -> None:
    broken, expected = LINES[line]
    said = broken(bench)
    assert re.search(expected, said, re.DOTALL), said
