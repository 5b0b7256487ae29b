"""Near copies: as many pairs are found as theory says, as many as datatrove's own signatures find, the first stays."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("datatrove")
pytest.importorskip("rensa")

from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig

from data_prep.corpus.near import Bands, FastSignature, FirstOfGroup, choose_bands, first_of_groups, minima
from data_prep.corpus.words import Words
from data_prep.text.shingles import shingles
from harness.errors import UsageError


def jaccard(one: str, other: str) -> float:
    first, second = set(shingles(one).tolist()), set(shingles(other).tolist())
    return len(first & second) / len(first | second)


def probability(bands: Bands, similarity: float) -> float:
    """Return the probability that two documents of this similarity agree in at least one band."""
    return float(1 - (1 - similarity**bands.rows) ** bands.count)


def test_bands_find_half_of_the_pairs_at_the_threshold() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9):
        bands = choose_bands(threshold)
        assert 0.35 < probability(bands, threshold) < 0.65
        assert bands.count * bands.rows <= 128


def word(generator: random.Random) -> str:
    """Seven letters: datatrove takes all numbers for the same."""
    return "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=7))


def changed(words: list[str], share: float, generator: random.Random) -> list[str]:
    """The words with a share of them replaced, one by one."""
    return [word(generator) if generator.random() < share else old for old in words]


def planted(generator: random.Random, share: float) -> tuple[str, str]:
    """A text of 300 words, and the same with a share of its words replaced."""
    words = [word(generator) for _ in range(300)]
    return " ".join(words), " ".join(changed(words, share, generator))


def met(signature: MinhashDedupSignature, one: str, other: str) -> bool:
    """Whether a band of the two is equal."""
    first, second = (signature.get_signature(signature.get_shingles(text)) for text in (one, other))
    return any(a == b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("which", ["rensa", "datatrove"])
def test_planted_near_copies_are_found_as_often_as_theory_says(which: str, tmp_path: Path) -> None:
    """datatrove's own signatures are the oracle: ours must do as theory says, and so must they, by the same measure."""
    bands = choose_bands(0.8)
    own = bands.config
    own.hash_config = HashConfig(precision=64, hash_fc="sha1")
    signature = (
        FastSignature(tmp_path, bands) if which == "rensa" else MinhashDedupSignature(str(tmp_path), own, Words())
    )
    generator = random.Random(0)
    for share in (0.0, 0.01, 0.03, 0.05, 0.1, 0.3):
        pairs = [planted(generator, share) for _ in range(60 if which == "datatrove" else 150)]
        hits = [met(signature, one, other) for one, other in pairs]
        mean = float(np.mean([probability(bands, jaccard(one, other)) for one, other in pairs]))
        deviation = (mean * (1 - mean) / len(hits)) ** 0.5
        assert abs(np.mean(hits) - mean) <= 4 * deviation + 0.01, (share, np.mean(hits), mean)
        assert share > 0 or all(hits)
        assert share < 0.3 or not any(hits)


def test_minima_agree_as_often_as_texts_are_alike() -> None:
    generator = random.Random(3)
    for share in (0.01, 0.05, 0.2):
        pairs = [planted(generator, share) for _ in range(20)]
        agreed = np.mean([(minima(one) == minima(other)).mean() for one, other in pairs])
        assert agreed == pytest.approx(np.mean([jaccard(one, other) for one, other in pairs]), abs=0.03)


def test_unrelated_documents_do_not_meet(poems: list[str]) -> None:
    bands = choose_bands(0.8)
    unequal = list(dict.fromkeys(poems))
    tables = np.stack([minima(poem)[: bands.count * bands.rows] for poem in unequal])
    for band in range(bands.count):
        rows = tables[:, band * bands.rows : (band + 1) * bands.rows]
        assert len(np.unique(rows, axis=0)) >= len(unequal) - 3


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_groups_are_the_connected_ones(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = case
    groups = list(range(count))
    for _ in range(count):
        for one, other in pairs:
            groups[one] = groups[other] = min(groups[one], groups[other])
    found = first_of_groups(count, np.array(pairs, dtype=np.int64).reshape(-1, 2))
    assert found.tolist() == groups


def test_the_first_of_a_group_stays_whichever_met_most(tmp_path: Path) -> None:
    """datatrove keeps the document that joined most others; a chain whose middle met both ends shows the difference."""
    bands = Bands(count=2, rows=1)
    folder = tmp_path / "pairs"
    folder.mkdir()
    chain = {"00000_00.dups": [(0, 5, 1, 2), (1, 2, 1, 9)], "00001_00.dups": [(1, 2, 2, 0)]}
    for name, pairs in chain.items():
        (folder / name).write_bytes(np.array(pairs, dtype="<u4").tobytes())
    FirstOfGroup(str(folder), str(tmp_path / "copies"), bands.config).run()
    left_out = {file.name: np.fromfile(file, dtype="<u4").tolist() for file in (tmp_path / "copies").iterdir()}
    assert left_out == {"000001.remove": [2, 9], "000002.remove": [0]}


def test_our_signatures_are_files_that_datatrove_reads(tmp_path: Path) -> None:
    bands = choose_bands(0.9)
    texts = [
        "one two three four five six seven",
        "ein zwei drei vier fünf sechs",
        "One two, three four five six seven!",
    ]
    documents = [Document(text=text, id=str(number)) for number, text in enumerate([*texts, "..."])]
    FastSignature(tmp_path / "signatures", bands).run(iter(documents), 0, 1)
    for task in range(bands.count):
        MinhashDedupBuckets(str(tmp_path / "signatures"), str(tmp_path / "pairs"), config=bands.config).run(
            None, task, bands.count
        )
    pairs = np.concatenate([np.fromfile(file, dtype="<u4") for file in (tmp_path / "pairs").iterdir()])
    assert pairs.reshape(-1, 4).tolist() == [[0, 0, 0, 2]] * bands.count


def test_minhash_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(UsageError, match="--method minhash needs the Python package rensa.*`data-clean` extra"):
        FastSignature(tmp_path, choose_bands(0.8))
