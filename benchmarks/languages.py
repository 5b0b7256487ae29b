"""Measures data preparation in each of many languages: a table, from the shipped translations of one text.

    python -m benchmarks.languages

Kept: documents of about 900 letters that `clean --preset prose` keeps, all languages in one source. Lists: how many of
lists of words it drops, made of the documents by leaving out the frequent words. Near copies: how many of planted
copies `dedup` finds, in which 2 places were changed; and documents that are taken for copies and are none. Characters
per token: of a byte-level tokenizer of 8,192 ids trained on all of it, and with twenty frequent words added.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import data_prep.demo
from data_prep.corpus.fit import fitting_languages, measure_fit
from data_prep.corpus.near import choose_bands, minima
from data_prep.text.clean_rules import PRESETS, Text, judge
from data_prep.text.languages.identify import Identify, identifier
from data_prep.text.languages.rules import known_languages
from data_prep.text.scripts import UNIT, script_of
from data_prep.tokenizers.extend_tokenizer import extend
from data_prep.tokenizers.round_trip import round_trip
from data_prep.tokenizers.saving_words import saving_words
from data_prep.tokenizers.train_tokenizer import TrainerSettings, train
from harness.tokenizers.tokenizer import open_tokenizer

LETTERS = 900
"""Of a document; in Chinese and Japanese, and others as dense, as many as hold as much."""
THRESHOLD = 0.8
CHANGED_PLACES = 2
VOCABULARY = 8192
NEW_WORDS = 20

Documents = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Row:
    """Outcome of the documents of one language."""

    documents: int
    kept: int
    lists_dropped: int
    copies_found: int
    false_copies: int
    lost_characters: int
    characters_per_token: float
    with_added_words: float


def say(line: str) -> None:
    """Writes a line to the terminal."""
    sys.stdout.write(line + "\n")


def documents() -> Documents:
    """Return documents of each language: the preamble and the articles, joined up to a length."""
    sections = defaultdict(list)
    with gzip.open(Path(data_prep.demo.__file__).parent / "languages.jsonl.gz") as lines:
        for line in lines:
            record = json.loads(line)
            sections[record["language"]].append(record["text"])
    return {language: list(joined(texts)) for language, texts in sections.items()}


def joined(texts: Sequence[str]) -> Iterator[str]:
    """Yield texts of some length, made of short ones."""
    script = script_of("\n".join(texts))
    length = LETTERS * (script.per_word / 6 if script else 1)
    parts: list[str] = []
    for text in texts:
        parts.append(text)
        if sum(map(len, parts)) >= length:
            yield "\n".join(parts)
            parts = []


def kept(texts: Documents, identify: Identify) -> dict[str, Counter[str | None]]:
    """Return for each language how many documents every rule of `prose` drops, in one source; None if none does."""
    trusted = fitting_languages(measure_fit((text for each in texts.values() for text in each), identify))
    return {
        language: Counter(judge(Text(text, identify, trusted), PRESETS["prose"]).broken for text in each)
        for language, each in texts.items()
    }


def word_list(text: str, language: str) -> str:
    """Return a text without the frequent words of its language."""
    text = unicodedata.normalize("NFC", text)
    frequent = known_languages()[language].stop_words
    if script_of(text):
        return re.sub("|".join(map(re.escape, sorted(frequent, key=len, reverse=True))), "", text)
    return " ".join(word for word in re.split(r"\s+", text) if not set(UNIT.findall(word.lower())) & frequent)


def lists_dropped(texts: Documents, identify: Identify) -> dict[str, int]:
    """Return how many lists of words are dropped, each language by the lists that fit its documents."""
    found = {}
    for language, each in texts.items():
        trusted = fitting_languages(measure_fit(each, identify))
        lists = [word_list(text, language) for text in each]
        judged = [judge(Text(text, identify, trusted), PRESETS["prose"]).broken for text in lists]
        found[language] = sum(broken is not None for broken in judged)
    return found


def changed(text: str, generator: random.Random) -> str:
    """Return a near copy: at some places, a word (or as many letters of a script without spaces) is another one."""
    script = script_of(text)
    units = [(match.start(), match.end()) for match in UNIT.finditer(text)]
    width = max(1, round(script.per_word)) if script else 1
    for place in sorted(generator.sample(range(len(units) // width), CHANGED_PLACES), reverse=True):
        begin, end = units[place * width][0], units[place * width + width - 1][1]
        other = generator.randrange(len(units) // width) * width
        text = text[:begin] + text[units[other][0] : units[other + width - 1][1]][::-1] + text[end:]
    return text


def meet(one: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether two documents have an equal band of minima."""
    bands = choose_bands(THRESHOLD)
    return any(
        list(one[begin : begin + bands.rows]) == list(other[begin : begin + bands.rows])
        for begin in range(0, bands.count * bands.rows, bands.rows)
    )


def copies(texts: Documents) -> dict[str, tuple[int, int]]:
    """Return for each language the planted copies that are found, and the pairs of others that meet."""
    found = {}
    for language, each in texts.items():
        generator = random.Random(1)
        pairs = [(minima(text), minima(changed(text, generator))) for text in each]
        others = ((a, b) for place, (a, _) in enumerate(pairs) for b, _ in pairs[:place])
        found[language] = (sum(meet(a, b) for a, b in pairs), sum(meet(a, b) for a, b in others))
    return found


def tokens(texts: Documents, folder: Path) -> dict[str, tuple[int, float, float]]:
    """Return for each language the characters that do not come back, and characters per token before and after."""
    file = folder / "tokenizer.json"
    settings = TrainerSettings(vocab_size=VOCABULARY, kind="byte-level")
    file.write_bytes(train((text for each in texts.values() for text in each), settings))
    original, found = open_tokenizer(file, needs_end=False), {}
    for language, each in texts.items():
        before, larger = round_trip(each, original), folder / f"{language}.json"
        words = saving_words(each, original, NEW_WORDS)
        larger.write_bytes(extend(original, words) if words else file.read_bytes())
        after = round_trip(each, open_tokenizer(larger, needs_end=False))
        lost = before.lost.total() + after.lost.total()
        found[language] = (lost, before.characters / before.tokens, after.characters / after.tokens)
    return found


def rows(texts: Documents) -> dict[str, Row]:
    """Return the table."""
    identify = identifier(None)
    cleaned, lists, near = kept(texts, identify), lists_dropped(texts, identify), copies(texts)
    with tempfile.TemporaryDirectory() as folder:
        spelt = tokens(texts, Path(folder))
    return {
        language: Row(len(each), cleaned[language][None], lists[language], *near[language], *spelt[language])
        for language, each in texts.items()
    }


def table(found: Mapping[str, Row]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| language | kept | lists of words dropped | near copies found | others taken for copies | characters lost | "
        "characters per token | with 20 words added |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for language, row in found.items():
        counts = (f"{count}/{row.documents}" for count in (row.kept, row.lists_dropped, row.copies_found))
        spelt = (row.lost_characters, f"{row.characters_per_token:.2f}", f"{row.with_added_words:.2f}")
        cells = (language, *counts, row.false_copies, *spelt)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    say(table(rows(documents())))
