"""Documents judged by what the user gives: quality scores, lists of banned words, topics."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from texts import CHINESE, ENGLISH

pytest.importorskip("datatrove")
pytest.importorskip("py3langid")

from judges import BAD, GOOD, onnx_classifier, trained

from data_prep.corpus.config import CleanConfig, load_corpus
from data_prep.text.banned_words import BannedWords, read_banned_words
from data_prep.text.classifiers.classifier import Score, classifier
from data_prep.verbs.corpus_verbs import clean
from data_prep.verbs.prepare_verb import prepare
from harness.errors import ConfigError, DataError, UsageError

INDONESIAN = (
    "Perjanjian itu ditandatangani pada musim semi dan raja yang menang dalam perang itu dengan para pengikutnya"
)


def mixed(generator: random.Random, share: float, words: int = 60, others: list[str] = GOOD) -> str:
    """A text of which this share of the words is good."""
    return " ".join(generator.choice(others if generator.random() < share else BAD) for _ in range(words))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(clean, [str(argument) for argument in arguments])


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def written(file: Path, texts: list[str]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps({"text": text, "id": number}) + "\n" for number, text in enumerate(texts)))
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = random.Random(0)
    texts = {"hq": [mixed(generator, 1) for _ in range(50)], "cc": [mixed(generator, 0) for _ in range(50)]}
    return trained(tmp_path_factory.mktemp("model") / "quality.bin", texts)


def test_documents_with_a_low_score_go_and_the_score_stays(model: Path, tmp_path: Path) -> None:
    generator = random.Random(1)
    texts = [mixed(generator, share) for share in (1, 0, 0.9, 0.1)]
    raw = written(tmp_path / "raw/a.jsonl", texts)
    options = ("--preset", "light", "--quality-model", model, "--quality-threshold", 0.5)
    result = call(raw, "--output", tmp_path / "out", *options)
    assert result.exception is None, result.exception
    assert "  low quality: 2 (50.00%)" in result.stdout
    kept = lines_of(tmp_path / "out/a.jsonl")
    assert [entry["id"] for entry in kept] == [0, 2] and [entry["text"] for entry in kept] == [texts[0], texts[2]]
    score = Score(classifier(model, "x"), "__label__hq", "x")
    assert [entry["quality"] for entry in kept] == [round(score(text), 6) for text in (texts[0], texts[2])]
    assert all(0.5 <= entry["quality"] <= 1 for entry in kept)


def test_quantiles_of_each_language_are_measured_first(model: Path, tmp_path: Path) -> None:
    generator = random.Random(2)
    good = {"en": GOOD, "id": INDONESIAN.split()}
    texts = {
        name: [mixed(generator, 0.5 + place / 200, others=words) for place in range(100)]
        for name, words in good.items()
    }
    written(tmp_path / "raw/en.jsonl", texts["en"])
    written(tmp_path / "raw/id.jsonl", texts["id"])
    # Words of Indonesian are not in the model: one threshold for all would drop all of it.
    written(tmp_path / "raw/zh.jsonl", [CHINESE] * 3)
    (tmp_path / "corpus.yaml").write_text(
        f"output: {tmp_path}/corpus\nsources:\n  web:\n    input: [{tmp_path}/raw]\n    dedup: {{methods: [exact]}}\n"
        f"    clean: {{preset: light, quality: {{model: {model}, quantile: {{default: 0.3, id: 0.1}}}}}}\n"
    )
    result = CliRunner().invoke(clean, ["--config", str(tmp_path / "corpus.yaml")])
    assert result.exception is None, result.exception
    kept = {name: len(lines_of(tmp_path / f"corpus/cleaned/web/{name}.jsonl")) for name in ("en", "id", "zh")}
    assert kept["zh"] == 3 and 65 <= kept["en"] <= 75 and 85 <= kept["id"] <= 95
    assert f"language en: kept {kept['en']} of 100" in result.stdout and "low quality " in result.stdout
    assert "documents of languages with fewer than 50 documents in the sample: " in result.stderr
    assert "NOT APPLIED: 'low quality' to " in result.stderr and "zh 3" in result.stderr


def test_a_changed_model_or_list_makes_the_text_anew(tmp_path: Path) -> None:
    written(tmp_path / "raw/a.jsonl", [ENGLISH, ENGLISH.replace("the", "a")])
    (tmp_path / "words.txt").write_text("nothing\n")
    (tmp_path / "corpus.yaml").write_text(
        f"output: {tmp_path}/corpus\nsources:\n  en: {{input: [{tmp_path}/raw], clean: {{preset: light, "
        f"most_dropped_share: 1, banned_words: {{default: {tmp_path}/words.txt}}}}}}\n"
    )
    arguments = ["--config", str(tmp_path / "corpus.yaml"), "--until", "clean", "--json"]
    first = json.loads(CliRunner().invoke(prepare, arguments).stdout)
    assert first[0]["reports"][0]["kept"] == 2
    assert json.loads(CliRunner().invoke(prepare, arguments).stdout)[0]["outcome"] == "up to date"
    (tmp_path / "words.txt").write_text("THE\n")
    second = json.loads(CliRunner().invoke(prepare, arguments).stdout)
    assert (second[0]["outcome"], second[0]["reports"][0]["dropped"]) == ("done", {"banned words": 1})


def test_a_classifier_in_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    generator = random.Random(3)
    model = onnx_classifier(tmp_path / "classifier")
    raw = written(tmp_path / "raw/a.jsonl", [mixed(generator, share) for share in (1, 0)])
    options = ("--preset", "light", "--quality-model", model, "--quality-label", "hq", "--quality-threshold", 0.5)
    result = call(raw, "--output", tmp_path / "out", *options)
    assert result.exception is None, result.exception
    (kept,) = lines_of(tmp_path / "out/a.jsonl")
    assert kept["id"] == 0 and kept["quality"] > 0.99
    with pytest.raises(UsageError, match=r"x: the model has no label 'good'. Its labels: bad, hq\."):
        Score(classifier(model, "x"), "good", "x")
    # One output is a number, whatever its label.
    number = Score(classifier(onnx_classifier(tmp_path / "number", labels=("score",)), "x"), "__label__hq", "x")
    assert number(" ".join(GOOD[:10])) == pytest.approx(3.0) and number("casino bonus") == pytest.approx(-0.6)


def test_models_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="clean.quality.model .*no.bin: there is no such file"):
        classifier(tmp_path / "no.bin", "clean.quality.model")
    (tmp_path / "a.bin").write_bytes(b"\xba\x16\x4f\x2f" + b"\xff" * 300)
    with pytest.raises(UsageError, match="a.bin: "):
        classifier(tmp_path / "a.bin", "x")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    (tmp_path / "a.onnx").write_bytes(b"\xff" * 300)
    with pytest.raises(UsageError, match="there is no tokenizer.json beside it"):
        classifier(tmp_path / "a.onnx", "x")
    good = onnx_classifier(tmp_path / "classifier")
    good.write_bytes(good.read_bytes()[:100])
    with pytest.raises(UsageError, match="model.onnx: cannot be opened"):
        classifier(good, "x")
    other = onnx_classifier(tmp_path / "other", inputs=("input_ids", "pixels"))
    with pytest.raises(UsageError, match="its inputs are to be among input_ids, .*; it has pixels"):
        classifier(other, "x")
    (onnx_classifier(tmp_path / "twice").with_name("config.json")).write_text('{"id2label": {"0": "hq", "1": "hq"}}')
    with pytest.raises(UsageError, match="does not give each of the 2 labels a name of its own"):
        classifier(tmp_path / "twice/model.onnx", "x")


def test_a_package_for_onnx_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from data_prep.text.classifiers.onnx_file import OnnxModel

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match="Python package onnxruntime, which is not installed.* `data-quality` extra"):
        OnnxModel(tmp_path / "a.onnx").labels()


@pytest.mark.parametrize(
    ("entries", "text", "count"),
    [
        (["bad"], "A bad badge, BAD! (bad)", 3),
        (["bad word"], "Bad words; a bad  word, a bad-word", 2),
        (["don't"], "They don’t or don't", 2),
        (["賭博", "賭博網站"], "這個賭博網站和賭博", 2),
        (["การพนัน"], "เว็บการพนันออนไลน์", 1),
        (["लोग"], "लोग लोगों", 1),
        (["Straße"], "STRASSE strasse", 2),
        (["cafe\u0301"], "café CAFÉ cafe", 2),
        (["نص"], "نص نصوص", 1),
    ],
)
def test_banned_words_between_borders_or_within_text(entries: list[str], text: str, count: int) -> None:
    assert BannedWords(entries).count(text) == count


def test_lists_by_language_and_how_many_words_a_document_may_have(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("casino\n\n")
    (tmp_path / "zh.txt").write_text("語料\n语料\n")
    raw = written(tmp_path / "raw/a.jsonl", [ENGLISH + " Casino.", CHINESE, ENGLISH + " casino" * 3, ENGLISH + " 语料"])
    lists = (
        "--preset",
        "light",
        "--banned-words",
        tmp_path / "words.txt",
        "--banned-words",
        f"zh={tmp_path / 'zh.txt'}",
    )

    def kept(name: str, *options: object) -> list[int]:
        result = call(raw, "--output", tmp_path / name, "--accept-loss", *lists, *options)
        assert result.exception is None, result.exception
        return [entry["id"] for entry in lines_of(tmp_path / name / "a.jsonl")]

    assert "语料" in CHINESE
    assert kept("none") == [3]  # the word of Chinese is none in English
    assert kept("one", "--most-banned-words", 1) == [0, 1, 3]
    assert kept("share", "--most-banned-share", 0.9) == [0, 1, 2, 3]
    assert {entry["reason"] for entry in lines_of(tmp_path / "none/a.jsonl.dropped")} == {"banned words"}


def test_lists_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    with pytest.raises(UsageError, match="there is no such file"):
        read_banned_words(file)
    for content, why in ((b"a\n***\n", "line 2 has neither letters nor digits"), (b"\xff\xfe", "is not UTF-8 .byte 0")):
        file.write_bytes(content)
        with pytest.raises(DataError, match=why):
            read_banned_words(file)
    file.write_bytes(b"\n \n")
    with pytest.raises(UsageError, match="has no words"):
        read_banned_words(file)


def test_topics_stay_in_the_record(tmp_path: Path) -> None:
    generator = random.Random(5)
    texts = {"history": [mixed(generator, 1) for _ in range(50)], "trade": [mixed(generator, 0) for _ in range(50)]}
    model = trained(tmp_path / "topics.bin", texts)
    raw = tmp_path / "a.jsonl"
    entries = [
        {"text": mixed(generator, 1), "url": "https://www.Example.org:8080/a"},
        {"text": mixed(generator, 0), "url": "http://[broken"},
        {"text": "qqq zzz", "topic": "of old"},
    ]
    raw.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    for name, options in (("model", ("--topic-model", model)), ("host", ("--topic-host-of", "url"))):
        result = call(raw, "--preset", "light", "--output", tmp_path / name, *options)
        assert result.exception is None, result.exception
    assert [entry["topic"] for entry in lines_of(tmp_path / "model/a.jsonl")][:2] == ["history", "trade"]
    assert [entry["topic"] for entry in lines_of(tmp_path / "host/a.jsonl")] == ["example.org", None, None]


@pytest.mark.parametrize(
    ("clean_section", "why"),
    [
        ("quality: {model: m.bin}", "must have a threshold or a quantile"),
        ("quality: {model: m.bin, threshold: 0.5, quantile: {default: 0.1}}", "a threshold and a quantile for default"),
        ("quality: {model: m.bin, quantile: {Indonesian: 0.1}}", "Indonesian is neither"),
        ("quality: {model: m.bin, quantile: 1}", "less than 1"),
        ("quality: {model: m.bin, threshold: .nan}", "finite number"),
        ("quality: {model: m.bin, treshold: 0.5}", "did you mean 'threshold'"),
        ("topic: {}", "must have either `model` or `host_of`"),
        ("banned_words: {en: 5}", "banned_words.en"),
        ("banned_words: {english: a.txt}", "english is neither"),
    ],
)
def test_settings_that_mean_nothing_are_refused(clean_section: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "corpus.yaml"
    file.write_text(f"output: o\nsources:\n  a: {{input: [x], clean: {{{clean_section}}}}}\n")
    with pytest.raises(ConfigError, match=why):
        load_corpus(file)


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    raw = written(tmp_path / "raw/a.jsonl", [ENGLISH])
    for options, why in (
        (("--quality-threshold", 0.5), "are for --quality-model: give it"),
        (("--quality-model", "m", "--quality-threshold", "id=much"), "'much' is no number"),
        (("--quality-model", "m", "--quality-threshold", 1, "--quality-threshold", 2), "default is named twice"),
        (("--quality-model", "m"), "must have a threshold or a quantile"),
        (("--banned-words", tmp_path / "no.txt"), "there is no such file"),
    ):
        error = call(raw, "--output", tmp_path / "out", *options).exception
        assert isinstance(error, UsageError) and why in str(error), error
    assert not (tmp_path / "out").exists()
    assert CleanConfig().asks_language and not CleanConfig(preset="light").asks_language
