"""Channels that anybody may have written: one line, the right exit code, at once, and never a traceback."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_made_with import write_channel, write_tokenizer

from harness.cli import run
from harness.errors import EXIT_BAD_DATA, EXIT_USAGE

TEXTS = ("", "x" * 5000, "../../x", "/etc/passwd", "a\0b")
ABSURD = (True, None, -1, 2**60, 2**64, 10**299, 1.5, *TEXTS, "\ud800", [], {})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_channel(folder / "c", write_tokenizer(folder / "one"))
    return folder


@pytest.fixture
def channel(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "c", tmp_path / "c")
    return tmp_path / "c"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command says that refuses bad data."""
    capsys.readouterr()
    try:
        code = run([*map(str, arguments)])
    except SystemExit as left:  # `verify` tells its findings, and leaves
        code = left.code
    output = "".join(capsys.readouterr())
    assert code == EXIT_BAD_DATA, output
    assert "Traceback" not in output
    return output


def change(file: Path, key: str, value: object) -> None:
    """Sets a key of a JSON object, `inputs.0.1` the second value of the first of its inputs."""
    whole = json.loads(file.read_text())
    *way, last = key.split(".")
    place: Any = whole
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    place[int(last) if isinstance(place, list) else last] = value
    file.write_text(json.dumps(whole) + "\n")


@pytest.mark.parametrize("key", ["prefix", "tokens", "documents", "bin_bytes", "xxh3"])
def test_absurd_values_in_a_list_of_parts(channel: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    lines = (channel / "parts.jsonl").read_text()
    for value in ABSURD:
        change(channel / "parts.jsonl", key, value)
        assert "parts.jsonl:1 (byte 0): " in refused(capsys, "data", "verify", channel)
        (channel / "parts.jsonl").write_text(lines)


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("finished", ()),
        ("finished.tokens", ()),
        ("inputs", ()),
        ("inputs.0", ()),
        ("inputs.0.0", TEXTS),
        ("inputs.0.1", ()),
        ("text_key", TEXTS),
        ("end_of_document_id", (None,)),
        ("tokens_per_part", ()),
        ("tokenizer", ()),
        ("unknown", ()),
    ],
)
def test_absurd_types_in_the_record_of_a_source(
    channel: Path, capsys: pytest.CaptureFixture[str], key: str, good: tuple[object, ...]
) -> None:
    content = (channel / "source.json").read_text()
    for value in ABSURD:
        if value in good or (key, value) in (("finished", None), ("finished", {}), ("inputs", [])):
            continue
        change(channel / "source.json", key, value)
        output = refused(capsys, "data", "count", channel)
        assert "source.json: not readable" in output and len(output) < 2000, (value, output)
        (channel / "source.json").write_text(content)


def absurd_counts(index: Path, sequences: int, documents: int) -> None:
    content = bytearray(index.read_bytes())
    struct.pack_into("<QQ", content, 18, sequences, documents)
    index.write_bytes(content)


def grow(index: Path) -> None:
    """A file with holes that is as large as its header says: forty billion sequences."""
    absurd_counts(index, 40 * 10**9, 41)
    os.truncate(index, 34 + 12 * 40 * 10**9 + 8 * 41)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(target: str) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return act


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["parts.jsonl", "source.json", "part-00000.bin", "part-00000.idx"])
@pytest.mark.parametrize("act", [pipe, link("/dev/zero"), link("/dev/full"), folder])
def test_what_is_no_file_is_not_waited_for(
    channel: Path, capsys: pytest.CaptureFixture[str], name: str, act: Callable[[Path], None]
) -> None:
    act(channel / name)
    assert name in refused(capsys, "data", "verify", channel)


@pytest.mark.parametrize(
    "counts", [(2**60, 41), (2**63, 2**63), (2**64 - 1, 2**64 - 1), (0, 0), (0, 2**60), (5, 2**40), (2**40, 5)]
)
def test_absurd_counts_in_an_index(channel: Path, capsys: pytest.CaptureFixture[str], counts: tuple[int, int]) -> None:
    absurd_counts(channel / "part-00000.idx", *counts)
    assert "part-00000.idx" in refused(capsys, "data", "verify", channel)


def test_an_index_that_is_mostly_holes(channel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        grow(channel / "part-00000.idx")
    except OSError:
        pytest.skip("this file system has no files with large holes")
    assert "a part has at most" in refused(capsys, "data", "verify", channel)


def test_a_hundred_random_changes_of_a_channel(channel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(7)
    whole = {path: path.read_bytes() for path in channel.iterdir() if path.name[0] != "."}
    for _ in range(100):
        path = chance.choice(sorted(whole))
        content = bytearray(whole[path])
        if not content:
            continue
        for _ in range(chance.choice((1, 1, 3, 10))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.choice((len(content), chance.randrange(len(content))))])
        try:
            code = run(["data", chance.choice(("count", "verify")), str(channel)])
        except SystemExit as left:
            code = left.code
        assert code in (0, EXIT_USAGE, EXIT_BAD_DATA), path
        assert "Traceback" not in "".join(capsys.readouterr())
        path.write_bytes(whole[path])
