"""Facts about a language by which its prose is judged: the words that nearly every text has, and their length."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

LEAST_STOP_WORDS = 2
"""Different stop words that a text of some length has (Rae et al. 2021, appendix A)."""


@dataclass(frozen=True)
class LanguageRules:
    """A row of the table."""

    stop_words: frozenset[str]
    mean_word_length: tuple[float, float]
    """Least and most letters of a word, in the mean of a text."""
    is_agglutinated: bool = False
    """True if stop words stand inside longer words."""


ENGLISH = LanguageRules(frozenset(("the", "be", "to", "of", "and", "that", "have", "with")), (3, 10))
"""As Gopher has it."""
_CHINESE = LanguageRules(frozenset("的是了在不有人这我他也就之其而以与何"), (1, 5))
_AGGLUTINATED = ("ko",)


@cache
def known_languages() -> Mapping[str, LanguageRules]:
    """Return the table, by the code that identifiers use: ISO 639-1 where there is one, and ISO 639-3."""
    entries = json.loads(files(__package__).joinpath("rules.json").read_text(encoding="utf-8"))  # noqa: TID251 (ours)
    found = {"en": ENGLISH, "zh": _CHINESE, "eng": ENGLISH, "cmn": _CHINESE}
    for code, entry in entries.items():
        least, most = entry["mean_word_length"]
        words = frozenset(unicodedata.normalize("NFC", word) for word in entry["stop_words"])
        if len(words) < LEAST_STOP_WORDS:
            continue
        rules = LanguageRules(words, (least, most), is_agglutinated=code in _AGGLUTINATED)
        found[code] = rules
        found.setdefault(entry["iso_639_3"], rules)
    return found
