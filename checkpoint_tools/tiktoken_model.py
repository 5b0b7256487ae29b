"""Write a tiktoken file as a `tokenizer.json` for transformers, if both give the same ids.

tiktoken merges the two neighbours whose union has the lowest rank; a `tokenizer.json` lists the merges. To find them,
encode each token with only the ranks below its own; the two pieces that remain are its merge. Bytes are written as the
printable characters that GPT-2 gave them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from checkpoint_tools.translation import opened_translation, without_markers
from harness.tokenizers.pieces import byte_characters
from harness.tokenizers.tiktoken_file import TiktokenTokenizer
from harness.tokenizers.tokenizer_file import read_file

_PROBES = (
    "hello world",
    " leading, trailing ",
    "two  spaces,\ttab\nline\n\n  break\r\n",
    "def f(x: int) -> str:\n    return f'{x!r}'  # 中文 12345\n",
    "你好，世界。漢字かな交じり文 한국어",
    "Ωé 🙂 \u200d ½ ﬁ １２３ Å I'll we'RE",
    "x",
)


def as_tokenizer_json(tokenizer: TiktokenTokenizer) -> str | None:
    """Return the `tokenizer.json` of a tiktoken file; None if it cannot be expressed with the same ids."""
    ranks = _ranks(read_file(tokenizer.path))
    merges = [
        parts for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1 and (parts := _parts(token, ranks))
    ]
    characters = byte_characters()

    def spelt(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    split = {
        "type": "Split",
        "pattern": {"Regex": tokenizer.splitting.pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    in_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    symbols = sorted(tokenizer.splitting.special_tokens.items(), key=lambda item: item[1])
    text = json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": number, "content": name, **flags} for name, number in symbols],
            "normalizer": {"type": form} if (form := tokenizer.splitting.normalization) else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, in_bytes]},
            "post_processor": None,
            "decoder": in_bytes,
            "model": {
                "type": "BPE",
                "ignore_merges": True,  # a word that is a token is that token, whatever it is joined of
                "vocab": {spelt(token): rank for token, rank in ranks.items()},
                "merges": [[spelt(left), spelt(right)] for left, right in merges],
            },
        },
        ensure_ascii=False,
    )
    return text if _agree(tokenizer, text) else None


def _ranks(content: bytes) -> dict[bytes, int]:
    rows = (line.split() for line in content.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in rows}


def _parts(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """Return the two parts that a token is joined from; None for one that tiktoken never makes by joining."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        below = [ranks.get(parts[place] + parts[place + 1], ranks[token]) for place in range(len(parts) - 1)]
        lowest = min(range(len(below)), key=below.__getitem__)
        if below[lowest] >= ranks[token]:
            return None
        parts[lowest : lowest + 2] = [parts[lowest] + parts[lowest + 1]]
    return parts[0], parts[1]


def _agree(tokenizer: TiktokenTokenizer, text: str) -> bool:
    translated = opened_translation(text)
    if translated is None:
        return False
    tokens = [tokenizer.decode([number]) for number in range(min(tokenizer.vocab_size, 100_000))]
    markers = tokenizer.control_symbols()
    texts = [*_PROBES, *tokens, *(a + b for a, b in zip(tokens[::7], tokens[3::7], strict=False))]
    plain = without_markers(texts, markers)
    return translated.encode_documents(plain) == tokenizer.encode_documents(plain)
