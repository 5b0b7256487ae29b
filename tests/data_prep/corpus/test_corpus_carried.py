"""Cleaning of further files: what is taken over is what cleaning all of them would have made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("py3langid")

from benchmarks.languages import documents
from harness.cli import run

CORPUS = """\
output: {folder}/{name}
sources: {{web: {{input: [{folder}/raw], clean: {{most_dropped_share: 1.0{more}}}, dedup: {{methods: [exact]}}}}}}
"""


def prepare(folder: Path, name: str, more: str = "") -> Path:
    (folder / "corpus.yaml").write_text(CORPUS.format(folder=folder, name=name, more=more))
    assert run(["data", "prepare", "--config", str(folder / "corpus.yaml"), "--until", "clean"]) == 0
    return folder / name / "cleaned" / "web"


def write(folder: Path, name: str, texts: list[str]) -> None:
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw" / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name.endswith((".jsonl", ".dropped", ".provenance"))
    }


def test_files_whose_languages_are_judged_otherwise_now_are_cleaned_again(tmp_path: Path) -> None:
    texts = documents()
    no_text = " ".join(word for text in texts["tl"] for word in text.split() if len(word) > 8)[:900]
    write(tmp_path, "0-en.jsonl", texts["en"])
    write(tmp_path, "1-tl.jsonl", [*texts["tl"], no_text])
    folder = prepare(tmp_path, "made")
    before = {name: (folder / name).stat().st_ino for name in ("0-en.jsonl", "1-tl.jsonl")}
    dropped = (folder / "1-tl.jsonl.dropped").read_text()
    # Ilocano is taken for Tagalog, and has not its words: so no text is held against them any more.
    write(tmp_path, "2-ilo.jsonl", texts["ilo"])
    assert prepare(tmp_path, "made") == folder
    assert (folder / "0-en.jsonl").stat().st_ino == before["0-en.jsonl"]
    assert (folder / "1-tl.jsonl").stat().st_ino != before["1-tl.jsonl"]
    assert "no stop words" in dropped and (folder / "1-tl.jsonl.dropped").read_text() != dropped
    assert content(folder) == content(prepare(tmp_path, "fresh"))


def test_files_are_taken_over_under_their_new_names_with_what_lies_beside_them(tmp_path: Path) -> None:
    texts = documents()
    for name in ("a", "c"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        shutil.copy(Path(__file__), tmp_path / "raw" / name / "notes.txt")
    write(tmp_path, "c/0.jsonl", ["short", *texts["en"]])
    folder = prepare(tmp_path, "made")
    inode = (folder / "0.jsonl").stat().st_ino
    write(tmp_path, "a/0.jsonl", texts["id"])
    prepare(tmp_path, "made")
    assert (folder / "0-2.jsonl").stat().st_ino == inode
    assert '"too short"' in (folder / "0-2.jsonl.dropped").read_text()
    assert content(folder) == content(prepare(tmp_path, "fresh"))
    # After a change of the rules nothing is.
    prepare(tmp_path, "made", more=", preset: light")
    assert (folder / "0-2.jsonl").stat().st_ino != inode


def test_a_mended_file_is_all_that_is_left_to_clean(tmp_path: Path) -> None:
    texts = documents()
    for name in ("en", "id"):
        write(tmp_path, f"{name}.jsonl", texts[name])
    (tmp_path / "raw" / "z.jsonl.gz").write_bytes(b"damaged")
    (tmp_path / "corpus.yaml").write_text(CORPUS.format(folder=tmp_path, name="made", more=""))
    assert run(["data", "prepare", "--config", str(tmp_path / "corpus.yaml"), "--until", "clean"]) == 65
    folder = tmp_path / "made/cleaned/web"
    before = {name: (folder / name).stat().st_ino for name in ("en.jsonl", "id.jsonl")}
    (tmp_path / "raw" / "z.jsonl.gz").unlink()
    write(tmp_path, "z.jsonl", texts["ms"])
    prepare(tmp_path, "made")
    assert {name: (folder / name).stat().st_ino for name in before} == before
    assert content(folder) == content(prepare(tmp_path, "fresh"))
