from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.corpus.config import load_corpus
from harness.errors import ConfigError

WHOLE = """\
output: corpus
language_model: lid.176.bin
sources:
  zh: {input: [raw/zh], clean: {preset: prose, languages: [zh]}}
  en: {input: ["raw/en/*.parquet"], kind: knowledge}
  code: {input: [raw/code], kind: code}
executor:
  kind: local
  tasks: 64
  local: {workers: 8}
  slurm: {partition: cpu, time: "12:00:00"}
mix: {channels: data, shares: {zh: 4, en: 4, code: 2}, tokens: 100B}
"""


def load(tmp_path: Path, text: str) -> object:
    (tmp_path / "corpus.yaml").write_text(text)
    return load_corpus(tmp_path / "corpus.yaml")


def test_kinds_are_treated_differently(tmp_path: Path) -> None:
    (tmp_path / "corpus.yaml").write_text(WHOLE)
    sources = load_corpus(tmp_path / "corpus.yaml").sources
    assert {name: source.cleaning.preset for name, source in sources.items()} == {
        "zh": "prose",
        "en": "light",
        "code": "code",
    }
    assert {name: source.deduplication.methods for name, source in sources.items()} == {
        "zh": ("minhash",),
        "en": ("minhash", "sentence"),
        "code": ("exact",),
    }
    assert [source.cleaning.replaces_private_data for source in sources.values()] == [True, False, False]
    assert sources["en"].deduplication.threshold < sources["zh"].deduplication.threshold


@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        ("kind: code", "kin: code", "corpus.yaml:6:29: sources.code.kin: unknown key; did you mean 'kind'?"),
        ("kind: code", "kind: prose", "input should be 'web', 'knowledge' or 'code', given 'prose'"),
        ("tasks: 64", "tasks: 0", "corpus.yaml:9:3: executor.tasks: input should be greater than or equal to 1"),
        ("output: corpus\n", "", "output: is missing"),
        ("preset: prose", "presett: prose", "unknown key; did you mean 'preset'?"),
        ("partition: cpu", "partition: 'a b'", "executor.slurm.partition"),
        ("mix:", "mixture:", "mixture: unknown key; allowed: output, sources, language_model, executor, mix"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, given: str, wanted: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, WHOLE.replace(given, wanted))
    assert message in str(error.value)


@pytest.mark.parametrize(("text", "message"), [("", "has no sections"), ("- a", "has no sections")])
def test_files_that_are_no_corpus_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no.yaml: cannot be read: .*Give a YAML file in UTF-8"):
        load_corpus(tmp_path / "no.yaml")
