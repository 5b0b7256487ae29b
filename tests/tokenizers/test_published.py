"""Every tokenizer that a package ships opens, and gives the ids of its own library."""

from __future__ import annotations

import base64
import importlib.resources
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DataError
from harness.tokenizers.identity import TokenizerIdentity, identity_of, relation_to
from harness.tokenizers.tiktoken_file import PUBLISHED, PUBLISHED_CONTENT
from harness.tokenizers.tokenizer import open_tokenizer

TEXTS = [
    "Hello, world! It's 2026-11-28, isn't it?",
    "def f(x: int) -> str:\n\treturn f'{x!r}'  # 中文 12345\n",
    " leading,  two spaces,\ttab\r\n\n\n   and trailing ",
    "你好，世界。漢字かな交じり文 한국어 สวัสดี العربية हिन्दी",
    "Ωé 🙂 \u200d ½ ﬁ １２３ e\u0301 𠀀 \x00 ▁ <0x41>",
    "a marker </s> [INST] <|endoftext|> is text",
]

Encode = Callable[[str], list[int]]


def folder_of(package: str, inside: str) -> Path:
    pytest.importorskip(package)
    return Path(str(importlib.resources.files(package))) / inside


def mistral_sentencepiece(file: Path) -> Encode:
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

    own = SentencePieceTokenizer(file)
    return lambda text: list(own.encode(text, bos=False, eos=False))


def mistral_tekken(file: Path) -> Encode:
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    own = Tekkenizer.from_file(file)
    return lambda text: list(own.encode(text, bos=False, eos=False))


def dashscope_qwen(file: Path) -> Encode:
    from dashscope.tokenizers.qwen_tokenizer import QwenTokenizer

    own = QwenTokenizer(str(file))
    return lambda text: list(own.encode(text, disallowed_special=(), allowed_special=set()))


def check(file: Path, own: Encode, vocab_size: int, end: str) -> TokenizerIdentity:
    tokenizer = open_tokenizer(file)
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.pieces()[tokenizer.end_of_document_id].content == end.encode()
    assert tokenizer.encode_documents(TEXTS) == [own(text) for text in TEXTS]
    sizes = tokenizer.bytes_per_token()
    assert sizes is not None and len(sizes) == vocab_size
    if tokenizer.kind in ("tiktoken", "tekken"):  # every text comes back, byte for byte
        texts = TEXTS if "qwen" not in file.name else [unicodedata.normalize("NFC", text) for text in TEXTS]
        for text, ids in zip(texts, tokenizer.encode_documents(TEXTS), strict=True):
            assert tokenizer.decode(ids) == text and sum(sizes[i] for i in ids) == len(text.encode())
    identity = identity_of(tokenizer)
    assert relation_to(identity, tokenizer) == "same"
    return identity


MISTRAL = [
    ("tokenizer.model.v1", mistral_sentencepiece, 32000),
    ("mistral_instruct_tokenizer_240216.model.v2", mistral_sentencepiece, 32768),
    ("mistral_instruct_tokenizer_240323.model.v3", mistral_sentencepiece, 32768),
    ("mistral_instruct_tokenizer_241114.model.v7", mistral_sentencepiece, 32768),
    ("mistral_instruct_tokenizer_241114.model.v7m1", mistral_sentencepiece, 32768),
    ("tekken_240718.json", mistral_tekken, 131072),
    ("tekken_240911.json", mistral_tekken, 131072),
]


@pytest.mark.parametrize(("name", "library", "vocab_size"), MISTRAL, ids=[name for name, _, _ in MISTRAL])
def test_files_of_mistral(name: str, library: Callable[[Path], Encode], vocab_size: int) -> None:
    file = folder_of("mistral_common", "data") / name
    check(file, library(file), vocab_size, "</s>")


def test_every_file_that_mistral_ships_is_tried() -> None:
    shipped = {file.name for file in folder_of("mistral_common", "data").iterdir() if file.is_file()}
    assert shipped == {name for name, _, _ in MISTRAL}


def test_file_of_qwen() -> None:
    file = folder_of("dashscope", "resources") / "qwen.tiktoken"
    check(file, dashscope_qwen(file), 151646, "<|endoftext|>")


def test_published_files_are_known_by_content(tmp_path: Path) -> None:
    shipped = folder_of("dashscope", "resources") / "qwen.tiktoken"
    renamed = tmp_path / "tokenizer.model"
    renamed.write_bytes(shipped.read_bytes())
    assert relation_to(identity_of(open_tokenizer(shipped)), open_tokenizer(renamed)) == "same"
    renamed.write_bytes(shipped.read_bytes() + b"IQ== 151643\n")
    with pytest.raises(DataError, match="this is none of the published ones"):
        open_tokenizer(renamed)


@pytest.mark.parametrize("name", ["r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
def test_what_tiktoken_says_of_its_own_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fetches the files; what belongs to them is in the package."""
    public = pytest.importorskip("tiktoken_ext.openai_public")
    asked: list[str] = []
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda address, expected_hash: asked.append(expected_hash))
    described = getattr(public, name)()
    assert PUBLISHED_CONTENT[asked[0]] == name
    assert dict(PUBLISHED[name].special_tokens) == described["special_tokens"]


def test_a_tekken_file_says_its_control_symbols_or_has_the_usual_ones(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "config": {"pattern": r"\w+|\s+|[^\w\s]+", "default_vocab_size": 262, "default_num_special_tokens": 5},
        "vocab": [{"rank": n, "token_bytes": base64.b64encode(bytes([n])).decode()} for n in range(256)],
    }
    content["vocab"].append({"rank": 256, "token_bytes": "YWI="})
    content["vocab"].append({"rank": 257, "token_bytes": "YWJj"})  # beyond the size that the config gives
    (tmp_path / "tekken.json").write_text(json.dumps(content))
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.control_symbols() == ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    assert tokenizer.encode_documents(["abc"]) == [[256 + 5, 5 + ord("c")]]
    content["special_tokens"] = [{"rank": 1, "token_str": "<|endoftext|>", "is_control": True}]
    (tmp_path / "tekken.json").write_text(json.dumps(content))
    named = open_tokenizer(tmp_path)
    assert named.end_of_document_id == 1 and named.control_symbols()[0] == "<SPECIAL_0>"
    assert relation_to(identity_of(tokenizer), named) == "other"
