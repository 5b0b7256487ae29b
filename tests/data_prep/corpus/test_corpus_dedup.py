"""`harness data dedup`: by each method the first stays, in one task or several, and to a wanted size."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from texts import CHINESE, ENGLISH

pytest.importorskip("datatrove")
pytest.importorskip("rensa")

from data_prep.corpus.near import NUM_MINIMA
from data_prep.corpus.threshold_curve import THRESHOLDS, measure, pick_threshold, wanted_characters
from data_prep.verbs.corpus_verbs import clean, dedup
from harness.errors import UsageError


def word(generator: random.Random) -> str:
    return "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=7))


@pytest.fixture
def corpus(tmp_path: Path, poems: list[str]) -> Path:
    generator = random.Random(1)
    long = [word(generator) for _ in range(400)]
    nearly = list(long)
    nearly[200] = "other"
    texts = [poems[0], " ".join(long), poems[1], poems[0], " ".join(nearly), "!!!", "???"]
    (tmp_path / "raw").mkdir()
    for name, part in (("a.jsonl", texts[:3]), ("b.jsonl", texts[3:])):
        lines = [json.dumps({"text": text, "from": name}, ensure_ascii=False) for text in part]
        (tmp_path / "raw" / name).write_text("\n".join(["not JSON", *lines]) + "\n")
    return tmp_path / "raw"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(dedup, [str(argument) for argument in arguments])


@pytest.mark.parametrize("method", ["exact", "minhash"])
def test_the_first_of_each_group_is_kept(corpus: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    result = call(corpus, "--output", out, "--method", method)
    assert result.exception is None, result.exception
    kept = (out / "b.jsonl").read_text().splitlines()
    lines = (corpus / "b.jsonl").read_text().splitlines()
    assert kept == (lines[2:] if method == "exact" else lines[3:])
    assert len((out / "a.jsonl").read_text().splitlines()) == 3
    reasons = [json.loads(line)["reason"] for line in (out / "b.jsonl.dropped").read_text().splitlines()]
    assert reasons[1:] == (["exact duplicate"] if method == "exact" else ["near duplicate", "near duplicate"])
    assert not (out / ".stages" / "work").exists()
    again = call(corpus, "--output", out, "--method", method)
    assert (again.exception, again.stdout) == (None, result.stdout)
    other = call(corpus, "--output", out, "--method", "sentence").exception
    assert isinstance(other, UsageError) and "was made of another dedup" in str(other)


def test_of_a_run_of_sentences_that_occurs_again_one_stays(tmp_path: Path) -> None:
    notice = "Accept our cookies now. We value your privacy here. Read the terms before you go on. "
    lines = [notice + ENGLISH, CHINESE, ENGLISH.replace("bright", "dark") + " " + notice, notice, CHINESE + "完。"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in lines))
    result = call(tmp_path / "a.jsonl", "--output", tmp_path / "out", "--method", "sentence")
    assert result.exception is None, result.exception
    kept = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()]
    texts = [line["text"] for line in kept]
    assert texts[0] == lines[0] and sum(notice.strip() in text for text in texts) == 1
    assert [set(line) for line in kept] == [{"text", "id"}] * len(kept)
    assert "repeated sentences: 1" in result.stdout
    dropped = json.loads((tmp_path / "out" / "a.jsonl.dropped").read_text())
    assert dropped == {"line": 4, "reason": "repeated sentences", "begin": notice[:80]}


def test_several_methods_are_one_report(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call(corpus, "--output", out, "--method", "exact", "--method", "minhash", "--json")
    assert result.exception is None, result.exception
    second = json.loads(result.stdout)[1]
    assert (second["documents"], second["kept"]) == (5, 2)
    assert second["dropped"] == {"exact duplicate": 1, "near duplicate": 1, "not a document": 1}
    assert "exact duplicate" in (out / "b.jsonl.exact.dropped").read_text()
    assert "near duplicate" in (out / "b.jsonl.dropped").read_text()


def test_down_to_a_wanted_size(tmp_path: Path) -> None:
    """Six texts and two copies of each, ever less alike: which copies go depends on the threshold."""
    generator = random.Random(2)
    texts = []
    for share in (0.0, 0.005, 0.01, 0.02, 0.04, 0.08):
        words = [word(generator) for _ in range(400)]
        texts += [
            [word(generator) if generator.random() < part else old for old in words] for part in (0, share, share)
        ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": " ".join(text)}) + "\n" for text in texts))
    result = call(tmp_path / "a.jsonl", "--output", tmp_path / "out", "--keep", "70%")
    assert result.exception is None, result.exception
    table, report = result.stdout.splitlines()[1:11], result.stdout.splitlines()[11]
    left = {float(line.split(":")[0]): int(line.split()[1].replace(",", "")) for line in table}
    total = sum(len(" ".join(text)) for text in texts)
    assert list(left) == list(THRESHOLDS)
    assert left[0.5] < left[0.95] <= total
    fitting = max(threshold for threshold, characters in left.items() if characters <= 0.7 * total)
    assert f"{left[fitting]:,} of {total:,} characters" in report


def test_the_curve_counts_what_is_left() -> None:
    tables = np.arange(4 * NUM_MINIMA, dtype=np.uint32).reshape(4, NUM_MINIMA)
    tables[3] = tables[1]
    tables[2, : NUM_MINIMA // 2] = tables[1, : NUM_MINIMA // 2]
    curve = measure([tables[:2], tables[2:]], np.array([1, 10, 100, 1000]))
    assert curve.characters == 1111
    assert {point.characters for point in curve.points} == {11}
    assert {point.documents for point in curve.points} == {2}
    assert pick_threshold(curve, 11) == max(THRESHOLDS)
    with pytest.raises(UsageError, match="no threshold leaves 10 characters. What each leaves: 0.5: 11, "):
        pick_threshold(curve, 10)


@pytest.mark.parametrize(("keep", "wanted"), [("60%", 600_000), ("0.5M", 500_000), ("1000", 1000), ("2K", 2000)])
def test_sizes_as_people_write_them(keep: str, wanted: int) -> None:
    assert wanted_characters(keep, 1_000_000) == wanted


@pytest.mark.parametrize("keep", ["", "all", "0%", "101%", "2M"])
def test_sizes_that_are_none(keep: str) -> None:
    with pytest.raises(UsageError, match="is not a size. Give a share such as 60%"):
        wanted_characters(keep, 1_000_000)


def write_corpus_file(folder: Path, raw: Path, more: str = "") -> Path:
    file = folder / "corpus.yaml"
    file.write_text(
        f"output: {folder}/made\nsources:\n  zh: {{input: [{raw}], clean: {{preset: light}}}}\n"
        f"  copy: {{input: [{raw}/b.jsonl], clean: {{preset: light}}, dedup: {{methods: [exact]}}}}\n{more}"
    )
    return file


def test_a_corpus_file_for_both_verbs(corpus: Path, tmp_path: Path) -> None:
    file = write_corpus_file(tmp_path, corpus, "executor: {tasks: 1}\n")
    first = call("--config", file)
    assert "source zh has not been processed by `harness data clean` yet" in str(first.exception)
    unknown = CliRunner().invoke(clean, ["--config", str(file), "--source", "en"])
    assert "--source en: there is no such source. Sources: zh, copy." in str(unknown.exception)
    cleaned = CliRunner().invoke(clean, ["--config", str(file)])
    assert cleaned.exception is None, cleaned.exception
    deduped = call("--config", file, "--source", "zh")
    assert deduped.exception is None, deduped.exception
    assert deduped.stdout.startswith(f"{tmp_path}/made/deduped/zh: kept 5 of 7 documents")
    assert not (tmp_path / "made" / "deduped" / "copy").exists()
    slurm = call("--config", file, "--executor", "slurm", "--source", "copy").exception
    assert "executor slurm needs a section executor.slurm" in str(slurm)


def test_ray_is_asked_for(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = write_corpus_file(tmp_path, corpus)
    error = CliRunner().invoke(clean, ["--config", str(file), "--executor", "ray"]).exception
    assert isinstance(error, UsageError)
    assert "executor ray needs the Python package ray, which is not installed" in str(error)
