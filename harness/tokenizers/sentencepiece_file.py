"""A tokenizer from a SentencePiece model (BPE or unigram)."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from harness.tokenizers.document_symbols import (
    SETTINGS_FILE,
    DocumentSymbols,
    HasDocumentSymbols,
    Symbol,
    begins_by_settings,
    find_symbols,
    named_in,
    read_settings,
)
from harness.tokenizers.native import encoded, explained
from harness.tokenizers.pieces import Piece, checked_size, piece_bytes, sizes_of
from harness.tokenizers.tokenizer_file import import_library


class SentencePieceTokenizer(HasDocumentSymbols):
    """A SentencePiece model (BPE or unigram)."""

    kind = "sentencepiece"

    def __init__(self, path: Path, content: bytes) -> None:
        library = import_library("sentencepiece", path)
        with explained(path, "not a readable SentencePiece model", len(content)):
            if not content:  # the library takes nothing for "no model yet"
                raise ValueError("the file is empty")
            self._processor = library.SentencePieceProcessor(model_proto=content)
            _require_finite(self._processor)
        self.path = path
        self.file_hash = xxhash.xxh3_64_hexdigest(content)
        self._content = content
        self.vocab_size = checked_size(path, size := int(self._processor.get_piece_size()), size)
        self.symbols = self._find_symbols(read_settings(path))

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        return encoded(self.path, documents, self._encode)

    def _encode(self, documents: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._processor.encode(documents, num_threads=-1)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        with explained(self.path, "its library cannot decode"):
            return str(self._processor.decode([int(i) for i in ids]))

    def control_symbols(self) -> list[str]:
        """See `Tokenizer`."""
        processor = self._processor
        return [str(processor.id_to_piece(i)) for i in range(self.vocab_size) if processor.is_control(i)]

    def bytes_per_token(self) -> list[int]:
        """See `Tokenizer`."""
        return sizes_of(self.pieces())

    def pieces(self) -> list[Piece]:
        """See `Tokenizer`."""
        return [self._piece(i) for i in range(self.vocab_size)]

    def rules(self) -> object:
        """See `Tokenizer`."""
        model = import_library("sentencepiece.sentencepiece_model_pb2", self.path).ModelProto.FromString(self._content)
        normalizer = model.normalizer_spec
        return {
            "model": int(model.trainer_spec.model_type),
            "suffix": bool(model.trainer_spec.treat_whitespace_as_suffix),
            "pieces": [[int(piece.type), float(piece.score)] for piece in model.pieces],
            "characters": base64.b64encode(normalizer.precompiled_charsmap).decode(),
            "dummy_prefix": bool(normalizer.add_dummy_prefix),
            "extra_whitespaces": bool(normalizer.remove_extra_whitespaces),
            "escape_whitespaces": bool(normalizer.escape_whitespaces),
        }

    def _piece(self, token_id: int) -> Piece:
        processor = self._processor
        spelling = processor.id_to_piece(token_id)
        if processor.is_control(token_id) or processor.is_unknown(token_id) or processor.is_unused(token_id):
            return Piece(spelling.encode("utf-8"), is_control=True)
        return Piece(piece_bytes(spelling))

    def _find_symbols(self, settings: Mapping[str, Any]) -> DocumentSymbols:
        processor = self._processor
        ids = {name: int(processor.piece_to_id(name)) for name in self.control_symbols()}
        named = named_in(settings, "eos_token")
        if isinstance(named, str) and processor.id_to_piece(place := processor.piece_to_id(named)) == named:
            ids[named] = int(place)
        unknown_id, end = int(processor.unk_id()), int(processor.eos_id())
        own = None
        if end >= 0:
            own = Symbol(id=end, spelling=str(processor.id_to_piece(end)), reason="the model's own end of a sentence")
        symbols = find_symbols(
            self.path, ids, settings, own_end=own, unknown_id=unknown_id if unknown_id >= 0 else None
        )
        begin = int(processor.bos_id())
        if begin < 0 or not begins_by_settings(settings):
            return symbols
        reason = f"{SETTINGS_FILE} puts it before every text"
        return replace(symbols, begin=Symbol(id=begin, spelling=str(processor.id_to_piece(begin)), reason=reason))


def _require_finite(processor: Any) -> None:  # noqa: ANN401 (of SentencePiece)
    """Check the scores: with one that is no number the best way to write a text is not defined."""
    for number in range(processor.get_piece_size()):
        if not math.isfinite(processor.get_score(number)):
            raise ValueError(f"the score of piece {number} is {processor.get_score(number)}")
