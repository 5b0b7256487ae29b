from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from data_prep.verbs.data_verbs import tokenize
from harness.errors import DataError, UsageError


@pytest.fixture
def corpus(poems: list[str], tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    lines = [json.dumps({"body": poem}) + "\n" for poem in poems[:50]]
    (tmp_path / "corpus" / "a.jsonl").write_text("".join(lines[:25]))
    (tmp_path / "corpus" / "b.jsonl").write_text("".join(lines[25:]) + "not JSON\n")
    return tmp_path / "corpus"


def call(corpus: Path, model_file: Path, *options: str) -> Result:
    arguments = [
        str(corpus),
        "--tokenizer",
        str(model_file),
        "--channel",
        "zh",
        "--output",
        str(corpus.parent / "data"),
    ]
    return CliRunner().invoke(tokenize, [*arguments, "--text-key", "body", *options])


def test_makes_a_channel_and_says_what_is_in_it(corpus: Path, model_file: Path) -> None:
    result = call(corpus, model_file, "--max-rejected-share", "0.05")
    assert result.exception is None
    folder = corpus.parent / "data" / "zh"
    part = json.loads((folder / "parts.jsonl").read_text())
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{folder}: 1 part, 50 documents, {part['tokens']:,} tokens, ")
    assert first.endswith(" characters per token")
    assert second == f"  rejected 1 of 51 lines (1.96%), listed in {folder}/rejected.jsonl"


def test_options_reach_the_channel(corpus: Path, model_file: Path) -> None:
    call(corpus, model_file, "--max-rejected-share", "0.05", "--tokens-per-part", "500", "--no-append-eod")
    source = json.loads((corpus.parent / "data" / "zh" / "source.json").read_text())
    assert (source["tokens_per_part"], source["end_of_document_id"], source["text_key"]) == (500, None, "body")


def test_errors_are_the_harness_s(corpus: Path, model_file: Path) -> None:
    assert isinstance(call(corpus, model_file).exception, DataError)
    assert isinstance(call(corpus / "no", model_file).exception, UsageError)
    assert isinstance(call(corpus, corpus / "no.model").exception, DataError)


@pytest.mark.parametrize("channel", ["a/b", "..", "", "中文", "a" * 65])
def test_names_that_no_configuration_could_use(corpus: Path, model_file: Path, channel: str) -> None:
    error = call(corpus, model_file, "--channel", channel).exception
    assert isinstance(error, UsageError)
    assert "cannot be the name of a channel. Allowed are up to 64 letters, digits" in str(error)


def test_help_has_an_example_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from data_prep.verbs.data_verbs import tokenize\n"
        "try: tokenize(['--help'])\n"
        "except SystemExit: print({'numpy', 'torch', 'rich', 'sentencepiece', 'tokenizers'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "harness data tokenize corpus/zh/ --tokenizer tokenizer.model --channel zh --output data" in output
    assert output.endswith("\nset()\n")


def test_the_encoder_is_said_and_long_documents_are_cut(corpus: Path, model_file: Path) -> None:
    result = call(corpus, model_file, "--max-rejected-share", "0.05", "--max-document-tokens", "40")
    assert "too long: " in result.stdout
    assert "tokenize zh: encoder" in result.stderr
    source = json.loads((corpus.parent / "data" / "zh" / "source.json").read_text())
    assert (source["max_document_tokens"], source["long_documents"]) == (40, "split")


def test_the_reference_says_nothing_of_itself(corpus: Path, model_file: Path) -> None:
    result = call(corpus, model_file, "--max-rejected-share", "0.05", "--encoder", "reference")
    said = "tokenize zh: documents end with <|endoftext|> (id 1): the model's own end of a sentence\n"
    assert (result.exception, result.stderr) == (None, said)


def test_long_documents_need_a_length(corpus: Path, model_file: Path) -> None:
    error = call(corpus, model_file, "--long-documents", "drop").exception
    assert isinstance(error, UsageError)
    assert "--long-documents drop needs a length: give --max-document-tokens" in str(error)
