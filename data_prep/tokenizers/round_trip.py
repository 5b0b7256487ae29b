"""Finds what text loses on its way through a tokenizer: encode, decode, and count the characters that do not come back.

A character is lost if the decoded text has it less often. So a tokenizer that changes case, white space or wide forms
is found as well as one that does not know a character; a space that is added before a text is no loss.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.tokenizers.tokenizer import Tokenizer

EXAMPLES = 3
CHARACTERS_SHOWN = 8
CONTEXT = 12
LOSS_ADVICE = (
    "Take a tokenizer that keeps text as it is: byte-level BPE, or SentencePiece with byte fallback and without "
    "normalization, as `harness data train-tokenizer` makes them. Or run the same command with a larger "
    "--max-lost-share to accept the loss."
)


@dataclass(kw_only=True)
class RoundTrip:
    """The loss of some documents."""

    characters: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    """Tokens that stand for no text: the unknown symbol, above all."""
    lost: Counter[str] = field(default_factory=Counter)
    """Characters that do not come back, and how often."""
    gained: Counter[str] = field(default_factory=Counter)
    """Characters that come back in their place."""
    changed_documents: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Pieces of text around a first difference, and what became of them."""

    @property
    def lost_share(self) -> float:
        """Characters that do not come back, as a share of all."""
        return self.lost.total() / self.characters if self.characters else 0.0

    @property
    def worst_share(self) -> float:
        """The larger of the shares of lost characters and of tokens that stand for no text."""
        return max(self.lost_share, self.unknown_tokens / self.tokens if self.tokens else 0.0)

    def describe(self) -> str:
        """Return in a few lines what is lost."""
        lines = [
            f"{self.lost_share:.2%} of the characters of the sample do not come back "
            f"({self.lost.total():,} of {self.characters:,}, in {self.changed_documents:,} documents), and "
            f"{self.unknown_tokens:,} of {self.tokens:,} ids stand for unknown text",
            *(f"  lost: {reason}" for reason in self._reasons()),
            *(f"  {before!r} comes back as {after!r}" for before, after in self.examples),
        ]
        return "\n".join(lines)

    def _reasons(self) -> Iterator[str]:
        """Yield the kinds of loss, with the most frequent characters of each."""
        by_kind: dict[str, Counter[str]] = {}
        for character, count in self.lost.items():
            by_kind.setdefault(self._kind(character), Counter())[character] = count
        for kind, found in sorted(by_kind.items(), key=lambda entry: -entry[1].total()):
            shown = ", ".join(
                f"{character!r} {count:,} times" for character, count in found.most_common(CHARACTERS_SHOWN)
            )
            yield f"{kind}: {shown}"

    def _kind(self, character: str) -> str:
        if character.isspace():
            return "white space"
        if character.lower() != character and self.gained[character.lower()[0]]:
            return "capital letters, which become small ones"
        simpler = unicodedata.normalize("NFKC", character)
        if simpler != character and self.gained[simpler[0]]:
            return "characters that are replaced by simpler ones (normalization)"
        return "characters that the vocabulary does not have"


def lost_characters(text: str, decoded: str) -> Counter[str]:
    """Return the characters of a text that the decoded text has less often."""
    return Counter() if text == decoded else Counter(text) - Counter(decoded)


def round_trip(documents: Sequence[str], tokenizer: Tokenizer) -> RoundTrip:
    """Encode and decode documents with the tokenizer's own library."""
    found = RoundTrip()
    no_text = {number for number, piece in enumerate(tokenizer.pieces()) if piece.is_control}
    for text, ids in zip(documents, tokenizer.encode_documents(list(documents)), strict=True):
        found.characters += len(text)
        found.tokens += len(ids)
        found.unknown_tokens += sum(token in no_text for token in ids)
        decoded = tokenizer.decode(ids)
        if decoded == text:
            continue
        lost = lost_characters(text, decoded)
        found.changed_documents += bool(lost)
        found.lost += lost
        found.gained += lost_characters(decoded, text)
        if lost and len(found.examples) < EXAMPLES:
            example = _around_difference(text, decoded)
            found.examples += [example] if example not in found.examples else []
    return found


def _around_difference(text: str, decoded: str) -> tuple[str, str]:
    place = next((n for n, (one, other) in enumerate(zip(text, decoded, strict=False)) if one != other), len(decoded))
    begin = max(0, place - CONTEXT)
    return text[begin : place + CONTEXT], decoded[begin : place + CONTEXT]
