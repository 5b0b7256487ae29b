from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
import xxhash
from tokenizers import decoders, models, pre_tokenizers, trainers

import data_prep.demo
from harness.errors import DataError, UsageError
from harness.tokenizers.recognise import tokenizer_files
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

RARE = "龘 🦜 \t\r\n  αβγ é 𠀀 \x00 end"
SHIPPED = Path(data_prep.demo.__file__).parent


def shipped_documents(channel: str, count: int) -> list[str]:
    with gzip.open(SHIPPED / f"{channel}.jsonl.gz") as lines:
        return [json.loads(next(lines))["text"] for _ in range(count)]


def real_documents() -> list[str]:
    code = [(Path(sysconfig.get_path("stdlib")) / name).read_text("utf-8") for name in ("abc.py", "bisect.py")]
    return [*shipped_documents("zh", 300), *shipped_documents("en", 5), *code]


def train_sentencepiece(**options: object) -> bytes:
    model = io.BytesIO()
    defaults: dict[str, object] = {
        "model_type": "bpe",
        "vocab_size": 2000,
        "character_coverage": 0.98,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "max_sentence_length": 1 << 20,
        "bos_id": -1,
        "eos_piece": "<|endoftext|>",
        "minloglevel": 2,
    }
    sample = iter(real_documents()[200:])
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=sample, model_writer=model, **{**defaults, **options})
    return model.getvalue()


def byte_level_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(real_documents(), trainer)
    return tokenizer


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    file.write_bytes(train_sentencepiece())
    return file


@pytest.fixture(scope="module")
def json_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("huggingface") / "tokenizer.json"
    byte_level_tokenizer().save(str(file))
    return file


def sizes_of(tokenizer: Tokenizer) -> np.ndarray:
    """The bytes of each id, as an array."""
    sizes = tokenizer.bytes_per_token()
    assert sizes is not None, "this kind of vocabulary tells them"
    return np.array(sizes)


@pytest.fixture(params=["model_file", "json_file"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return open_tokenizer(request.getfixturevalue(request.param))


def test_text_comes_back_as_it_was(tokenizer: Tokenizer) -> None:
    documents = [*real_documents(), RARE]
    encoded = tokenizer.encode_documents(documents)
    assert [tokenizer.decode(ids) for ids in encoded] == documents


def test_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizer: Tokenizer) -> None:
    sizes = sizes_of(tokenizer)
    assert sizes.shape == (tokenizer.vocab_size,)
    for document in [*real_documents(), RARE]:
        (ids,) = tokenizer.encode_documents([document])
        assert sizes[ids].sum() == len(document.encode())


def test_control_symbols_stand_for_no_bytes(tokenizer: Tokenizer) -> None:
    assert sizes_of(tokenizer)[tokenizer.end_of_document_id] == 0
    assert tokenizer.decode([tokenizer.end_of_document_id]) == ""


def test_a_marker_in_the_text_is_text(tokenizer: Tokenizer) -> None:
    text = "before<|endoftext|>after"
    (ids,) = tokenizer.encode_documents([text])
    assert tokenizer.end_of_document_id not in ids
    assert tokenizer.decode(ids) == text


def test_ids_fit_the_vocabulary_and_batches_do_not_matter(tokenizer: Tokenizer) -> None:
    documents = real_documents()
    encoded = tokenizer.encode_documents(documents)
    assert min(map(min, encoded)) >= 0 and max(map(max, encoded)) < tokenizer.vocab_size
    assert encoded == [tokenizer.encode_documents([document])[0] for document in documents]


def test_hash_is_that_of_the_file(tokenizer: Tokenizer) -> None:
    assert tokenizer.file_hash == xxhash.xxh3_64_hexdigest(tokenizer.path.read_bytes())


def test_dummy_prefix_counts_as_one_byte_a_document(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(train_sentencepiece(add_dummy_prefix=True))
    tokenizer = open_tokenizer(file)
    (ids,) = tokenizer.encode_documents(["春眠不觉晓"])
    assert sizes_of(tokenizer)[ids].sum() == len("春眠不觉晓".encode()) + 1


def test_settings_saved_with_a_file_do_not_change_a_corpus(tmp_path: Path) -> None:
    saved = byte_level_tokenizer()
    saved.enable_truncation(4)
    saved.enable_padding(length=16)
    saved.add_tokens(["《诗经》"])
    saved.save(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(tmp_path)
    text = "《诗经》 has three hundred poems"
    (ids,) = tokenizer.encode_documents([text])
    assert tokenizer.decode(ids) == text
    assert sizes_of(tokenizer)[ids].sum() == len(text.encode())


def test_byte_fallback_vocabulary_in_a_tokenizer_json(tmp_path: Path) -> None:
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a"]
    saved = tokenizers.Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    saved.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    saved.add_special_tokens(["</s>"])
    saved.save(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(tmp_path)
    (ids,) = tokenizer.encode_documents(["b a诗"])
    assert sizes_of(tokenizer)[ids].tolist() == [1, 2, 1, 1, 1]


def test_bytes_of_a_vocabulary_that_does_not_tell_them_are_not_known(tmp_path: Path) -> None:
    saved = tokenizers.Tokenizer(models.WordLevel({"<eos>": 0, "a": 1}, unk_token="<eos>"))
    saved.pre_tokenizer = pre_tokenizers.Whitespace()
    saved.save(str(tmp_path / "tokenizer.json"))
    assert open_tokenizer(tmp_path).bytes_per_token() is None


@pytest.mark.parametrize("token", ["a", {"content": "a"}])
def test_end_of_document_named_in_the_config_wins(tmp_path: Path, json_file: Path, token: object) -> None:
    (tmp_path / "tokenizer.json").write_bytes(json_file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    assert open_tokenizer(tmp_path).end_of_document_id != open_tokenizer(json_file).end_of_document_id


def test_broken_config_is_named(tmp_path: Path, json_file: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(json_file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: not readable as JSON"):
        open_tokenizer(tmp_path)


def test_end_of_document_may_be_a_named_control_symbol(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(train_sentencepiece(eos_id=-1, control_symbols=["<eod>"]))
    assert open_tokenizer(file).end_of_document_id == 1


def test_sentencepiece_without_end_of_document_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(train_sentencepiece(eos_id=-1))
    with pytest.raises(
        DataError, match=r"no symbol that ends a document\. Looked for .*<\|endoftext\|>.*Train it with"
    ):
        open_tokenizer(file)


def test_hugging_face_without_end_of_document_is_refused(tmp_path: Path) -> None:
    tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="no symbol that ends a document"):
        open_tokenizer(tmp_path)


def test_folder_with_both_kinds_takes_the_json(tmp_path: Path, model_file: Path, json_file: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model_file.read_bytes())
    assert open_tokenizer(tmp_path).path == tmp_path / "tokenizer.model"
    (tmp_path / "tokenizer.json").write_bytes(json_file.read_bytes())
    assert open_tokenizer(tmp_path).path == tmp_path / "tokenizer.json"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.model: there is no such file or folder\. Check the path"):
        open_tokenizer(tmp_path / "no.model")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("vocab.txt", b"", r"the file is empty\. Allowed are a SentencePiece model, a Hugging Face"),
        ("t.model", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("t.model", b"PK\x03\x04", r"the file begins with b'PK"),
        ("tokenizer.json", b"{", "not readable as JSON"),
        ("tokenizer.json", b"[1]", r"the file begins with b'\[1\]'"),
        ("tokenizer.json", b"{}", "this JSON is no tokenizer"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}', r"not a readable Hugging Face tokenizer\.json"),
        ("vocab.json", b'{"a": 0, "b": 1}', r"a vocabulary without its rules \(vocab\.json\)"),
        ("tokenizer_config.json", b'{"tokenizer_class": "X"}', "the settings of a tokenizer"),
        ("config.json", b'{"model_type": "llama"}', r"the config\.json of a model"),
        ("tekken.json", b'{"config": {"pattern": "."}, "vocab": []}', "not a readable tekken file"),
        ("qwen.tiktoken", b"nonsense", "called like a published file, and has other content"),
        ("tokenizer.json", "{}".encode("utf-16"), "the file is UTF-16"),
        ("tokenizer.json", b'{"model": {"type": "WordLevel", "vocab": {}, "unk_token": "a"}}', "it has 0 ids"),
        (
            "tokenizer.json",
            b'{"model": {"type": "WordLevel", "vocab": {"a": 2000000000}, "unk_token": "a"}}',
            "it has 2,000,000,001 ids; allowed are 1 to 16,777,216",
        ),
    ],
)
def test_file_that_is_no_tokenizer(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        open_tokenizer(tmp_path / name)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path, json_file: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + json_file.read_bytes())
    assert open_tokenizer(tmp_path).vocab_size == open_tokenizer(json_file).vocab_size


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="it is no regular file"):
        open_tokenizer(tmp_path / "pipe")
    with pytest.raises(DataError, match="File name too long"):
        open_tokenizer(tmp_path / ("x" * 300))


def test_a_broken_tokenizer_json_is_not_passed_over(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model_file.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{")
    assert [file.name for file in tokenizer_files(tmp_path)] == ["tokenizer.json", "tokenizer.model"]


def test_the_name_of_a_file_does_not_matter(tmp_path: Path, model_file: Path, json_file: Path) -> None:
    for name in ("tokenizer.model.v3", "tokenizer", "spm.json"):
        (tmp_path / name).write_bytes(model_file.read_bytes())
        assert open_tokenizer(tmp_path / name).kind == "sentencepiece"
    (tmp_path / "vocabulary.model").write_bytes(json_file.read_bytes())
    assert open_tokenizer(tmp_path / "vocabulary.model").kind == "hugging-face"


@pytest.mark.parametrize("name", ["tokenizer.model.v3", "spiece.model", "sentencepiece.bpe.model", "tokenizer"])
def test_folder_is_searched_by_content(tmp_path: Path, model_file: Path, name: str) -> None:
    (tmp_path / name).write_bytes(model_file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    (tmp_path / "tokenization_own.py").write_text("never run")
    assert open_tokenizer(tmp_path).path.name == name


@pytest.mark.parametrize(("names", "found"), [([], "none"), (["a.model", "b.model"], r"a\.model, b\.model")])
def test_folder_without_one_tokenizer(tmp_path: Path, names: list[str], found: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"exactly one other tokenizer \(found: {found}\)\. Name the file itself"):
        open_tokenizer(tmp_path)


def test_vocabulary_and_merges_apart_are_explained(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(DataError, match="do not say how text is split: save the tokenizer with transformers"):
        open_tokenizer(tmp_path)


def test_truncated_model(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "t.model").write_bytes(model_file.read_bytes()[:5001])
    with pytest.raises(DataError, match=r"not a readable SentencePiece model \(5001 bytes"):
        open_tokenizer(tmp_path / "t.model")


@pytest.mark.parametrize(("file", "package"), [("model_file", "sentencepiece"), ("json_file", "tokenizers")])
def test_missing_library(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, file: str, package: str
) -> None:
    path = request.getfixturevalue(file)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"needs the Python package {package}, which is not installed"):
        open_tokenizer(path)


def test_importing_the_module_loads_neither_library_nor_torch() -> None:
    code = (
        "import sys, harness.tokenizers.tokenizer\nprint({'torch', 'sentencepiece', 'tokenizers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
