"""The strings by which a vocabulary spells a word: behind a space, and behind a bracket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from data_prep.text.scripts import WITHOUT_SPACES

_LETTER, _BRACKET = "a", "("
"""Text before a word with a space between, and without."""


def forms_of(words: Sequence[str], cut: Callable[[str], list[str]]) -> list[str]:
    """Return the strings that should become one token each, for all words, in order and each once.

    A word of a script without spaces stands behind none. A tokenizer that cuts a word before it looks for pieces has
    a string for each part: many cut at the vowel signs of Thai or Hindi.

    Args:
        words: The words.
        cut: Normalizes a text, and cuts it into the strings within which pieces are looked for.
    """
    return list(dict.fromkeys(form for word in words for form in _forms(word, cut)))


def is_behind_space(word: str) -> bool:
    """Return whether a word usually stands behind a space."""
    return WITHOUT_SPACES.search(word) is None


def in_context(word: str, *, space: bool) -> str:
    """Return a text that ends with a word, behind a space or not."""
    return f"{_LETTER} {word}" if space else f"{_BRACKET}{word}"


def _forms(word: str, cut: Callable[[str], list[str]]) -> Iterator[str]:
    if is_behind_space(word):
        yield from _behind(_LETTER, in_context(word, space=True), cut)
    yield from _behind(_BRACKET, in_context(word, space=False), cut)


def _behind(before: str, text: str, cut: Callable[[str], list[str]]) -> Iterator[str]:
    """Yield the strings of a text behind those of its begin."""
    known, strings = "".join(cut(before)), cut(text)
    left = len(known)
    for string in strings:
        rest = string[left:] if left < len(string) else ""
        left = max(0, left - len(string))
        if rest:
            yield rest
