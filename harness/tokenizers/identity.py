"""Says whether two tokenizers are the same: by what they do, and not by how their files are written.

Two files of one kind are the same tokenizer if every id stands for the same piece and the rules by which text becomes
ids are the same: merges or scores, normalization, splitting, and which ids are control symbols. Two files of different
kinds (a SentencePiece model and the tokenizer.json made of it) have no rules in common: they are the same if the pieces
are, and a fixed set of texts becomes the same ids.

A tokenizer has *grown* from another one if it begins with all of its pieces: its further ids are new, the old ones mean
what they meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import xxhash

from harness.tokenizers.pieces import Piece
from harness.tokenizers.tokenizer import Tokenizer

Relation = Literal["same", "grown", "other"]

OTHER_TOKENIZERS = "other_tokenizers"
"""Key of a checkpoint's fingerprint for further tokenizers of a model's folder, beside `tokenizer`."""
_known: WeakKeyDictionary[Tokenizer, TokenizerIdentity] = WeakKeyDictionary()
"""Identities of open tokenizers: one does not change, and is compared with every channel."""
_NUM_PIECES_ENCODED = 4096
_TEXTS = (
    "hello world",
    " leading, trailing ",
    "two  spaces,\ttab\nline\n\n  break\r\n",
    "Don't STOP: I'll say 'tis 3.14159, 2026-11-28, 1,000,000.",
    "def f(x: int) -> str:\n    return f'{x!r}'  # 中文 12345\n",
    "你好，世界。漢字かな交じり文 한국어",
    "Ωé 🙂 \u200d ½ ﬁ １２３ Å e\u0301 ΑΒΓ straße",
)


@dataclass(frozen=True, kw_only=True)
class TokenizerIdentity:
    """A tokenizer as a channel, a run, a checkpoint and an export record it."""

    file: str
    """Name of its file, for people."""
    xxh3: str
    """xxh3 of that file. Records of earlier versions have nothing else."""
    vocab_size: int
    kind: str | None = None
    pieces: str | None = None
    """xxh3 of the pieces in order of their ids."""
    rules: str | None = None
    """xxh3 of everything else that decides about the ids of a text."""
    encodes: str | None = None
    """xxh3 of the ids of a fixed set of texts."""

    def as_json(self) -> dict[str, Any]:
        """Return the record, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def is_same_as(self, other: TokenizerIdentity) -> bool:
        """Return whether both are the same tokenizer. Without pieces in both records: whether it is the same file."""
        if self.xxh3 == other.xxh3:
            return True
        if self.pieces is None or self.pieces != other.pieces or self.vocab_size != other.vocab_size:
            return False
        return self.rules == other.rules if self.kind == other.kind else self.encodes == other.encodes

    def __str__(self) -> str:
        number = self.pieces or self.xxh3
        return f"{self.file} with {self.vocab_size:,} ids (identity {number[:8]}{(self.rules or '')[:4]})"


def recorded_identity(record: object) -> TokenizerIdentity | None:
    """Return the identity that a record of a tokenizer holds; None if it is no such record."""
    if not isinstance(record, Mapping):
        return None
    names = TokenizerIdentity.__dataclass_fields__
    kinds = {name: int if name == "vocab_size" else str for name in names}
    known: dict[str, Any] = {name: record[name] for name, kind in kinds.items() if type(record.get(name)) is kind}
    return TokenizerIdentity(**known) if {"file", "xxh3", "vocab_size"} <= known.keys() else None


def recorded_tokenizers(fingerprint: Mapping[str, Any]) -> tuple[TokenizerIdentity, ...]:
    """Return the tokenizers of a checkpoint: the run's own; of a converted model all that were in its folder."""
    others = fingerprint.get(OTHER_TOKENIZERS)
    records = (fingerprint.get("tokenizer"), *(others if isinstance(others, list | tuple) else ()))
    return tuple(found for record in records if (found := recorded_identity(record)) is not None)


def identity_of(tokenizer: Tokenizer) -> TokenizerIdentity:
    """Return the identity of an open tokenizer."""
    if tokenizer not in _known:
        found = recorded_identity(tokenizer.tried)
        _known[tokenizer] = found or identity_from(tokenizer, tokenizer.pieces(), tokenizer.rules())
    return _known[tokenizer]


def identity_from(tokenizer: Tokenizer, pieces: Sequence[Piece], rules: object) -> TokenizerIdentity:
    """Return the identity of an open tokenizer of given pieces and rules. Takes seconds for 150,000 ids."""
    return TokenizerIdentity(
        file=tokenizer.path.name,
        xxh3=tokenizer.file_hash,
        vocab_size=tokenizer.vocab_size,
        kind=tokenizer.kind,
        pieces=_digest_of_pieces(pieces),
        rules=_digest(rules),
        encodes=_digest(tokenizer.encode_documents(list(_texts(pieces)))),
    )


def relation_to(recorded: TokenizerIdentity, tokenizer: Tokenizer) -> Relation:
    """Return what an open tokenizer is to a recorded one: the same, grown from it, or another one."""
    if recorded.xxh3 == tokenizer.file_hash or recorded.is_same_as(identity_of(tokenizer)):
        return "same"
    if recorded.pieces is None or recorded.vocab_size >= tokenizer.vocab_size:
        return "other"
    begins = _digest_of_pieces(tokenizer.pieces()[: recorded.vocab_size])
    return "grown" if begins == recorded.pieces else "other"


def difference(recorded: TokenizerIdentity, tokenizer: Tokenizer) -> str:
    """Return in words by what an open tokenizer is another one than a recorded one."""
    now = identity_of(tokenizer)
    if recorded.pieces is None:
        return (
            f"the record knows only the hash of the file ({recorded.xxh3}), and {tokenizer.path} has {now.xxh3}: give "
            "that very file"
        )
    if recorded.vocab_size != now.vocab_size:
        return f"it had {recorded.vocab_size:,} ids, {tokenizer.path} has {now.vocab_size:,}, and they differ"
    if recorded.pieces != now.pieces:
        return f"{tokenizer.path} has as many ids ({now.vocab_size:,}), but they stand for other pieces"
    return f"{tokenizer.path} has the same pieces, but other merges, scores, normalization or splitting of text"


def _digest_of_pieces(pieces: Sequence[Piece]) -> str:
    digest = xxhash.xxh3_64()
    for content, is_control in pieces:
        digest.update(b"%d:%d:%b" % (is_control, len(content), content))
    return digest.hexdigest()


def _digest(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_64_hexdigest(text.encode())


def _texts(pieces: Sequence[Piece]) -> Iterator[str]:
    """Yield fixed texts, texts of pieces, and pairs of those, none of them with the spelling of a control symbol."""
    spelt = [_decoded(piece.content) for piece in pieces if not piece.is_control and piece.content]
    words = [text for text in spelt if text is not None][:: len(spelt) // _NUM_PIECES_ENCODED + 1]
    symbols = [symbol for piece in pieces if piece.is_control and (symbol := _decoded(piece.content))]
    for text in (*_TEXTS, *words, *map("".join, zip(words[::3], words[1::3], strict=False))):
        if not any(symbol in text for symbol in symbols[:256]):
            yield text


def _decoded(content: bytes) -> str | None:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None
