"""`harness data prepare`: from raw files to channels, and what is done again when something has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from prepared_corpora import results_in, shipped, what_is_in, write_corpus, write_raw

pytest.importorskip("datatrove")
pytest.importorskip("rensa")

from data_prep.corpus import made_of
from harness.channels.provenance_of_parts import all_of_part
from harness.channels.source import read_source
from harness.cli import run
from harness.data.files.opened import open_part, parts_of
from harness.tokenizers.tokenizer import open_tokenizer

PREPARE = ("data", "prepare", "--config", "corpus.yaml")
Snapshot = Callable[[], Mapping[str, tuple[int, int, bytes]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """A corpus that is prepared."""
    folder = tmp_path_factory.mktemp("made")
    write_raw(folder)
    write_corpus(folder, model_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run([*PREPARE]) == 0
    return folder


@pytest.fixture
def corpus(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def snapshot(*names: str) -> Mapping[str, tuple[int, int, bytes]]:
    return what_is_in(*map(Path, names or ("corpus", "data")))


def of_source(name: str) -> Mapping[str, tuple[int, int, bytes]]:
    steps = ("corpus/cleaned", "corpus/deduped", "corpus/ordered", "corpus/tokenized", "data")
    return snapshot(*(f"{step}/{name}" for step in steps))


def lines(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, tuple[str, str]]:
    """State and reason of each step, as a dry run says them."""
    capsys.readouterr()
    run([*PREPARE, "--dry-run", "--json", *options])
    found = json.loads(capsys.readouterr().out)
    return {f"{line['source']} {line['step']}": (line["kind"], line["why"]) for line in found}


def bare(text: str) -> str:
    """A text without spaces, which the demo's tokenizer does not give back."""
    return "".join(text.replace("▁", " ").split()).strip("\ufffd")


def check_sources(channel: str, model_file: Path) -> None:
    """Holds every document of a channel against the raw line that is named as its source."""
    tokenizer, raw = open_tokenizer(model_file), Path("raw", channel)
    lines = {str(file): file.read_bytes().splitlines() for file in raw.iterdir()}
    named = set()
    for part in parts_of(Path("data", channel)):
        opened = open_part(part)
        for number, origin in enumerate(all_of_part(part)):
            text = json.loads(lines[origin.file][origin.line - 1])["text"]
            tokens = opened.document(number).tolist()
            # Of a document that was split each piece is in it; one may begin and end within a character.
            found = tokenizer.decode([token for token in tokens if token != tokenizer.end_of_document_id])
            assert bare(found) in bare(text)
            named.add(origin.file)
    assert named == set(lines)


def fresh(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, bytes]:
    """What becomes of the same raw files and settings where nothing was before."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    shutil.copytree(corpus / "raw", folder / "raw")
    shutil.copy(corpus / "corpus.yaml", folder)
    monkeypatch.chdir(folder)
    assert run([*PREPARE]) == 0
    monkeypatch.chdir(corpus)
    return results_in(folder)


def test_it_makes_what_the_single_commands_make(
    made: Path, tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "raw", tmp_path / "raw")
    shutil.copy(made / "corpus.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for verb in ("clean", "dedup"):
        assert run(["data", verb, "--config", "corpus.yaml"]) == 0
    assert run(["data", "order", "--config", "corpus.yaml", "--source", "en"]) == 0
    common = ("--tokenizer", str(model_file), "--output", "data", "--tokens-per-part", "1000")
    assert run(["data", "tokenize", "corpus/deduped/zh", "--channel", "zh", *common]) == 0
    assert (
        run(["data", "tokenize", "corpus/ordered/en", "--channel", "en", *common, "--max-document-tokens", "256"]) == 0
    )
    assert len([name for name in results_in(tmp_path) if name.endswith(".bin")]) > 6
    check_sources("zh", model_file)
    check_sources("en", model_file)
    single = results_in(tmp_path)
    assert single == results_in(made)
    # And what they made is up to date.
    before = what_is_in(tmp_path / "corpus", tmp_path / "data")
    assert run([*PREPARE]) == 0
    after = what_is_in(tmp_path / "corpus", tmp_path / "data")
    assert after == before


def test_what_is_up_to_date_is_left_alone(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot()
    assert run([*PREPARE]) == 0
    assert snapshot() == before
    said = capsys.readouterr().out
    assert said.count("up to date") == 7 and "wanted share" in said
    assert set(lines(capsys).values()) == {("up to date", "")}


def test_a_changed_rule_redoes_its_source_and_nothing_else(
    corpus: Path, tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(corpus, model_file, preset="prose")
    before, english = snapshot(), of_source("en")
    assert run([*PREPARE, "--dry-run"]) == 64
    said = capsys.readouterr()
    assert 'clean.preset: "prose" now, "light" there' in said.out
    assert "data/zh: the channel would have to be made anew, and a run may train on it" in said.err
    assert run([*PREPARE]) == 64
    assert run([*PREPARE, "--dry-run", "--replace-channels"]) == 0
    assert snapshot() == before
    assert lines(capsys, "--replace-channels") == {
        "zh clean": ("to redo", 'clean.preset: "prose" now, "light" there'),
        "zh dedup": ("to redo", "after clean, if that writes something else"),
        "zh tokenize": ("to redo", "after dedup, if that writes something else"),
        **{f"en {step}": ("up to date", "") for step in ("clean", "dedup", "order", "tokenize")},
    }
    assert run([*PREPARE, "--replace-channels", "--accept-loss"]) == 0
    assert of_source("en") == english
    assert set(lines(capsys).values()) == {("up to date", "")}
    assert not [path for path in corpus.rglob(".set-aside*")]
    monkeypatch.setitem(globals(), "PREPARE", (*PREPARE, "--accept-loss"))
    made = results_in(corpus)
    assert made == fresh(corpus, tmp_path, monkeypatch)
    assert made["corpus/cleaned/zh/0.jsonl"] != before["corpus/cleaned/zh/0.jsonl"][2]


def test_text_may_be_redone_without_its_channel(corpus: Path, model_file: Path) -> None:
    write_corpus(corpus, model_file, preset="prose")
    before = snapshot("data")
    assert run([*PREPARE, "--until", "dedup", "--accept-loss"]) == 0
    assert snapshot("data") == before
    write_corpus(corpus, model_file, preset="prose", output="other")
    assert run([*PREPARE]) == 0
    assert snapshot("data") == before
    assert read_source(Path("other/zh")) is not None


def test_what_comes_out_as_before_changes_nothing_behind_it(
    corpus: Path, model_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_of, "RULES", 2)
    text, channels = snapshot("corpus/cleaned"), snapshot("data")
    assert lines(capsys, "--replace-channels")["zh clean"] == ("to redo", "rules: 2 now, 1 there")
    assert run([*PREPARE, "--replace-channels"]) == 0
    after = snapshot("corpus/cleaned")
    assert after["corpus/cleaned/zh/0.jsonl"][0] != text["corpus/cleaned/zh/0.jsonl"][0]
    assert after["corpus/cleaned/zh/0.jsonl"][2] == text["corpus/cleaned/zh/0.jsonl"][2]
    assert snapshot("data") == channels


def test_files_that_come_in_addition_are_cleaned_alone_and_added_to_the_channel(
    corpus: Path, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "raw/zh/9.jsonl").write_bytes(shipped("zh", 500, 540) + shipped("zh", 0, 5))
    before = snapshot()
    assert lines(capsys)["zh clean"] == ("to redo", "1 input file is new (9.jsonl)")
    assert lines(capsys)["zh tokenize"] == ("to add to", "after dedup, if that writes something else")
    assert run([*PREPARE]) == 0
    after = snapshot()
    for number in range(4):  # the very files
        name = f"corpus/cleaned/zh/{number}.jsonl"
        assert after[name] == before[name]
    parts = [name for name in before if name.startswith("data/zh/part-")]
    assert len(parts) >= 4
    assert all(after[name] == before[name] for name in parts)
    assert len([name for name in after if name.startswith("data/zh/part-")]) > len(parts)
    made, whole = results_in(corpus), fresh(corpus, tmp_path, monkeypatch)
    assert {name: text for name, text in made.items() if not name.startswith("data/zh")} == {
        name: text for name, text in whole.items() if not name.startswith("data/zh")
    }
    assert run(["data", "verify", "data"]) == 0
    check_sources("zh", model_file)
    tokens = [read_source(folder / "data/zh") for folder in (corpus, tmp_path / "fresh")]
    assert len({found.finished.tokens for found in tokens if found and found.finished}) == 1
    assert set(lines(capsys).values()) == {("up to date", "")}


def test_of_a_changed_file_only_that_is_cleaned(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "raw/zh/2.jsonl").write_bytes(shipped("zh", 120, 179))
    before = snapshot()
    assert lines(capsys)["zh clean"] == ("to redo", "1 input file is changed (2.jsonl)")
    assert run([*PREPARE]) == 64
    assert snapshot() == before
    assert run([*PREPARE, "--replace-channels"]) == 0
    after = snapshot()
    same = [
        after[f"corpus/cleaned/zh/{number}.jsonl"] == before[f"corpus/cleaned/zh/{number}.jsonl"] for number in range(4)
    ]
    assert same == [True, True, False, True]


def test_an_order_leaves_no_room_for_further_files(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "raw/en/9.jsonl").write_bytes(shipped("en", 20, 22))
    before = snapshot()
    assert run([*PREPARE]) == 64
    assert "data/en: the channel would have to be made anew" in capsys.readouterr().err
    assert snapshot() == before


def test_a_copy_of_the_raw_files_is_the_same_corpus(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move("raw/zh", "raw/moved")
    shutil.copytree("raw/moved", "raw/zh", copy_function=shutil.copyfile)
    assert set(lines(capsys).values()) == {("up to date", "")}
    Path("corpus.yaml").write_text(Path("corpus.yaml").read_text().replace("raw/zh", "raw/moved"))
    assert set(lines(capsys).values()) == {("up to date", "")}


def test_a_record_of_an_earlier_version_is_held_against_what_it_has(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for plan in corpus.rglob("plan.json"):
        recorded = json.loads(plan.read_text())
        del recorded["marks"], recorded["rules"]
        plan.write_text(json.dumps(recorded))
    assert set(lines(capsys).values()) == {("up to date", "")}
    (corpus / "raw/zh/9.jsonl").write_bytes(shipped("zh", 500, 520))
    assert lines(capsys)["zh clean"] == ("to redo", "1 input file is new (9.jsonl)")
    assert run([*PREPARE]) == 0
    assert set(lines(capsys).values()) == {("up to date", "")}


def test_another_tokenizer_needs_another_folder(
    corpus: Path, json_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(corpus, json_file)
    before = snapshot()
    assert run([*PREPARE]) == 64
    assert "the channel would have to be made anew" in capsys.readouterr().err
    assert snapshot() == before
    write_corpus(corpus, json_file, output="other")
    assert run([*PREPARE]) == 0
    assert {name: each for name, each in snapshot("data").items()} == {
        name: each for name, each in before.items() if name.startswith("data/")
    }


def test_who_takes_a_rule_back_gets_the_old_result_back(
    corpus: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot("corpus/cleaned", "data")
    write_corpus(corpus, model_file, preset="prose, languages: [id]")
    assert run([*PREPARE, "--replace-channels"]) == 65
    assert "a rule drops more than 50%" in capsys.readouterr().err
    write_corpus(corpus, model_file)
    assert lines(capsys)["zh clean"] == ("to put back", "made so before")
    assert run([*PREPARE]) == 0
    assert snapshot("corpus/cleaned", "data") == before
    assert set(lines(capsys).values()) == {("up to date", "")}


def test_what_others_put_there_is_never_moved(
    corpus: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(corpus, model_file, preset="prose")
    notes = corpus / "corpus/cleaned/zh/notes.txt"
    notes.write_text("dear diary")
    before = snapshot()
    assert run([*PREPARE, "--replace-channels"]) == 64
    assert "corpus/cleaned/zh/notes.txt was not made by these commands" in capsys.readouterr().err
    assert snapshot() == before
    notes.unlink()
    (corpus / "corpus/cleaned/zh").rename(corpus / "elsewhere")
    (corpus / "corpus/cleaned/zh").symlink_to(corpus / "elsewhere")
    before = what_is_in(corpus / "elsewhere")
    assert run([*PREPARE, "--replace-channels"]) == 64
    assert "is a link" in capsys.readouterr().err
    assert what_is_in(corpus / "elsewhere") == before


def test_a_file_that_is_lost_is_made_again_and_the_channel_stays(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    channels = snapshot("data")
    (corpus / "corpus/deduped/zh/1.jsonl").unlink()
    assert lines(capsys)["zh dedup"] == ("to redo", "1.jsonl is not as it was written")
    assert run([*PREPARE]) == 0
    assert snapshot("data") == channels


@pytest.mark.parametrize(
    ("given", "wanted", "code", "message"),
    [
        ("max_document_tokens: 256", "long_documents: drop", 64, "needs a length"),
        ("max_document_tokens: 256", "end_of_document: '<none such>'", 64, "--end-of-document"),
        ("tokenizer: /", "tokenizer: /nowhere/", 65, "harness data train-tokenizer"),
        ("tokens_per_part: 1000", "tokens_per_parts: 1000", 64, "did you mean 'tokens_per_part'?"),
        ("max_document_tokens: 256", "tokenizer: x", 64, "unknown key; allowed: tokens_per_part"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(  # noqa: PLR0913 - one argument per fact
    tmp_path: Path,
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: str,
    wanted: str,
    code: int,
    message: str,
) -> None:
    write_raw(tmp_path)
    file = write_corpus(tmp_path, model_file)
    assert given in file.read_text()
    file.write_text(file.read_text().replace(given, wanted))
    monkeypatch.chdir(tmp_path)
    assert run([*PREPARE]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "corpus").exists()


def test_json_names_what_was_done(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "raw/zh/9.jsonl").write_bytes(shipped("zh", 500, 520))
    capsys.readouterr()
    assert run([*PREPARE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["source"], each["step"], each["outcome"]) for each in found][:4] == [
        ("zh", "clean", "done"),
        ("zh", "dedup", "done"),
        ("zh", "tokenize", "done"),
        ("en", "clean", "up to date"),
    ]
    assert len(found[0]["reports"]) == 5 and found[2]["totals"]["documents"] > 200


def test_the_number_of_tasks_changes_nothing_that_is_done(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("corpus.yaml")
    file.write_text(file.read_text().replace("executor: {", "executor: {tasks: 2, "))
    assert set(lines(capsys).values()) == {("up to date", "")}
    assert run(["data", "clean", "--config", "corpus.yaml"]) == 0


def test_single_commands_name_the_one_that_makes_anew(
    corpus: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(corpus, model_file, preset="prose")
    assert run(["data", "clean", "--config", "corpus.yaml"]) == 64
    said = capsys.readouterr().err
    assert "was made of another clean" in said and "harness data prepare" in said
