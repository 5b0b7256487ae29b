"""A SentencePiece model as a `tokenizer.json`, which transformers reads; only if both give the same ids.

transformers reads a `.model` by rules of its own: it adds symbols beyond the vocabulary and a space before every text.
So the file is translated here, and what was translated is held against SentencePiece itself: on every piece of the
vocabulary and on texts with spaces, line breaks, several scripts and characters that no piece covers.
"""

from __future__ import annotations

import base64
import importlib
import json
from typing import Any

from checkpoint_tools.translation import opened_translation, without_markers
from harness.tokenizers.tokenizer import Tokenizer

_SPACE = "▁"
_UNIGRAM, _BPE = 1, 2
_PROBES = (
    "hello world",
    " leading, trailing ",
    "two  spaces,\ttab\nline\n\n  break",
    "def f(x: int) -> str:\n    return f'{x!r}'  # 中文\n",
    "你好，世界。漢字かな交じり文 한국어",
    "Ωé 🙂 \u200d ½ ﬁ １２３ Å",
    "<0x41> ▁",
    "x",
)


def as_tokenizer_json(content: bytes) -> str | None:
    """Return the `tokenizer.json` of a SentencePiece `.model`; None if it cannot be expressed with the same ids."""
    library = importlib.import_module("sentencepiece")
    processor = library.SentencePieceProcessor(model_proto=content)
    model = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto.FromString(content)
    is_unigram, rules = model.trainer_spec.model_type == _UNIGRAM, model.normalizer_spec
    if not (is_unigram or model.trainer_spec.model_type == _BPE) or not rules.escape_whitespaces:
        return None
    if rules.remove_extra_whitespaces and not is_unigram:
        return None
    text = json.dumps(_description(processor, rules, is_unigram), ensure_ascii=False)
    translated = opened_translation(text)
    return text if translated is not None and _agree(processor, translated) else None


def _agree(processor: Any, translated: Tokenizer) -> bool:  # noqa: ANN401 (of SentencePiece)
    ids = [number for number in range(processor.get_piece_size()) if _is_text(processor, number)]
    pieces = [processor.id_to_piece(number).replace(_SPACE, " ") for number in ids]
    texts = [*_PROBES, *pieces, *(a + b for a, b in zip(pieces[::7], pieces[3::7], strict=False)), " ".join(pieces)]
    # Markers of the tokenizer itself are spelt out in a corpus, but are symbols to transformers.
    markers = [processor.id_to_piece(n) for n in range(processor.get_piece_size()) if not _is_text(processor, n)]
    plain = without_markers(texts, markers)
    expected: list[list[int]] = processor.encode(plain)
    return translated.encode_documents(plain) == expected


def _is_text(processor: Any, number: int) -> bool:  # noqa: ANN401
    kinds = (processor.is_control, processor.is_unknown, processor.is_byte, processor.is_unused)
    return not any(kind(number) for kind in kinds)


def _description(processor: Any, rules: Any, is_unigram: bool) -> dict[str, Any]:  # noqa: ANN401
    pieces = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
    symbols = [n for n in range(len(pieces)) if processor.is_control(n) or processor.is_unknown(n)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if rules.add_dummy_prefix else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": pieces[number], **flags} for number in symbols],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(rules)},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": _unigram(processor, pieces) if is_unigram else _bpe(processor, pieces),
    }


def _normalizers(rules: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    found: list[dict[str, Any]] = []
    if rules.precompiled_charsmap:
        charsmap = base64.b64encode(rules.precompiled_charsmap).decode()
        found.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if rules.remove_extra_whitespaces:
        found.append({"type": "Strip", "strip_left": True, "strip_right": True})
        found.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if rules.add_dummy_prefix:
        found.append({"type": "Prepend", "prepend": _SPACE})
    found.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    return found


def _unigram(processor: Any, pieces: list[str]) -> dict[str, Any]:  # noqa: ANN401
    vocabulary = [[piece, processor.get_score(number)] for number, piece in enumerate(pieces)]
    has_bytes = any(processor.is_byte(number) for number in range(len(pieces)))
    return {"type": "Unigram", "unk_id": processor.unk_id(), "vocab": vocabulary, "byte_fallback": has_bytes}


def _bpe(processor: Any, pieces: list[str]) -> dict[str, Any]:  # noqa: ANN401
    """Return the BPE model, in which every way to make a piece is a merge.

    SentencePiece merges the pair whose result has the best score.
    """
    ids = {piece: number for number, piece in enumerate(pieces) if _is_text(processor, number)}
    ranked: list[tuple[float, int, int, int]] = []
    for piece, number in ids.items():
        pairs = [(ids.get(piece[:cut]), ids.get(piece[cut:])) for cut in range(1, len(piece))]
        score = -processor.get_score(number)
        ranked += [(score, number, left, right) for left, right in pairs if left is not None and right is not None]
    has_bytes = any(processor.is_byte(number) for number in range(len(pieces)))
    return {
        "type": "BPE",
        "unk_token": pieces[processor.unk_id()],
        "fuse_unk": True,
        "byte_fallback": has_bytes,
        "vocab": {piece: number for number, piece in enumerate(pieces)},
        "merges": [[pieces[left], pieces[right]] for _, _, left, right in sorted(ranked)],
    }
