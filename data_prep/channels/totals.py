"""Running totals while a channel is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Totals:
    """Running counts over the input, the part that an earlier, interrupted call has written included."""

    lines: int = 0
    rejected: int = 0
    """Lines that were no document; they are listed in `rejected.jsonl`."""
    documents: int = 0
    tokens: int = 0
    """Tokens written, the end-of-document tokens included."""
    characters: int = 0
    """Unicode characters of the documents."""
    split: int = 0
    """Documents that were longer than allowed and were cut into several."""
    dropped: int = 0
    """Documents that were longer than allowed and were left out."""

    @property
    def rejected_share(self) -> float:
        """Rejected lines, as a share of all lines read."""
        return self.rejected / self.lines if self.lines else 0.0

    @property
    def characters_per_token(self) -> float:
        """Mean number of characters in a token: the first number to look at in a tokenizer."""
        return self.characters / self.tokens if self.tokens else 0.0
