r"""Writing systems: which characters are letters and marks, and which scripts set no spaces between words.

Python's `\w` leaves out the combining marks with which Thai, Hindi, Burmese or Khmer write their vowels, so a word
there is a letter or digit and what follows it, marks included.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Script:
    """A script whose words are not set apart by spaces."""

    name: str
    characters: str
    """Its characters, as the inside of a character class."""
    per_word: float
    """Letters that hold as much as an English word."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds a character of it."""
        return re.compile(f"[{self.characters}]")


_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"

# Letters and marks of the Universal Declaration of Human Rights in this language, for each of its 1,723 English words;
# for Chinese it is 1.49, and 1.6 in books (docs/data.md).
HAN = Script("Chinese", _HAN, 1.6)
JAPANESE = Script("Japanese", _KANA + _HAN, 2.2)
THAI = Script("Thai", "\u0e00-\u0e7f", 5.2)
LAO = Script("Lao", "\u0e80-\u0eff", 5.7)
KHMER = Script("Khmer", "\u1780-\u17ff\u19e0-\u19ff", 5.8)
BURMESE = Script("Burmese", "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f", 7.9)
TIBETAN = Script("Tibetan", "\u0f00-\u0fff", 5.3)
JAVANESE = Script("Javanese", "\ua980-\ua9df", 5.9)
TAI = Script("Tai", "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf", 5.2)
"""Tai Le, New Tai Lue, Tai Tham and Tai Viet; taken to be as dense as Thai."""

KANA = re.compile(f"[{_KANA}]")
SCRIPTS = (HAN, THAI, LAO, KHMER, BURMESE, TIBETAN, JAVANESE, TAI)
"""The scripts without spaces. Japanese is told from Chinese by its kana."""

_WITHOUT_SPACES = _KANA + "".join(script.characters for script in SCRIPTS)
WITHOUT_SPACES = re.compile(f"[{_WITHOUT_SPACES}]")
"""A character of a script that sets no spaces between words."""


def _marks() -> str:
    """Return the combining marks of all scripts but those without spaces, as the inside of a character class."""
    codes = [code for code in range(0x300, 0x1F000) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


MARKS = _marks()
MARK = re.compile(f"[{MARKS}]")
"""A combining mark."""
_JOINERS = "\u200c\u200d"
"""Of zero width, inside words of Persian and of scripts of India."""
_LETTER = rf"[^\W\d_{_WITHOUT_SPACES}]"
_LETTERS = rf"{_LETTER}+(?:[{MARKS}{_JOINERS}]+{_LETTER}*)*"
WORD = re.compile(rf"{_LETTERS}(?:['’-]{_LETTERS})*")
"""A word of a script with spaces: letters with their marks, joined by apostrophes and hyphens."""
_SIGN = rf"[^\W_{_WITHOUT_SPACES}]"
WORD_OR_NUMBER = rf"{_SIGN}+(?:[{MARKS}{_JOINERS}]+{_SIGN}*)*"
"""Pattern of a run of letters, digits and marks, of scripts with spaces."""
UNIT = re.compile(rf"[{_WITHOUT_SPACES}]|{WORD_OR_NUMBER}")
"""A character of a script without spaces, or a run of letters, digits and marks."""

_SPECIAL = re.compile(f"[{_WITHOUT_SPACES}{MARKS}{_JOINERS}]")
_PLAIN_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_PLAIN_UNIT = re.compile(r"[^\W_]+")


def is_plain(text: str) -> bool:
    """Return whether a text has neither marks nor letters of scripts without spaces, as most of English has."""
    return text.isascii() or not _SPECIAL.search(text)


def words_of(text: str) -> list[str]:
    """Return what `WORD` finds."""
    return (_PLAIN_WORD if is_plain(text) else WORD).findall(text)


def units_of(text: str) -> list[str]:
    """Return what `UNIT` finds."""
    return (_PLAIN_UNIT if is_plain(text) else UNIT).findall(text)


def script_of(text: str) -> Script | None:
    """Return the script without spaces that most of a text is written in; None if most of it has spaces."""
    counts = [(len(script.pattern.findall(text)), script) for script in SCRIPTS if script.pattern.search(text)]
    kana = len(KANA.findall(text))
    if kana:
        han = next((count for count, script in counts if script is HAN), 0)
        if kana > han / 9:  # Japanese prose is a third to two thirds kana; Chinese has them in names
            counts = [(count, script) for count, script in counts if script is not HAN] + [(han + kana, JAPANESE)]
    if not counts:
        return None
    count, script = max(counts, key=lambda each: each[0] / each[1].per_word)
    return script if count / script.per_word > len(WORD.findall(text)) else None
