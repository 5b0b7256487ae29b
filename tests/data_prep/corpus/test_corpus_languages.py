"""`harness data clean` on sources of many languages: nothing is lost silently, and a large loss stops."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("datatrove")
pytest.importorskip("py3langid")

from benchmarks.languages import Documents, documents
from data_prep.text.scripts import WORD
from data_prep.verbs.corpus_verbs import clean
from harness.errors import DataError, UsageError


@pytest.fixture(scope="module")
def texts() -> Documents:
    return documents()


def call(*arguments: object) -> Result:
    return CliRunner().invoke(clean, [str(argument) for argument in arguments])


def written(folder: Path, name: str, texts: Iterable[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def lists_of_words(each: Iterable[str], count: int) -> list[str]:
    generator = random.Random(1)
    words = [word for text in each for word in WORD.findall(text) if len(word) > 6]
    return [" ".join(generator.sample(words, 60)) for _ in range(count)]


def test_every_language_of_a_mixed_source_is_kept(texts: Documents, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for language, each in texts.items():
        written(raw, f"{language}.jsonl", each)
    done = call(raw, "--output", tmp_path / "out")
    assert done.exception is None, done.exception
    total = sum(map(len, texts.values()))
    assert f"kept {total} of {total} documents (100.00%)" in done.stdout
    assert "  language th: kept 8 of 8 (100.00%)" in done.stdout and "  language en: kept" in done.stdout
    assert "NOT APPLIED: 'no stop words' to " in done.stderr and "taken for " in done.stderr
    as_json = json.loads(call(raw, "--output", tmp_path / "out", "--json").stdout)
    reports = {Path(report["file"]).stem: report for report in as_json}
    assert reports["th"]["languages"] == {"th": 8} and reports["th"]["unknown"] == {}
    assert sum(reports["ilo"]["unknown"].values()) > 0


def test_a_language_can_be_named(texts: Documents, tmp_path: Path) -> None:
    raw = written(tmp_path / "raw", "a.jsonl", [*texts["ilo"] * 5, *lists_of_words(texts["ilo"], 5)])
    done = call(raw, "--output", tmp_path / "found")
    assert "of languages that it does not know" in done.stderr and "kept 50 of 50" in done.stdout
    done = call(raw, "--output", tmp_path / "named", "--assume-language", "ilo")
    assert "  language ilo: kept 45 of 50 (90.00%): no stop words 5" in done.stdout and "NOT APPLIED" not in done.stderr
    refused = call(raw, "--output", tmp_path / "wrong", "--assume-language", "Ilocano").exception
    assert isinstance(refused, UsageError)
    assert (
        str(refused) == "--assume-language 'Ilocano': must be a code of ISO 639, two or three small letters (id, ilo)."
    )


def test_a_large_loss_stops_until_it_is_accepted(texts: Documents, tmp_path: Path) -> None:
    shop = ["Beli sekarang"] * 60
    raw = written(tmp_path / "raw", "a.jsonl", [*texts["id"] * 4, *shop])
    out = tmp_path / "out"
    stopped = call(raw, "--output", out).exception
    assert isinstance(stopped, DataError)
    assert "a rule drops more than 50% of what is there" in str(stopped)
    assert "too short: 60 of 100 documents (60.0%)" in str(stopped) and "'Beli sekarang'" in str(stopped)
    assert not (out / "files.jsonl").exists() and (out / "a.jsonl").exists()
    again = call(raw, "--output", out).exception
    assert isinstance(again, DataError)
    accepted = call(raw, "--output", out, "--accept-loss")
    assert accepted.exception is None and "kept 40 of 100" in accepted.stdout
    assert "too short: 60" in call(raw, "--output", out).stdout  # once it is accepted, it is
    listed = [json.loads(line) for line in (out / "a.jsonl.dropped").read_text().splitlines()]
    assert listed[0] == {"line": 41, "reason": "too short", "begin": "Beli sekarang", "language": listed[0]["language"]}


def test_the_loss_of_one_language_is_seen_in_a_large_source(texts: Documents, tmp_path: Path) -> None:
    """Of 429 documents a rule drops 24, which are all of the Thai ones."""
    lists = [text + "\n• ก" * 200 for text in texts["th"] * 3]
    raw = written(tmp_path / "raw", "a.jsonl", [*texts["en"] * 45, *lists])
    stopped = call(raw, "--output", tmp_path / "out").exception
    assert isinstance(stopped, DataError)
    assert "documents in the language th (100.0%)" in str(stopped)


def test_a_share_of_one_never_stops(texts: Documents, tmp_path: Path) -> None:
    written(tmp_path / "raw", "a.jsonl", [*texts["id"], *["Beli sekarang"] * 60])
    source = f"{{input: ['{tmp_path}/raw'], clean: {{most_dropped_share: 1.0}}}}"
    (tmp_path / "corpus.yaml").write_text(f"output: {tmp_path}/corpus\nsources:\n  id: {source}\n")
    done = call("--config", tmp_path / "corpus.yaml")
    assert done.exception is None and "kept 10 of 70" in done.stdout


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, texts: Documents) -> None:
    raw = written(tmp_path / "raw", "a.jsonl", texts["id"])
    hidden = "import sys; sys.modules['py3langid'] = None; from harness.cli import main; main()"
    command = [sys.executable, "-c", hidden, "data", "clean", str(raw), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 64 and "Traceback" not in done.stderr
    assert "the Python package py3langid, which is not installed" in done.stderr and "data-clean" in done.stderr
