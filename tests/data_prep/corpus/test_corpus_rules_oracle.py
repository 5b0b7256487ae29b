"""Our rules for prose beside datatrove's filters, on real English that was spoilt in many ways."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

pytest.importorskip("datatrove")

from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

import data_prep.demo
from data_prep.corpus.words import Words
from data_prep.text.clean_rules import PRESETS, first_broken
from data_prep.text.languages.identify import Assumed
from data_prep.text.languages.rules import ENGLISH

OUR_NAMES = {
    "gopher_short_doc": {"too short"},
    "gopher_too_many_hashes": {"many symbols"},
    "gopher_too_many_ellipsis": {"many symbols"},
    "gopher_too_many_bullets": {"bullet points"},
    "gopher_too_many_end_ellipsis": {"unfinished lines"},
    "gopher_enough_stop_words": {"no stop words"},
}
"""Rules of Gopher that we have one for one; that for letters we count by character, for the sake of Chinese."""


def spoilt(text: str, way: int, generator: random.Random) -> str:
    """The text, or what is left of it."""
    words = text.split(" ")
    if way == 0:
        return " ".join(words[: generator.randrange(5, 60)])
    if way == 1:
        return text + " #tag" * generator.randrange(0, 60)
    if way == 2:
        return "\n".join(("- " if generator.random() < 0.95 else "") + line for line in text.split(". "))
    if way == 3:
        share = generator.random()
        return "\n".join(line + ("..." if generator.random() < share else ".") for line in text.split(". "))
    if way == 4:
        kept = generator.sample(sorted(ENGLISH.stop_words), generator.randrange(4))
        return " ".join(word for word in words if word.lower() not in ENGLISH.stop_words or word in kept)
    if way == 5:
        return text + "\n" + "\n".join([f"{words[0]} again and again this is the line"] * generator.randrange(40))
    return text


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Pieces of English books, whole and spoilt, without what datatrove minds and we do not: capitals, blank lines."""
    generator = random.Random(0)
    pieces: list[str] = []
    with gzip.open(Path(data_prep.demo.__file__).parent / "en.jsonl.gz") as lines:
        for line in lines:
            text = "\n".join(row for row in json.loads(line)["text"].lower().splitlines() if row.strip())
            pieces += [text[begin : begin + 1200] for begin in range(0, min(len(text), 7200), 1200)]
    return [spoilt(piece, number % 7, generator) for number, piece in enumerate(pieces)]


def verdict(step: GopherQualityFilter | GopherRepetitionFilter, text: str) -> str | None:
    found = step.filter(Document(text=text, id="0"))
    return None if found is True else str(found[1])


def test_rules_of_gopher_are_broken_by_the_same_texts(texts: list[str]) -> None:
    theirs = GopherQualityFilter(min_doc_words=20, max_non_alpha_words_ratio=None, language=Words())
    # In the order in which datatrove asks: a text may break several rules, and the first is named.
    ours = [rule for rule in PRESETS["prose"] if rule.name in set().union(*OUR_NAMES.values())]
    seen = set()
    unequal = []
    for text in texts:
        expected, found = verdict(theirs, text), first_broken(text, ours, identify=Assumed("en"))
        seen.add(found)
        if (found is None) != (expected is None) or (expected and found not in OUR_NAMES[expected]):
            unequal.append((expected, found, text))
    assert seen == {None, *set().union(*OUR_NAMES.values())}
    # What is left are texts at a border: for datatrove every sign of punctuation is a word in "symbols per word".
    assert len(unequal) <= len(texts) * 0.02, [case[:2] for case in unequal]


def test_repeated_lines_are_those_of_gopher(texts: list[str]) -> None:
    theirs = GopherRepetitionFilter(top_n_grams=(), dup_n_grams=(), language=Words())
    ours = [rule for rule in PRESETS["prose"] if rule.name == "repeated lines"]
    pairs = [
        (verdict(theirs, text) is None, first_broken(text, ours, identify=Assumed("en")) is None) for text in texts
    ]
    assert sum(one != other for one, other in pairs) <= len(texts) * 0.01
    assert {one for one, _ in pairs} == {True, False}
