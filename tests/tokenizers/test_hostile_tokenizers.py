"""Damaged and hostile files of tokenizers: each costs one line, in bounded time and memory, and never the process."""

from __future__ import annotations

import base64
import copy
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece.sentencepiece_model_pb2 as sentencepiece_format
from small_tokenizers import byte_level, sentencepiece_model

from harness.cli import run
from harness.errors import EXIT_BAD_DATA, DataError, HarnessError
from harness.tokenizers import native
from harness.tokenizers.identity import identity_from, identity_of
from harness.tokenizers.tokenizer import open_tokenizer, read_tokenizer

BYTES = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]
GROWS = {"type": "Replace", "pattern": {"String": "q"}, "content": "q" * 900}
BACKTRACKS = "(\u0416|\u0416\u0416)+$(?!b)|.|\\s"
"""A pattern that is harmless, but for long runs of one Cyrillic letter."""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    file.write_text(json.dumps({"text": "hello world"}) + "\n")
    return file


def described(**changes: Any) -> bytes:
    return json.dumps({**json.loads(byte_level().to_str()), **changes}).encode()


def split_by(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    in_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, in_bytes]}


def write_tiktoken(folder: Path, lines: list[bytes] = BYTES, **description: Any) -> Path:
    file = folder / "own.tiktoken"
    file.write_bytes(b"\n".join(lines))
    said = {"pattern": r"\p{L}+|\s+|.", "special_tokens": {"<|endoftext|>": 256}, **description}
    (folder / "own.tiktoken.json").write_text(json.dumps(said))
    return file


def refusal(file: Path, text: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command refuses a tokenizer."""
    capfd.readouterr()
    begin = time.monotonic()
    code = run(["data", "inspect-tokenizer", str(file), str(text)])
    told = capfd.readouterr().err
    assert (code, told.count("\n")) == (EXIT_BAD_DATA, 1), told
    assert time.monotonic() - begin < 60
    return told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "ab"}},
            "library panics: index out",
        ),
        ({"pre_tokenizer": split_by("(a|aa)+$")}, "its library panics: Onig: Regex search error: retry-limit"),
        ({"normalizer": {"type": "Sequence", "normalizers": [GROWS] * 4}}, "write 656,100,000,000 characters for one"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 2000}}, "its rules may write 2,001 characters for one"),
        ({"decoder": {"type": "Sequence", "decoders": [GROWS] * 5}}, "the file needs more than 4.0 GiB of memory"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 10**9}, "unk_token": "a"}}, "it has 1,000,000,001 ids"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 10**6}, "unk_token": "a"}}, "has only 4 pieces"),
        ({"model": [[]] * 50}, "this JSON is no tokenizer"),
    ],
    ids=["panic", "backtracks", "grows", "begins with much", "decoder grows", "id of a billion", "gaps", "no model"],
)
def test_hostile_tokenizer_json(
    tmp_path: Path, text: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    (tmp_path / "tokenizer.json").write_bytes(described(**changes))
    assert words in refusal(tmp_path / "tokenizer.json", text, capfd)


def test_a_file_that_is_no_file_or_too_much_is_not_read(
    tmp_path: Path, text: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b'{"model": {}, "more": [' + b"0," * 10_000_001 + b"0]}")
    assert "more than 10,000,000 values, which no tokenizer has" in refusal(tmp_path / "tokenizer.json", text, capfd)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(10**12)
    assert "it is larger than 128 MiB" in refusal(tmp_path / "large.json", text, capfd)


@pytest.mark.parametrize(
    ("lines", "description", "words"),
    [
        (BYTES, {"special_tokens": {"<|endoftext|>": 10**9}}, "a whole number from 0 to 16,777,215"),
        (BYTES, {"special_tokens": {"<|endoftext|>": 1.5}}, "a whole number from 0 to 16,777,215"),
        (BYTES, {"special_tokens": {"a": 256, "b": 256}}, "the id 256 belongs to two control symbols"),
        (BYTES, {"special_tokens": {"<|endoftext|>": 2**24 - 1}}, "has only 257 pieces"),
        (BYTES, {"pattern": ["."]}, "its pattern is no text"),
        (BYTES, {"pattern": "(?="}, "tiktoken does not take it (ValueError: Parsing error"),
        (BYTES, {"pattern": "(a|aa)+$(?!b)|.|\\s"}, "its library panics: called `Result::unwrap()`"),
        ([*BYTES, base64.b64encode(b"ab") + b" 1000000000"], {}, "line 257 is not a token in base64 and an id"),
        ([*BYTES, base64.b64encode(b"ab") + b" 255"], {}, "a token or an id occurs twice"),
        ([*BYTES, b"!!!! 256"], {}, "line 257 is not a token in base64 and an id"),
    ],
)
def test_hostile_tiktoken(
    tmp_path: Path,
    text: Path,
    capfd: pytest.CaptureFixture[str],
    lines: list[bytes],
    description: dict[str, Any],
    words: str,
) -> None:
    assert words in refusal(write_tiktoken(tmp_path, lines, **description), text, capfd)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"default_num_special_tokens": 10**9}, "default_num_special_tokens must be a whole number"),
        ({"default_vocab_size": 1e300}, "default_vocab_size must be a whole number"),
        ({"default_vocab_size": True}, "default_vocab_size must be a whole number"),
        ({"default_vocab_size": 3}, "it has more control symbols than ids"),
        ({"pattern": 5}, "its pattern is no text"),
    ],
)
def test_hostile_tekken(
    tmp_path: Path, text: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    vocabulary = [{"rank": n, "token_bytes": base64.b64encode(bytes([n])).decode()} for n in range(256)]
    config = {"pattern": ".", "default_vocab_size": 266, "default_num_special_tokens": 10, **changes}
    (tmp_path / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocabulary}))
    assert words in refusal(tmp_path / "tekken.json", text, capfd)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number(tmp_path: Path, text: Path, capfd: pytest.CaptureFixture[str], score: float) -> None:
    model = sentencepiece_format.ModelProto.FromString(sentencepiece_model())
    model.pieces[300].score = score
    (tmp_path / "own.model").write_bytes(model.SerializeToString())
    assert f"the score of piece 300 is {score}" in refusal(tmp_path / "own.model", text, capfd)


def test_a_table_of_characters_that_multiplies_a_text(
    tmp_path: Path, text: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = sentencepiece_format.ModelProto.FromString(sentencepiece_model(normalization_rule_name="nmt_nfkc_cf"))
    model.normalizer_spec.precompiled_charsmap += b"a" * 5000 + b"\0"
    (tmp_path / "own.model").write_bytes(model.SerializeToString())
    assert "its rules may write 5,000 characters for one" in refusal(tmp_path / "own.model", text, capfd)


def test_a_piece_spelt_almost_like_a_byte(tmp_path: Path) -> None:
    model = sentencepiece_format.ModelProto.FromString(sentencepiece_model())
    model.pieces[300].piece = "<0xZZ>"
    (tmp_path / "own.model").write_bytes(model.SerializeToString())
    assert open_tokenizer(tmp_path / "own.model").pieces()[300].content == b"<0xZZ>"


@pytest.mark.parametrize("eos", [["</s>"], {"content": ["a"]}, 5, {"content": {}}, "\u202e" * 5000])
def test_settings_of_wrong_kinds(tmp_path: Path, eos: object) -> None:
    (tmp_path / "own.model").write_bytes(sentencepiece_model())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos, "read from": 5}))
    problem = open_tokenizer(tmp_path / "own.model", needs_end=False).symbols.problem
    assert "tokenizer_config.json: eos_token is " in problem
    assert len(problem) < 500


def test_the_identity_comes_from_the_trial_and_is_that_of_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(described())
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json")
    assert identity_of(tokenizer) == identity_from(tokenizer, tokenizer.pieces(), tokenizer.rules())
    untried = read_tokenizer(tmp_path / "tokenizer.json", described())
    assert untried.tried is None
    assert identity_of(untried) == identity_of(tokenizer)


@pytest.mark.parametrize("kind", ["hugging-face", "tiktoken"])
def test_a_document_on_which_the_library_fails_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """What no trial can know is found while documents are encoded."""
    file = tmp_path / "tokenizer.json"
    file.write_bytes(described(pre_tokenizer=split_by(BACKTRACKS)))
    if kind == "tiktoken":
        file = write_tiktoken(tmp_path, pattern=BACKTRACKS)
    texts = ["fine", "\u0416" * 60 + "x", "fine too"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    arguments = [
        "data",
        "tokenize",
        "--tokenizer",
        file,
        "--channel",
        "own",
        "--output",
        tmp_path / "out",
        tmp_path / "in.jsonl",
    ]
    assert run([*map(str, arguments), "--encoder", "reference"]) == EXIT_BAD_DATA
    told = capfd.readouterr().err.splitlines()[-1]
    assert "a text cannot be encoded: its library panics" in told
    assert "the document begins with '\u0416\u0416" in told
    assert "has 61 characters" in told


def test_a_document_that_takes_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SECONDS", 1.0)
    monkeypatch.setattr(native, "SECONDS_ALONE", 0.5)

    over = threading.Event()

    def encode(documents: list[str]) -> int:
        while "slow" in documents and not over.is_set():
            pass
        return len(documents)

    assert native.encoded(tmp_path, ["a", "b"], encode) == 2
    try:
        with pytest.raises(DataError, match=r"takes more than . s of processor time; the document begins with 'slow'"):
            native.encoded(tmp_path, ["fine", "slow"], encode)
    finally:
        over.set()  # its threads are left alone, and would slow down all tests that follow in this process


def test_a_stuck_library_does_not_keep_the_process_from_ending() -> None:
    """Neither an error nor Ctrl-C waits for it."""
    program = (
        "import threading\nfrom harness.tokenizers import native\n"
        "print('begun', flush=True)\n"
        "wait = lambda _: threading.Event().wait()\n"
        "native.encoded('x', ['a'], lambda documents: native.in_threads(wait, documents, 2))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert b"KeyboardInterrupt" in errors


def _paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(inner)[:12]:
        yield from _paths(part, (*path, key))


def test_a_tokenizer_json_with_any_value_changed_is_taken_or_refused(tmp_path: Path) -> None:
    """A slice of a campaign; without the child, which took what is tried here in the campaign."""
    changed = [None, True, [], {}, "", "x", -1, 10**25, 0.5, ["a", "b"], {"a": -1}, {"type": "Sequence"}]
    whole = json.loads(byte_level().to_str())
    cases = [(path, value) for path in _paths(whole) if path for value in changed]
    for path, value in random.Random(7).sample(cases, 300):
        damaged = copy.deepcopy(whole)
        place = damaged
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        try:
            tokenizer = read_tokenizer(tmp_path / "tokenizer.json", json.dumps(damaged).encode())
            identity_of(tokenizer)
        except HarnessError as error:
            assert error.exit_code == EXIT_BAD_DATA, (path, value)
            assert len(str(error)) < 1000, (path, value)
