from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from click.testing import CliRunner, Result
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.tokenizers.extend_tokenizer import extend, report_on_extension, require_better, single
from data_prep.tokenizers.round_trip import round_trip
from data_prep.tokenizers.saving_words import saving_words
from data_prep.verbs.tokenizer_verbs import extend_tokenizer
from harness.errors import UsageError
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

TEXTS = (
    "Không có gì quý hơn độc lập, tự do. Ai nói rằng không được học tiếng Việt thì không đúng.",
    "Pembangunan nasional (pembangunan daerah) dilaksanakan bersama-sama oleh seluruh masyarakat Indonesia.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "all human beings are born free and equal in dignity and rights: the party of art lovers reads",
)
WORDS = ("không", "Pembangunan", "pembangunan", "masyarakat", "Indonesia", "الحقوق", "尊严", "dignity", "art")
OF_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUT_WORDS = ("มนุษย์", "अधिकारों")
"""Words with signs at which the pattern of GPT-4 and Qwen cuts."""


ASCII = [chr(code) for code in range(0x21, 0x7F)]


def _save(tokenizer: tokenizers.Tokenizer, file: Path) -> None:
    tokenizer.save(str(file))


def byte_level(file: Path, *, ignore_merges: bool = False) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    split = pre_tokenizers.Split(tokenizers.Regex(OF_QWEN), behavior="isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS[-1:] * 5, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>"])  # behind the vocabulary, as Qwen has them
    _save(tokenizer, file)


def llama_2(file: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=specials, initial_alphabet=ASCII, show_progress=False)
    tokenizer.train_from_iterator(TEXTS[-1:] * 5, trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][:3]
    file.write_text(json.dumps(described))


def unigram(file: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
        initial_alphabet=ASCII,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    tokenizer.add_special_tokens(["<mask>"])
    _save(tokenizer, file)


def word_pieces(file: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    _save(tokenizer, file)


def _sentencepiece(file: Path, kind: str) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5),
        model_writer=model,
        model_type=kind,
        vocab_size=440,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    file.write_bytes(model.getvalue())


KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "byte-level": (".json", byte_level),
    "byte-level, whole words first": (".json", lambda file: byte_level(file, ignore_merges=True)),
    "bpe with byte fallback": (".json", llama_2),
    "unigram": (".json", unigram),
    "word pieces": (".json", word_pieces),
    "sentencepiece bpe": (".model", lambda file: _sentencepiece(file, "bpe")),
    "sentencepiece unigram": (".model", lambda file: _sentencepiece(file, "unigram")),
}


@pytest.fixture(params=KINDS)
def original(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    ending, make = KINDS[request.param]
    make(tmp_path / f"original{ending}")
    return open_tokenizer(tmp_path / f"original{ending}", needs_end=False)


def extended_by(original: Tokenizer, words: tuple[str, ...]) -> Tokenizer:
    file = original.path.with_stem("extended")
    file.write_bytes(extend(original, words))
    return open_tokenizer(file, needs_end=False)


def test_words_are_one_token_and_come_back(original: Tokenizer) -> None:
    extended = extended_by(original, (*WORDS, *CUT_WORDS))
    assert extended.vocab_size % 128 == 0 and extended.vocab_size > original.vocab_size
    assert extended.pieces()[: original.vocab_size] == original.pieces()
    assert set(WORDS) <= set(single(extended, WORDS))
    before, after = round_trip(TEXTS, original), round_trip(TEXTS, extended)
    assert after.lost.total() <= before.lost.total() and after.tokens < before.tokens
    assert extended.control_symbols()[: len(original.control_symbols())] == original.control_symbols()
    markers = original.control_symbols()
    assert not markers or extended.encode_documents(markers) == original.encode_documents(markers)


def test_a_text_without_these_words_has_the_old_ids(original: Tokenizer) -> None:
    extended = extended_by(original, ("không", "尊严"))
    text = [TEXTS[-1], TEXTS[1]]
    assert extended.encode_documents(text) == original.encode_documents(text)


def test_a_word_that_is_cut_first_becomes_fewer_tokens(tmp_path: Path) -> None:
    byte_level(tmp_path / "original.json")
    original = open_tokenizer(tmp_path / "original.json", needs_end=False)
    extended = extended_by(original, CUT_WORDS)
    assert single(extended, CUT_WORDS) == ()
    for word in CUT_WORDS:
        before, after = (len(tokenizer.encode_documents([word])[0]) for tokenizer in (original, extended))
        assert after < before / 3
        assert extended.decode(extended.encode_documents([word])[0]) == word


def test_the_library_of_models_opens_it_with_the_same_ids(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    byte_level(tmp_path / "original.json")
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "original.json"))
    extended = extended_by(open_tokenizer(tmp_path / "original.json", needs_end=False), WORDS)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(extended.path))
    assert [theirs.encode(text) for text in TEXTS] == extended.encode_documents(list(TEXTS))
    assert theirs.decode(theirs.encode(TEXTS[0])) == TEXTS[0]
    assert theirs.convert_tokens_to_ids("<|endoftext|>") == original.token_to_id("<|endoftext|>")


def test_worse_is_refused(tmp_path: Path) -> None:
    byte_level(tmp_path / "original.json")
    original = open_tokenizer(tmp_path / "original.json", needs_end=False)
    extended = extended_by(original, ("không",))
    report = report_on_extension([TEXTS[1]], extended, original, ("không",))
    with pytest.raises(UsageError, match="none of the words saves a token on the [0-9]+ tokens of this text"):
        require_better({"id": report}, extended, original)
    # What the command did before: the word as it is, among pieces that are spelt in bytes.
    library = tokenizers.Tokenizer.from_file(str(original.path))
    library.add_tokens([tokenizers.AddedToken("không", normalized=False, single_word=True)])
    _save(library, tmp_path / "wrong.json")
    wrong = open_tokenizer(tmp_path / "wrong.json", needs_end=False)
    report = report_on_extension([TEXTS[0]], wrong, original, ("không",))
    with pytest.raises(UsageError, match="2 characters do not come back, 0 with the original"):
        require_better({"vi": report}, wrong, original)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(extend_tokenizer, [str(argument) for argument in arguments])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A corpus and a list of words."""
    lines = [json.dumps({"text": text}) for text in (*TEXTS, "a partý of art lovers")]
    (tmp_path / "text.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "words.txt").write_text("\n".join([*WORDS, "", "art"]))
    return tmp_path / "text.jsonl", tmp_path / "words.txt"


def test_the_command_says_what_became_of_the_words(files: tuple[Path, Path], original: Tokenizer) -> None:
    corpus, words = files
    out = corpus.parent / f"new{original.path.suffix}"
    done = call(original.path, f"all={corpus}", "--words", words, "--output", out)
    assert done.exception is None, done.exception
    assert f" for {len(WORDS)} words (behind a space, without one, and on the way to them), " in done.stdout
    assert " tokens before, " in done.stdout and "% fewer)" in done.stdout
    again = call(original.path, corpus, "--words", words, "--output", out).exception
    assert isinstance(again, UsageError) and "exists. It stays as it is" in str(again)
    other = call(original.path, corpus, "--words", words, "--output", corpus.parent / "x.txt").exception
    assert isinstance(other, UsageError) and f"the name must end in {original.path.suffix}" in str(other)


def test_the_command_writes_nothing_that_is_no_better(files: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, words = files
    byte_level(tmp_path / "original.json")
    words.write_text("Megatron\nart\n")
    corpus.write_text(json.dumps({"text": TEXTS[2]}) + "\n")
    out = tmp_path / "new.json"
    refused = call(tmp_path / "original.json", f"th={corpus}", "--words", words, "--output", out)
    assert isinstance(refused.exception, UsageError) and "nothing was written" in str(refused.exception)
    assert not out.exists()


def test_what_cannot_be_added(original: Tokenizer, tiktoken_file: Path) -> None:
    with pytest.raises(UsageError, match="there are no words to add"):
        extend(original, ())
    known = extended_by(original, ("dignity",))
    with pytest.raises(UsageError, match="all 1 words are single tokens already, as 'dignity'. Nothing would change"):
        extend(known, ("dignity",))
    with pytest.raises(UsageError, match="not to a tiktoken file"):
        extend(open_tokenizer(tiktoken_file), WORDS)


def test_the_command_finds_the_words_that_save_most(tmp_path: Path) -> None:
    byte_level(tmp_path / "original.json")
    (tmp_path / "vi.jsonl").write_text(json.dumps({"text": " ".join(["được học không"] * 4 + ["học"])}) + "\n")
    (tmp_path / "th.jsonl").write_text(json.dumps({"text": "ประเทศไทย " * 4}) + "\n")
    inputs, out = (f"vi={tmp_path}/vi.jsonl", f"th={tmp_path}/th.jsonl"), tmp_path / "new.json"
    done = call(tmp_path / "original.json", *inputs, "--find", 2, "--output", out)
    assert done.exception is None, done.exception
    original, extended = (open_tokenizer(tmp_path / name, needs_end=False) for name in ("original.json", "new.json"))
    assert saving_words(["được học không " * 4 + "học một"], original, 2) == ["được", "học"]
    assert single(extended, ["được", "không", "học"]) == ("được", "học")
    texts = [json.loads((tmp_path / name).read_text())["text"] for name in ("vi.jsonl", "th.jsonl")]
    assert round_trip(texts, extended).tokens < 0.8 * round_trip(texts, original).tokens
    assert saving_words(texts, extended, 100) != [] and saving_words(["once"], original, 5) == []
    neither = call(tmp_path / "original.json", *inputs, "--output", tmp_path / "other.json").exception
    assert isinstance(neither, UsageError) and "--words, or --find N" in str(neither)
