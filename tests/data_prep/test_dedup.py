from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from data_prep.cli_clean import dedup
from data_prep.dedup import band_hashes, choose_bands, join
from data_prep.shingles import shingles
from harness.errors import UsageError


def jaccard(one: str, other: str) -> float:
    first, second = set(shingles(one).tolist()), set(shingles(other).tolist())
    return len(first & second) / len(first | second)


def test_shingles_are_five_words_or_chinese_characters() -> None:
    assert len(shingles("one two three four five six")) == 2
    assert len(shingles("春眠不觉晓处处")) == 3
    assert len(shingles("one two")) == len(shingles("春")) == 1
    assert len(shingles(" ,.!? \n，。")) == len(shingles("")) == 0
    assert len(shingles("a b c d e " * 20)) == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("One two, three FOUR five - six!", "one two three four five six"),
        ("春眠不觉晓，处处闻啼鸟。", "春眠 不觉晓\n处处闻啼鸟"),
        ("Ünïcode wörds are läßt fine", "ünïcode wörds ARE läßt fine"),
    ],
)
def test_case_spaces_and_punctuation_do_not_count(one: str, other: str) -> None:
    assert np.array_equal(shingles(one), shingles(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("ab c d e f", "a bc d e f"), ("a b c d e", "e d c b a"), ("ab cd", "ba cd"), ("x" * 64 + "ab", "x" * 64 + "ba")],
)
def test_what_is_different_has_different_shingles(one: str, other: str) -> None:
    assert not set(shingles(one).tolist()) & set(shingles(other).tolist())


def reference(text: str) -> set[tuple[str, ...]]:
    """The same sets the slow way, for letters and Chinese characters."""
    units: list[str] = []
    for word in text.lower().split():
        for character in word:
            before = units[-1][-1:] if units else ""
            if not before or "\u4e00" <= max(character, before) <= "\u9fff":
                units.append(character)
            else:
                units[-1] += character
        units.append("")
    units = [unit for unit in units if unit]
    width = min(5, len(units))
    return {tuple(units[i : i + width]) for i in range(len(units) - width + 1)} if units else set()


@given(st.text("abC春眠不 ", max_size=40))
def test_shingles_are_as_many_as_the_slow_way_finds(text: str) -> None:
    assert len(shingles(text)) == len(reference(text))


def test_bands_find_half_of_the_pairs_at_the_threshold() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9):
        bands = choose_bands(threshold)
        assert 0.35 < bands.probability(threshold) < 0.65
        assert bands.count * bands.rows <= 128


def changed(words: list[str], share: float, generator: random.Random) -> list[str]:
    """The words with a share of them replaced, one by one."""
    return [f"new{generator.random()}" if generator.random() < share else word for word in words]


def test_pairs_are_found_as_often_as_theory_says() -> None:
    pytest.importorskip("rensa")
    generator = random.Random(0)
    bands = choose_bands(0.8)
    found: dict[float, list[bool]] = {}
    expected: dict[float, list[float]] = {}
    for share in (0.0, 0.01, 0.03, 0.05, 0.1, 0.3):
        for _ in range(150):
            words = [f"w{generator.randrange(10**6)}" for _ in range(300)]
            one, other = " ".join(words), " ".join(changed(words, share, generator))
            hashes = band_hashes([one, other], bands)
            found.setdefault(share, []).append(bool((hashes[0] == hashes[1]).any()))
            expected.setdefault(share, []).append(bands.probability(jaccard(one, other)))
    for share, hits in found.items():
        mean = float(np.mean(expected[share]))
        deviation = (mean * (1 - mean) / len(hits)) ** 0.5
        assert abs(np.mean(hits) - mean) <= 4 * deviation + 0.01, (share, np.mean(hits), mean)
    assert all(found[0.0]) and not any(found[0.3])


def test_unrelated_documents_are_kept(poems: list[str], tmp_path: Path) -> None:
    pytest.importorskip("rensa")
    hashes = band_hashes(list(dict.fromkeys(poems)), choose_bands(0.8))
    joined = join(hashes, np.arange(len(hashes)))
    assert (joined != np.arange(len(hashes))).sum() <= 3


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n), min_size=1, max_size=3)
        )
    )
)
def test_groups_are_the_connected_ones(case: tuple[int, list[list[int]]]) -> None:
    count, columns = case
    groups = list(range(count))
    for _ in range(count):
        for column in columns:
            for i in range(count):
                for j in range(count):
                    if column[i] == column[j]:
                        groups[i] = groups[j] = min(groups[i], groups[j])
    hashes = np.array(columns, dtype=np.uint64).T
    assert join(hashes, np.arange(count)).tolist() == groups


@pytest.fixture
def corpus(tmp_path: Path, poems: list[str]) -> Path:
    generator = random.Random(1)
    long = [f"w{number}" for number in range(400)]
    texts = [poems[0], " ".join(long), poems[1], poems[0], " ".join(changed(long, 0.005, generator)), "!!!", "???"]
    (tmp_path / "raw").mkdir()
    for name, part in (("a.jsonl", texts[:3]), ("b.jsonl", texts[3:])):
        lines = [json.dumps({"text": text, "from": name}, ensure_ascii=False) for text in part]
        (tmp_path / "raw" / name).write_text("\n".join(["not JSON", *lines]) + "\n")
    return tmp_path / "raw"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(dedup, [str(argument) for argument in arguments])


@pytest.mark.parametrize("method", ["exact", "minhash"])
def test_the_first_of_each_group_is_kept(corpus: Path, tmp_path: Path, method: str) -> None:
    if method == "minhash":
        pytest.importorskip("rensa")
    out = tmp_path / "out"
    result = call(corpus, "--output", out, "--method", method)
    assert result.exception is None, result.exception
    kept = (out / "b.jsonl").read_text().splitlines()
    lines = (corpus / "b.jsonl").read_text().splitlines()
    assert kept == (lines[2:] if method == "exact" else lines[3:])
    assert len((out / "a.jsonl").read_text().splitlines()) == 3
    reasons = [json.loads(line)["reason"] for line in (out / "b.jsonl.dropped").read_text().splitlines()]
    assert reasons[1:] == (["exact duplicate"] if method == "exact" else ["exact duplicate", "near duplicate"])
    again = call(corpus, "--output", out, "--method", method)
    assert "is not empty. It stays as it is: choose another --output" in str(again.exception)


def test_minhash_needs_its_package(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    error = call(corpus, "--output", tmp_path / "out").exception
    assert isinstance(error, UsageError)
    assert "--method minhash needs the Python package rensa" in str(error) and "`data-clean` extra" in str(error)
