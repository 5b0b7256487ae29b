from __future__ import annotations

import random

import numpy as np
import pytest

from data_prep.text import similar_order as module
from data_prep.text.similar_order import DocumentFrequencies, similar_order


def topic_texts(num_topics: int, per_topic: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Texts of some topics, each with words of its own between words of all, in no order."""
    generator = random.Random(seed)
    shared = [f"shared{letter}" for letter in "abcdefghij"]
    entries = []
    for topic in range(num_topics):
        own = ["".join(generator.choices("abcdefghijklmnopqrst", k=6)) for _ in range(40)]
        entries += [(" ".join(generator.choices(own + shared, k=80)), topic) for _ in range(per_topic)]
    generator.shuffle(entries)
    return [text for text, _ in entries], [topic for _, topic in entries]


@pytest.mark.parametrize("per_cluster", [30, 10_000])
def test_neighbours_are_of_one_topic(per_cluster: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DOCUMENTS_PER_CLUSTER", per_cluster)
    texts, topics = topic_texts(20, 30)
    seen = DocumentFrequencies(texts)
    order = similar_order(np.stack([seen.vector(text) for text in texts]), seed=0)
    assert sorted(order.tolist()) == list(range(600))
    ordered = np.array(topics)[order]
    changes = int((ordered[1:] != ordered[:-1]).sum())
    # 19 changes are as few as there can be; any order without sense has about 570.
    assert changes < (150 if per_cluster == 30 else 30)


def test_large_clusters_are_sorted_and_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_WALK", 10)
    texts, topics = topic_texts(2, 100)
    seen = DocumentFrequencies(texts)
    order = similar_order(np.stack([seen.vector(text) for text in texts]), seed=0)
    ordered = np.array(topics)[order]
    assert sorted(order.tolist()) == list(range(200)) and int((ordered[1:] != ordered[:-1]).sum()) < 20


def test_equal_texts_have_equal_vectors_and_rare_words_count_more() -> None:
    seen = DocumentFrequencies(["the cat sat", "the dog sat", "the cat ran", "the cow ran"])
    cat, again, dog = (seen.vector(text) for text in ("the cat sat", "The CAT sat!", "the dog ran"))
    assert np.array_equal(cat, again)
    assert np.linalg.norm(cat) == pytest.approx(1)
    assert cat @ seen.vector("the cat ran") > cat @ dog


def test_texts_without_words_and_no_texts() -> None:
    assert not DocumentFrequencies(["...", ""]).vector("...").any()
    assert similar_order(np.zeros((0, module.DIMENSIONS)), 0).tolist() == []
    assert sorted(similar_order(np.zeros((3, module.DIMENSIONS)), 0).tolist()) == [0, 1, 2]
