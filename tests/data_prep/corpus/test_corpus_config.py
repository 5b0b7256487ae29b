from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.corpus.config import load_corpus
from harness import cli
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
        ("kind: knowledge}", "dedup: {methods: []}}", "dedup.methods: tuple should have at least 1 item"),
        ("kind: knowledge}", "dedup: {methods: [exact, exact]}}", "dedup.methods: must name each method once"),
        ("mix:", "mixture:", "mixture: unknown key; allowed: output, sources, language_model, executor, tokenize, mix"),
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
    with pytest.raises(ConfigError, match="no.yaml: there is no such file"):
        load_corpus(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{array: 0-3}", "--array is not allowed: set executor.tasks"),
        ("{arr: 0-3}", "--arr is not allowed: sbatch takes it for --array; write the whole name"),
        ("{wrap: touch x}", "--wrap is not allowed: the jobs have a script of their own"),
        ("{wait: ''}", "--wait is not allowed"),
        ("{wai: ''}", "--wai is not allowed"),
        ("{export: NONE}", "--export is not allowed"),
        ("{output: /dev/null}", "--output is not allowed: the logs are beside the output"),
        ("{error: x}", "--error is not allowed"),
        ("{parsable: ''}", "--parsable is not allowed"),
        ("{time: '1'}", "--time is not allowed: set executor.slurm.time"),
        ("{exclude: ''}", "--exclude needs a value: write it behind '='"),
        ('{comment: "a\\ntouch x"}', "executor.slurm.sbatch.comment"),
        ('{comment: "a\\n"}', "executor.slurm.sbatch.comment"),
        ("{'x y': '1'}", "executor.slurm.sbatch.x y"),
        ("{'hold\\ntouch x': ''}", "executor.slurm.sbatch"),
    ],
)
def test_options_of_sbatch_that_would_break_the_jobs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    given = WHOLE.replace('time: "12:00:00"', f'time: "12:00:00", sbatch: {options}')
    (tmp_path / "corpus.yaml").write_text(given)
    assert cli.run(["data", "clean", "--config", str(tmp_path / "corpus.yaml")]) == 64
    said = capsys.readouterr().err
    assert "corpus.yaml:11:" in said
    assert message in said


def test_other_options_of_sbatch_are_passed_on(tmp_path: Path) -> None:
    given = WHOLE.replace('time: "12:00:00"', 'time: "1", sbatch: {account: nlp, exclude: "n[1-3]", contiguous: ""}')
    (tmp_path / "corpus.yaml").write_text(given)
    slurm = load_corpus(tmp_path / "corpus.yaml").executor.slurm
    assert slurm is not None
    assert slurm.sbatch == {"account": "nlp", "exclude": "n[1-3]", "contiguous": ""}
