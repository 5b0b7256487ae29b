"""A tokenizer from a tiktoken file, which has a line for every token: its bytes in base64, and its id.

Such a file contains neither the splitting of text into words nor the control symbols. For published files both follow
from the name. For any other file they are in a file beside it, `NAME.tiktoken.json`:

    {"split": "cl100k", "special_tokens": {"<|endoftext|>": 100257}}

where `split` names a published way to split (`SPLITS`), or `pattern` is a regular expression; with `normalization`
(NFC, NFKC, NFD or NFKD) a text is brought into that form of Unicode first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import xxhash

from harness.errors import DataError
from harness.tokenizers.document_symbols import HasDocumentSymbols, find_symbols, read_settings, with_begin
from harness.tokenizers.native import encoded, explained, in_threads
from harness.tokenizers.pieces import GAP, MAX_IDS, Piece, checked_size, sizes_of
from harness.tokenizers.tokenizer_file import import_library, parse_described, read_file

_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_O200K = (
    _LETTERS
    + r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    + _LETTERS
    + r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + _LETTERS + r"\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS: Mapping[str, str] = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": _CL100K.replace("%s", "{1,3}"),
    "o200k": _O200K,
    "qwen2": _CL100K.replace("%s", ""),
}
"""Published ways to split text into words, by name."""

PUBLISHED_CONTENT: Mapping[str, str] = {
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": "r50k_base",
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": "p50k_base",
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": "cl100k_base",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": "o200k_base",
    "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186": "qwen",
}
"""SHA-256 of the published files: tiktoken keeps them under names that say nothing, others rename them."""

Form = Literal["NFC", "NFKC", "NFD", "NFKD"]
FORMS: tuple[Form, ...] = get_args(Form)

_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+")


@dataclass(frozen=True)
class Splitting:
    """The splitting of text and the control symbols, which a tiktoken file itself does not contain."""

    name: str | None
    """Name of the published split; None for a pattern of one's own."""
    pattern: str
    special_tokens: Mapping[str, int]
    normalization: Form | None = None
    """Form of Unicode into which a text is brought first."""


PUBLISHED: Mapping[str, Splitting] = {
    "r50k_base": Splitting("gpt2", SPLITS["gpt2"], {"<|endoftext|>": 50256}),
    "p50k_base": Splitting("gpt2", SPLITS["gpt2"], {"<|endoftext|>": 50256}),
    "cl100k_base": Splitting(
        "cl100k",
        SPLITS["cl100k"],
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": Splitting("o200k", SPLITS["o200k"], {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
    "qwen": Splitting(
        "qwen2", SPLITS["qwen2"], {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}, "NFC"
    ),
}


def is_tiktoken(content: bytes) -> bool:
    """Return whether a file is a tiktoken file, by its first line (Llama 3's is called `tokenizer.model`)."""
    return _LINE.fullmatch(content[:4096].partition(b"\n")[0].rstrip()) is not None


class TiktokenTokenizer(HasDocumentSymbols):
    """A tiktoken file."""

    kind = "tiktoken"

    def __init__(self, path: Path, content: bytes) -> None:
        library = import_library("tiktoken", path)
        self.path = path
        self.splitting, description = _find_splitting(path, content)
        self._ranks = _read_ranks(path, content, self.splitting.special_tokens)
        self._bytes = {rank: token for token, rank in self._ranks.items()}
        special = dict(self.splitting.special_tokens)
        taken = set(self._ranks.values()).intersection(special.values())
        if taken:
            raise DataError(
                f"tokenizer {path}: id {min(taken)} is a token of the file and a control symbol too. "
                f"Correct {description_file(path).name}."
            )
        with explained(path, "tiktoken does not take it"):
            self._encoding = library.Encoding(
                path.stem, pat_str=self.splitting.pattern, mergeable_ranks=self._ranks, special_tokens=special
            )
        self.file_hash = xxhash.xxh3_64_hexdigest(content + description)
        self.vocab_size = checked_size(path, int(self._encoding.max_token_value) + 1, len(self._ranks) + len(special))
        self.symbols = with_begin(
            find_symbols(path, special, read_settings(path)),
            special,
            "<|begin_of_text|>",
            "models that have it begin every text with it",
        )

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        return encoded(self.path, documents, self._encode)

    def _encode(self, documents: list[str]) -> list[list[int]]:
        # Not the library's own batch, whose threads keep the process from ending.
        return in_threads(self._encoding.encode_ordinary, self.normalized(documents), os.cpu_count() or 1)

    def normalized(self, documents: list[str]) -> list[str]:
        """Return documents as they are split: in the form of Unicode of this tokenizer."""
        form = self.splitting.normalization
        return documents if form is None else [unicodedata.normalize(form, document) for document in documents]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        return b"".join(self._bytes.get(int(i), b"") for i in ids).decode("utf-8", errors="replace")

    def control_symbols(self) -> list[str]:
        """See `Tokenizer`."""
        return list(self.splitting.special_tokens)

    def bytes_per_token(self) -> list[int]:
        """See `Tokenizer`."""
        return sizes_of(self.pieces())

    def pieces(self) -> list[Piece]:
        """See `Tokenizer`."""
        pieces = [GAP] * self.vocab_size
        for token, rank in self._ranks.items():
            pieces[rank] = Piece(token)
        for symbol, rank in self.splitting.special_tokens.items():
            pieces[rank] = Piece(symbol.encode("utf-8"), is_control=True)
        return pieces

    def rules(self) -> object:
        """See `Tokenizer`. What is merged follows from the pieces."""
        return {"pattern": self.splitting.pattern, "normalization": self.splitting.normalization}


def description_file(path: Path) -> Path:
    """Return the place of the file that describes a tiktoken file further."""
    return path.with_name(path.stem + ".tiktoken.json")


def _find_splitting(path: Path, ranks: bytes) -> tuple[Splitting, bytes]:
    """Return the splitting that the file beside it describes, with that file's bytes; else the published one."""
    beside = description_file(path)
    if beside.is_file():
        content = read_file(beside)
        return _read_splitting(beside, content), content
    name = PUBLISHED_CONTENT.get(hashlib.sha256(ranks).hexdigest())
    if name is not None:
        return PUBLISHED[name], name.encode()
    if path.stem in PUBLISHED:
        raise DataError(
            f"tokenizer {path}: it is called like a published file, and has other content: it may be truncated or "
            f"altered. Fetch it again; if it is meant so, say in {beside} how it splits text."
        )
    raise DataError(
        f"tokenizer {path}: a tiktoken file does not say how to split text, and this is none of the published "
        f"ones ({', '.join(PUBLISHED)}). Write {beside} with "
        '{"split": NAME, "special_tokens": {"<|endoftext|>": ID}}; NAME is one of '
        f'{", ".join(SPLITS)}, or give a regular expression as "pattern" in its place.'
    )


def _read_splitting(file: Path, content: bytes) -> Splitting:
    try:
        description = parse_described(content)
        name, pattern = description.get("split"), description.get("pattern")
        special = _special(description["special_tokens"])
        if (name is None) == (pattern is None) or not (name is None or (isinstance(name, str) and name in SPLITS)):
            raise ValueError(f"it needs either a pattern or a split of {', '.join(SPLITS)}")
        form = description.get("normalization")
        if form is not None and form not in FORMS:
            raise ValueError(f"normalization is {form!r}; allowed are {', '.join(FORMS)}")
        if name is None and not isinstance(pattern, str):
            raise ValueError("its pattern is no text")
        return Splitting(name, pattern if name is None else SPLITS[name], special, form)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"tokenizer {file}: does not describe a tiktoken file ({type(error).__name__}: {error}). It has to look "
            'like {"split": "cl100k", "special_tokens": {"<|endoftext|>": 100257}}.'
        ) from error


def _special(described: Mapping[str, object]) -> dict[str, int]:
    """Return the ids of control symbols.

    Raises:
        ValueError: One is no id, or two are the same.
    """
    special: dict[str, int] = {}
    for symbol, rank in described.items():
        if type(rank) is not int or not 0 <= rank < MAX_IDS:
            raise ValueError(f"the id of {symbol!r} must be a whole number from 0 to {MAX_IDS - 1:,}")
        if not symbol or rank in special.values():
            raise ValueError(f"the id {rank} belongs to two control symbols" if symbol else "a control symbol is empty")
        special[symbol] = rank
    return special


def _read_ranks(path: Path, content: bytes, special: Mapping[str, int]) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            if not rank.isdigit() or int(rank) >= MAX_IDS:
                raise ValueError(f"the id must be a whole number from 0 to {MAX_IDS - 1:,}")
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise DataError(
                f"tokenizer {path}: line {number} is not a token in base64 and an id ({error}). The file may be "
                "truncated, or a Git LFS pointer: fetch it again."
            ) from error
    gap = sorted(set(range(len(ranks))) - set(ranks.values()) - set(special.values()))
    if len(set(ranks.values())) < sum(1 for line in content.splitlines() if line) or gap:
        raise DataError(
            f"tokenizer {path}: {f'id {gap[0]} has no token' if gap else 'a token or an id occurs twice'}. The file is "
            "damaged: fetch it again."
        )
    if b"" in ranks:
        raise DataError(f"tokenizer {path}: id {ranks[b'']} stands for no text. The file is damaged: fetch it again.")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise DataError(
            f"tokenizer {path}: byte 0x{missing[0]:02x} has no id, so not every text can be encoded. The file is "
            "incomplete: fetch it again."
        )
    return ranks
