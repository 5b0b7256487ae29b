"""`harness data split`: one folder for each label, and each can be tokenized."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from data_prep.text.split_files import folder_names
from data_prep.verbs.preparing import CHANNEL_NAME
from data_prep.verbs.split_verb import split
from harness.channels.provenance import Provenance, open_provenance
from harness.errors import DataError, UsageError


def call(*arguments: object) -> Result:
    return CliRunner().invoke(split, [str(argument) for argument in arguments])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    labels = ["history", "history", "news/id", None, "rare", "history", "news id"]
    lines = [json.dumps({"text": f"text {number}", "meta": {"topic": label}}) for number, label in enumerate(labels)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:4], "not JSON", "", *lines[4:]]))
    return tmp_path / "a.jsonl"


def texts(folder: Path) -> dict[str, list[str]]:
    return {
        path.parent.name: [json.loads(line)["text"] for line in gzip.decompress(path.read_bytes()).splitlines()]
        for path in sorted(folder.glob("*/*.gz"))
    }


def test_a_folder_for_each_label(raw: Path, tmp_path: Path) -> None:
    result = call(raw, "--by", "meta.topic", "--output", tmp_path / "out")
    assert result.exception is None, result.exception
    assert texts(tmp_path / "out") == {
        "history": ["text 0", "text 1", "text 5"],
        "news-id": ["text 6"],
        "news-id-2": ["text 2"],
        "rare": ["text 4"],
        "unlabelled": ["text 3"],
    }
    first = gzip.decompress((tmp_path / "out/history/00000.jsonl.gz").read_bytes()).splitlines()[0]
    assert first == raw.read_bytes().splitlines()[0]
    recorded = open_provenance(tmp_path / "out/history/00000.jsonl.gz.provenance")
    assert recorded is not None
    with recorded:
        assert list(recorded.entries()) == [Provenance(str(raw), line) for line in (1, 2, 8)]
    assert f"{tmp_path}/out/history: 3 documents, 18 characters\n" in result.stdout
    assert f"{tmp_path}/out/news-id-2: 1 documents, 6 characters (news/id)\n" in result.stdout
    assert "1 lines are not documents" in result.stderr
    again = call(raw, "--by", "meta.topic", "--output", tmp_path / "out")
    assert isinstance(again.exception, UsageError)


def test_rare_labels_share_a_folder(raw: Path, tmp_path: Path) -> None:
    result = call(raw, "--by", "meta.topic", "--output", tmp_path / "out", "--most-labels", 1)
    assert result.exception is None, result.exception
    assert texts(tmp_path / "out") == {
        "history": ["text 0", "text 1", "text 5"],
        "other": ["text 2", "text 4", "text 6"],
        "unlabelled": ["text 3"],
    }
    assert "other: 3 documents, 18 characters, 3 labels" in result.stdout


def test_nothing_of_a_call_that_fails_is_in_the_next_one(raw: Path, tmp_path: Path) -> None:
    raw.with_name("b.jsonl.gz").write_bytes(gzip.compress(raw.read_bytes() * 2)[:-9])
    raw.with_name("c.jsonl").write_text(json.dumps({"text": "t", "meta": {"topic": "of c"}}))
    stale = tmp_path / "out.partial" / "of an earlier call"
    stale.mkdir(parents=True)
    (stale / "00000.jsonl.gz").write_bytes(b"")
    error = call(raw.with_name("b.jsonl.gz"), "--by", "meta.topic", "--output", tmp_path / "out").exception
    assert isinstance(error, DataError) and "damaged or cut short" in str(error)
    assert call(raw.with_name("c.jsonl"), "--by", "meta.topic", "--output", tmp_path / "out").exception is None
    assert texts(tmp_path / "out") == {"of-c": ["t"]} and not stale.parent.exists()


def test_labels_and_texts_that_are_none_are_told(raw: Path, tmp_path: Path) -> None:
    error = call(raw, "--by", "meta", "--output", tmp_path / "out").exception
    assert isinstance(error, DataError) and "a label is text or a number" in str(error)
    assert not (tmp_path / "out").exists()
    empty = call(raw, "--text-key", "body", "--output", tmp_path / "out").exception
    assert isinstance(empty, DataError) and "no document under the key 'body'" in str(empty)


def test_folders_have_names_of_channels() -> None:
    labels = ["..", "/etc/passwd", "新闻", "A", "a", "x" * 200, "x" * 300, "other", "files.json", "é t", "", "-"]
    names = folder_names(Counter(labels), 100)
    assert all(CHANNEL_NAME.fullmatch(name) for name in names.values())
    assert len({name.lower() for name in names.values()}) == len(labels)
    assert names[""] == "unlabelled" and names["/etc/passwd"] == "etc-passwd" and names["other"] == "other-2"
