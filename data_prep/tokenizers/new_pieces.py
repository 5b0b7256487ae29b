"""Finds the pieces that a vocabulary needs, and the merges, so that given strings become one token each.

Pure functions of a vocabulary; `extend_json` and `extend_sentencepiece` read and write the files. A string is what the
vocabulary spells: bytes as characters in a byte-level one, `▁` for a space in others.

Byte-pair encoding joins, of all neighbours in a string, those of the lowest rank first (Sennrich et al. 2016). So joins
that come after all others leave every token of a text as it is that none of them concerns. A unigram vocabulary takes
the pieces with the largest sum of scores (Kudo 2018). So a piece whose score is just above the sum of those that it
replaces changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Join = tuple[str, str]
MARGIN = 0.01
"""Natural logarithm by which a new piece of a unigram vocabulary is likelier than those that it replaces."""
_UNKNOWN = 10.0
"""By how much a character without a piece is less likely than any piece, as SentencePiece has it."""


@dataclass
class PairVocabulary:
    """A vocabulary of byte-pair encoding that grows."""

    pieces: set[str]
    rank_of: Callable[[str, str], int | float | None]
    """Rank of two neighbours among the joins that were there before; None if they are not joined."""
    any_split: bool = False
    """True if a piece is made of whatever two pieces spell it, as SentencePiece does, and not only of its own two."""
    new_pieces: list[str] = field(default_factory=list)
    new_joins: list[Join] = field(default_factory=list)
    _new_ranks: dict[Join | str, int] = field(default_factory=dict)

    def tokens(self, string: str) -> list[str]:
        """Return the pieces of a string. A character that has none is a piece of its own."""
        pieces = list(string)
        while len(pieces) > 1:
            ranks = [self._rank(*pair) for pair in pairwise(pieces)]
            best = min((rank for rank in ranks if rank is not None), default=None)
            if best is None:
                break
            one, other = pieces[ranks.index(best) :][:2]
            pieces = _joined(pieces, one, other)
        return pieces

    def add(self, string: str) -> None:
        """Make one token of a string, by as few new pieces as its present ones allow."""
        for character in string:
            self._note(character)
        pieces = self.tokens(string)
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            one, other = next((pair for pair in pairs if "".join(pair) in self.pieces), pairs[0])
            self._note(one + other)
            key: Join | str = one + other if self.any_split else (one, other)
            self._new_ranks[key] = len(self._new_ranks)
            self.new_joins.append((one, other))
            pieces = self.tokens(string)

    def _note(self, piece: str) -> None:
        if piece not in self.pieces:
            self.pieces.add(piece)
            self.new_pieces.append(piece)

    def _rank(self, one: str, other: str) -> tuple[int, float] | None:
        """Return the rank of a pair: those from before come first."""
        rank = self.rank_of(one, other)
        if rank is not None:
            return (0, rank)
        key: Join | str = one + other if self.any_split else (one, other)
        new = self._new_ranks.get(key)
        return None if new is None else (1, new)


def _joined(pieces: Sequence[str], one: str, other: str) -> list[str]:
    """Return the pieces with every such pair of neighbours joined, from the left."""
    found: list[str] = []
    for piece in pieces:
        if found and found[-1] == one and piece == other:
            found[-1] = one + other
        else:
            found.append(piece)
    return found


@dataclass
class UnigramVocabulary:
    """A unigram vocabulary that grows."""

    scores: dict[str, float]
    """Natural logarithm of the probability of each piece."""
    new_pieces: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._longest = max(map(len, self.scores), default=1)
        self._unknown = min(self.scores.values(), default=0.0) - _UNKNOWN

    def tokens(self, string: str) -> list[str]:
        """Return the likeliest pieces of a string. A character that has none is a piece of its own."""
        return self._best(string)[1]

    def add(self, string: str) -> None:
        """Make one token of a string."""
        score, pieces = self._best(string)
        if pieces == [string] and string in self.scores:
            return
        self.scores[string] = score + MARGIN
        self._longest = max(self._longest, len(string))
        self.new_pieces.append(string)

    def _best(self, string: str) -> tuple[float, list[str]]:
        """Return the largest sum of scores, and its pieces (Viterbi)."""
        best: list[tuple[float, int]] = [(0.0, 0)]  # by end: sum up to here, begin of the last piece
        for end in range(1, len(string) + 1):
            options = []
            for begin in range(max(0, end - self._longest), end):
                score = self.scores.get(string[begin:end], self._unknown if end - begin == 1 else None)
                if score is not None:
                    options.append((best[begin][0] + score, begin))
            best.append(max(options))
        pieces, end = [], len(string)
        while end:
            begin = best[end][1]
            pieces.append(string[begin:end])
            end = begin
        return best[-1][0], pieces[::-1]


@dataclass
class WholeWords:
    """A vocabulary that looks for whole words first: WordPiece and lists of words."""

    pieces: set[str]
    new_pieces: list[str] = field(default_factory=list)

    def add(self, string: str) -> None:
        """Make one token of a string."""
        if string not in self.pieces:
            self.pieces.add(string)
            self.new_pieces.append(string)


Vocabulary = PairVocabulary | UnigramVocabulary | WholeWords


def add_all(vocabulary: Vocabulary, strings: Iterable[str]) -> None:
    """Make one token of each string: short ones first, of which longer ones may be made."""
    for string in sorted(dict.fromkeys(strings), key=len):
        vocabulary.add(string)


def ranks_of_merges(merges: Sequence[Join]) -> Callable[[str, str], int | None]:
    """Return the rank of a pair by its place in a list of merges."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    return lambda one, other: ranks.get((one, other))


def ranks_of_scores(scores: Mapping[str, float]) -> Callable[[str, str], float | None]:
    """Return the rank of a pair by the score of the piece that it makes: the largest score comes first."""

    def rank(one: str, other: str) -> float | None:
        score = scores.get(one + other)
        return None if score is None else -score

    return rank
