"""`harness data clean`: what is kept, what is listed, and going on after an interruption."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from texts import CHINESE, ENGLISH, MARKDOWN

pytest.importorskip("datatrove")

from data_prep.corpus.filters import RuleFilter, SpareMarkup, named_filter
from data_prep.text.input_files import find_inputs
from data_prep.text.languages.identify import identifier
from data_prep.text.text_files import finished_files, output_names
from data_prep.verbs.corpus_verbs import clean
from harness.errors import DataError, UsageError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    lines = [json.dumps({"id": 1, "text": ENGLISH}), json.dumps({"id": 2, "text": "Click."}), "not JSON"]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n" + json.dumps({"text": CHINESE}, ensure_ascii=False))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress((json.dumps({"text": CHINESE}) + "\n").encode()))
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(clean, [str(argument) for argument in arguments])


def test_kept_lines_stay_as_they_are_and_dropped_ones_are_listed(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call(corpus, "--output", out)
    assert result.exception is None, result.exception
    assert result.stdout.startswith(f"{out}: kept 3 of 5 documents (60.00%), ")
    assert "  too short: 1 (20.00%)\n" in result.stdout and "  not a document: 1 (20.00%)\n" in result.stdout
    first, _, _, last = (corpus / "a.jsonl").read_text().splitlines()
    assert (out / "a.jsonl").read_text().splitlines() == [first, last]
    assert gzip.decompress((out / "b.jsonl.gz").read_bytes()) == gzip.decompress((corpus / "b.jsonl.gz").read_bytes())
    assert [json.loads(line) for line in (out / "a.jsonl.dropped").read_text().splitlines()] == [
        {"line": 2, "reason": "too short", "begin": "Click.", "language": "unknown"},
        {"line": 3, "reason": "not a document: not JSON (Expecting value: line 1 column 1 (char 0))"},
    ]
    # What was written is the input of the next step, and nothing else is.
    assert [file.name for file in find_inputs([str(out)])] == ["a.jsonl", "b.jsonl.gz"]
    again = call(corpus, "--output", out)
    assert (again.exception, again.stdout) == (None, result.stdout)


def test_an_interrupted_call_goes_on_with_the_files_that_are_left(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (corpus / "b.jsonl.gz").write_bytes(b"damaged")
    error = call(corpus, "--output", out).exception
    assert isinstance(error, DataError) and "b.jsonl.gz" in str(error)
    assert not (out / "b.jsonl.gz").exists() and (out / "a.jsonl").exists()
    kept = "kept".ljust((out / "a.jsonl").stat().st_size)
    (out / "a.jsonl").write_text(kept)
    mended = gzip.compress((json.dumps({"text": CHINESE}) + "\n").encode())
    (corpus / "b.jsonl.gz").write_bytes(mended)
    # The plan knows the damaged file: whoever mends the input says so.
    assert "was made of another input" in str(call(corpus, "--output", out).exception)
    plan = out / ".stages" / "plan.json"
    recorded = json.loads(plan.read_text())
    recorded["input"][1][1] = len(mended)
    del recorded["marks"]  # as earlier versions wrote it
    plan.write_text(json.dumps(recorded))
    result = call(corpus, "--output", out, "--json")
    assert result.exception is None, result.exception
    assert [report["kept"] for report in json.loads(result.stdout)] == [2, 1]
    assert (out / "a.jsonl").read_text() == kept


def test_files_of_other_input_are_not_overwritten(corpus: Path, tmp_path: Path) -> None:
    call(corpus / "b.jsonl.gz", "--output", tmp_path / "out")
    error = call(corpus / "a.jsonl", "--output", tmp_path / "out").exception
    assert isinstance(error, UsageError)
    assert "was made of another input" in str(error) and "Choose another --output" in str(error)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    assert "is not empty. It stays as it is" in str(call(corpus, "--output", tmp_path / "full").exception)


def test_an_edited_list_is_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "files.json").write_text("[{}]")
    with pytest.raises(DataError, match="files.json: not readable"):
        finished_files(tmp_path)


def test_private_data_is_replaced_in_prose_and_other_keys_stay(tmp_path: Path) -> None:
    line = {"id": 7, "text": ENGLISH + " Write to jane@corp.cn.", "score": 0.5}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    for preset, options in (("prose", ()), ("light", ()), ("light", ("--private-data", "replace"))):
        out = tmp_path / "-".join([preset, *options])
        assert call(tmp_path / "a.jsonl", "--preset", preset, "--output", out, *options).exception is None
        kept = json.loads((out / "a.jsonl").read_text())
        is_replaced = preset == "prose" or bool(options)
        assert kept == line | ({"text": ENGLISH + " Write to email@example.com."} if is_replaced else {})


def test_rows_of_parquet_keep_their_columns(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [ENGLISH, "Click.", CHINESE + " 13912345678"]
    parquet.write_table(arrow.table({"text": texts, "score": [1, 2, 3]}), tmp_path / "a.parquet")
    assert call(tmp_path / "a.parquet", "--output", tmp_path / "out").exception is None
    lines = gzip.decompress((tmp_path / "out" / "a.jsonl.gz").read_bytes()).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": ENGLISH, "score": 1},
        {"text": CHINESE + " 13800000000", "score": 3},
    ]


def test_names_of_the_output() -> None:
    files = [Path("x/a.jsonl.gz"), Path("y/a.jsonl.gz"), Path("b.parquet")]
    assert output_names(files) == ["a.jsonl.gz", "a-2.jsonl.gz", "b.jsonl.gz"]


def test_inputs_or_a_corpus_file(corpus: Path, tmp_path: Path) -> None:
    for arguments in ((corpus,), ("--output", tmp_path), ()):
        assert "give IN and --output, or --config" in str(call(*arguments).exception)
    both = call(corpus, "--config", tmp_path / "corpus.yaml").exception
    assert "leave them out, or --config" in str(both)


def document(text: str) -> object:
    from datatrove.data import Document

    return Document(text=text, id="0")


def test_datatroves_filters_spare_markup() -> None:
    for name, arguments in (("gopher_quality", {"min_doc_words": 5}), ("c4_quality", {}), ("fineweb_quality", {})):
        step = named_filter(name, arguments)
        assert isinstance(step, SpareMarkup)
        assert step.filter(document(MARKDOWN)) is True
    assert named_filter("gopher_quality", {}).filter(document("too short a text")) == (False, "gopher_short_doc")
    with pytest.raises(UsageError, match="filter gopher_quality: datatrove does not take these arguments"):
        named_filter("gopher_quality", {"min_words": 3})


def test_rules_say_which_was_broken() -> None:
    assert RuleFilter("prose", spare_markup=True).filter(document("Click.")) == (False, "too short")
    assert RuleFilter("prose", spare_markup=True).filter(document(ENGLISH)) is True


def test_languages_by_a_model_of_fasttext(tmp_path: Path) -> None:
    """The model is made here, of real text."""
    fasttext = pytest.importorskip("fasttext")
    pytest.importorskip("fasteners")
    english, chinese = ENGLISH.split(". "), CHINESE.split("。")
    lines = [f"__label__en {text}" for text in english] + [f"__label__zh {' '.join(text)}" for text in chinese if text]
    (tmp_path / "lines.txt").write_text("\n".join(lines * 20))
    model = fasttext.train_supervised(
        str(tmp_path / "lines.txt"), minn=1, maxn=3, dim=8, lr=1.0, epoch=50, thread=1, verbose=0
    )
    model.save_model(str(tmp_path / "lid.bin"))
    raw = tmp_path / "a.jsonl"
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in (ENGLISH, CHINESE)))
    options = ("--preset", "light", "--language", "en", "--language-model", tmp_path / "lid.bin")
    result = call(raw, "--output", tmp_path / "out", *options)
    assert result.exception is None, result.exception
    assert "  other language: 1 (50.00%)" in result.stdout
    assert json.loads((tmp_path / "out" / "a.jsonl").read_text())["text"] == ENGLISH
    with pytest.raises(UsageError, match="language_model .*no.bin: there is no such file"):
        identifier(tmp_path / "no.bin")
    with pytest.raises(UsageError, match="language model .*lines.txt: is not a fastText model"):
        identifier(tmp_path / "lines.txt")


def test_empty_lines_and_texts_are_listed_as_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": ENGLISH}) + '\n\n{"text": " "}\n{}\n')
    result = call(tmp_path / "a.jsonl", "--output", tmp_path / "out", "--json")
    (report,) = json.loads(result.stdout)
    assert report["dropped"] == {"empty": 2, "not a document": 1}


def test_text_under_a_nested_key_is_changed_in_its_place(tmp_path: Path) -> None:
    text = ENGLISH + "\nWrite to jo@mail.example.net for more."
    (tmp_path / "a.JSON").write_text(json.dumps({"meta": {"text": text, "id": 7}, "b": 1}) + "\n")
    result = call(tmp_path / "a.JSON", "--text-key", "meta.text", "--output", tmp_path / "out")
    assert result.exception is None, result.exception
    (line,) = (tmp_path / "out" / "a.JSON").read_text().splitlines()
    found = json.loads(line)
    assert found == {"meta": {"text": found["meta"]["text"], "id": 7}, "b": 1}
    assert "jo@mail" not in found["meta"]["text"] and found["meta"]["text"].startswith(ENGLISH[:40])
