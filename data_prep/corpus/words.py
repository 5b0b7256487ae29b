"""Cuts text of any language into words and sentences, for the steps of datatrove.

A letter of a script without spaces is a word. datatrove's own splitters need a package per language and read 0.2 to 0.4
MB/s; it takes any splitter of this interface in their place.
"""

from __future__ import annotations

import re

from datatrove.utils.word_tokenizers import WordTokenizer

from data_prep.text.scripts import WITHOUT_SPACES, WORD_OR_NUMBER

# A word with its apostrophes and hyphens, a number, a letter of a script without spaces, or a run of signs.
_WORD = re.compile(rf"{WITHOUT_SPACES.pattern}|{WORD_OR_NUMBER}(?:['’-]{WORD_OR_NUMBER})*|[^\w\s]+")
# Up to a sign that ends a sentence (of Chinese; of Hindi, Tibetan, Burmese, Khmer, Ethiopic, Armenian, Arabic, Urdu;
# of English) and the quotes behind it, or to the end of the line.
_SENTENCE = re.compile(r"[^\n]*?(?:[。！？…；]+[”’」』）]*|[।॥།༎။។៕።։؟۔]+|[.!?]+[\"'”’)\]]*(?=\s|$)|(?=\n|$))\n*", re.M)


class Words(WordTokenizer):  # type: ignore[misc] # datatrove has no types
    """Words and sentences by regular expressions. Equal to every other one, so that datatrove keeps only one."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Words)

    def __hash__(self) -> int:
        return hash(Words)

    def word_tokenize(self, text: str) -> list[str]:
        """Return the words of a text, in order; spaces do not count."""
        return _WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Return the sentences of a text, without the spaces around them."""
        return [text[begin:end].strip() for begin, end in self.span_tokenize(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Return begin and end of each sentence; together they cover the whole text."""
        ends = [match.end() for match in _SENTENCE.finditer(text) if match.group().strip()]
        if not ends:
            return [(0, len(text))] if text else []
        ends[-1] = len(text)
        return list(zip([0, *ends[:-1]], ends, strict=True))
