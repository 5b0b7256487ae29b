"""A channel that is not finished: nothing of too lossy input gets in, and what is in it is called what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from odd_tokenizers import byte_level, words
from tokenized import write_lines
from tokenizers import normalizers

from data_prep.verbs.append_verb import append
from data_prep.verbs.channel_verbs import count, verify
from data_prep.verbs.combine_verbs import mix
from data_prep.verbs.data_verbs import tokenize
from harness.errors import DataError


def call(verb: Any, *arguments: object) -> Result:  # noqa: ANN401
    return CliRunner().invoke(verb, [str(argument) for argument in arguments])


class Bench:
    """A channel of small parts, made with a tokenizer that makes capital letters small."""

    def __init__(self, folder: Path) -> None:
        self.input = folder / "a.jsonl"
        self.further = folder / "b.jsonl"
        self.channel = folder / "data" / "c"
        self.model = byte_level(folder / "low", normalizer=normalizers.Lowercase())
        self.parts = self.channel / "parts.jsonl"

    def options(self) -> tuple[object, ...]:
        return ("--tokenizer", self.model, "--channel", "c", "--output", self.channel.parent)

    def tokenize(self, *options: object) -> Result:
        return call(tokenize, self.input, *self.options(), "--tokens-per-part", 2000, *options)

    def append(self, *options: object) -> Result:
        return call(append, self.further, *self.options(), *options)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # As of larger input: the look at the beginning sees little of it, and a part is done long before the end.
    monkeypatch.setattr("data_prep.channels.prepared.SAMPLE_CHARACTERS", 3000)
    monkeypatch.setattr("data_prep.text.reader.BATCH_DOCUMENTS", 100)
    return Bench(tmp_path)


SMALL, CAPITAL = [{"text": f"small letters, number {n}"} for n in range(1500)], [{"text": "LETTERS " * 9}] * 5000
PACKED = "a.jsonl.gz"


def pack(file: Path, *values: object) -> Path:
    """A packed file is looked at from its beginning on."""
    import gzip

    file.write_bytes(gzip.compress("".join(json.dumps(value) + "\n" for value in values).encode()))
    return file


def test_no_part_of_input_that_is_lost_gets_into_the_channel(bench: Bench, tmp_path: Path) -> None:
    bench.input = pack(tmp_path / PACKED, *SMALL, *CAPITAL)
    result = bench.tokenize()
    assert isinstance(result.exception, DataError) and "the tokenizer loses text: " in str(result.exception)
    documents = sum(json.loads(line)["documents"] for line in bench.parts.read_text().splitlines())
    assert 1000 < documents < 1600  # all but few with small letters
    found = call(verify, bench.channel)
    assert found.exit_code == 0
    assert f"{bench.channel}: doubtful, " in found.stdout
    assert f"doubtful: unfinished: the call that makes it was interrupted or still runs; {documents:,}" in found.stdout
    # The same call goes on where that one ended, once the loss is accepted.
    assert bench.tokenize("--max-lost-share", 1).exception is None
    assert call(verify, bench.channel).exit_code == 65
    assert call(count, bench.channel).stderr == ""


def test_no_part_of_input_with_unknown_text_gets_into_the_channel(bench: Bench, tmp_path: Path) -> None:
    bench.model = words(tmp_path / "words")
    bench.input = pack(
        tmp_path / PACKED, *[{"text": "The" + " quick brown fox" * 5}] * 1500, *[{"text": "x y z"}] * 9999
    )
    assert "of all tokens stand for unknown text" in str(bench.tokenize("--max-lost-share", 0.02).exception)
    documents = sum(json.loads(line)["documents"] for line in bench.parts.read_text().splitlines())
    assert 1400 < documents < 1800


def test_no_part_of_input_with_rejected_lines_gets_into_the_channel(bench: Bench, tmp_path: Path) -> None:
    bench.input = pack(tmp_path / PACKED, *SMALL, *[{"text": "ok"}, {"no": "text"}] * 3000)
    assert "are not documents; allowed: 1.00%" in str(bench.tokenize().exception)
    documents = sum(json.loads(line)["documents"] for line in bench.parts.read_text().splitlines())
    assert 1000 < documents < 1600


def test_an_append_that_loses_text_is_stopped_as_early(bench: Bench, tmp_path: Path) -> None:
    bench.input = pack(tmp_path / PACKED, *SMALL)
    assert bench.tokenize().exception is None
    before = len(bench.parts.read_text().splitlines())
    bench.further = pack(tmp_path / "b.jsonl.gz", *SMALL, {"text": "and more"}, *CAPITAL)
    assert "the tokenizer loses text: " in str(bench.append().exception)
    assert before < len(bench.parts.read_text().splitlines()) <= 2 * before + 2
    found = call(verify, bench.channel)
    assert "doubtful: unfinished: " in found.stdout and "BAD" not in found.stdout


def test_the_loss_in_an_unfinished_channel_is_told(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.input = pack(tmp_path / PACKED, *CAPITAL, *[{"no": "text"}] * 9999)
    assert "are not documents" in str(bench.tokenize("--max-lost-share", 1).exception)
    assert bench.parts.exists() and json.loads((bench.channel / "source.json").read_text())["finished"] is None
    found = call(verify, bench.channel)
    assert (found.exit_code, found.stdout.startswith(f"{bench.channel}: BAD, ")) == (65, True)
    assert "text was lost: when the channel was made, " in found.stdout and "doubtful: unfinished: " in found.stdout
    (reports,) = json.loads(call(verify, bench.channel, "--json").stdout).values()
    assert reports[0]["doubts"][0].startswith("unfinished: ") and not reports[1]["doubts"]
    for verb, options in ((count, ()), (mix, ("--share", "c=1", "--tokens", "1K"))):
        result = call(verb, bench.channel, *options)
        assert f"WARNING: {bench.channel} is unfinished: the call that makes it was interrupted" in result.stderr
        assert result.exit_code == 0


def test_input_of_which_every_line_is_rejected_is_called_so(bench: Bench) -> None:
    write_lines(bench.input, {"text": "small"})
    assert bench.tokenize().exception is None
    for lines, said in (
        ([{"no": "text"}], "1 rejected lines"),
        ([{"no": "text"}, {"text": " "}], "1 rejected lines and 1 empty lines and documents"),
        ([{"text": " "}], "1 empty lines and documents"),
        ([], "all files are empty"),
    ):
        write_lines(bench.further, *lines)
        error = bench.append("--max-rejected-share", 1).exception
        assert isinstance(error, DataError) and str(error).endswith(f"b.jsonl): {said}.")
