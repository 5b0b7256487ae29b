"""Folders of cleaned, de-duplicated and ordered text on a full disk, with links in them, or taken away meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gated import TEXT, halted
from small_disk import enlarge, small_disk
from texts import ENGLISH
from tokenized import write_lines

from harness.cli import run

pytest.importorskip("datatrove")

VERBS = (
    ("clean",),
    ("clean", "--workers", "2"),
    ("dedup", "--method", "exact"),
    ("dedup", "--method", "minhash"),
    ("order", "--by", "shuffle"),
    ("order", "--by", "similar"),
)
ERROR = "harness: error: "


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for file in range(2):
        write_lines(folder / f"{file}.jsonl", *({"text": f"{ENGLISH} {n} {file} {n * 7919}"} for n in range(300)))
    return folder


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that an error is."""
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if "%" not in line]
    assert len(lines) == 1 and lines[0].startswith(ERROR), text
    return lines[0]


def text_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    corpus: Path, tmp_path: Path, verb: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["data", verb[0], str(corpus), *verb[1:], "--output"]
    assert run([*command, str(tmp_path / "whole")]) == 0
    capfd.readouterr()
    with small_disk(tmp_path / "disk", 80):
        command.append(str(tmp_path / "disk" / "out"))
        # In a process of its own, because the files that it has open then are closed at its end only.
        done = subprocess.run([sys.executable, "-m", "harness.cli", *command], check=False)
        assert done.returncode == 65
        assert "cannot be written ([Errno 28] No space left on device" in told(capfd)
        assert not (tmp_path / "disk" / "out" / "files.json").exists()
        enlarge(tmp_path / "disk", 16384)
        assert run(command) == 0
        assert text_in(tmp_path / "disk" / "out") == text_in(tmp_path / "whole")


@pytest.mark.parametrize("name", [".lock", ".stages", ".stages/work", ".stages/plan.json", ".stages/clean/completions"])
def test_a_link_in_the_folder_costs_nothing_of_its_target(
    corpus: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, diary = tmp_path / "out", tmp_path / "diary"
    (diary / "work").mkdir(parents=True)
    (diary / "work" / "page").write_text("dear diary")
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(diary if name != ".lock" else diary / "work" / "page")
    assert run(["data", "clean", str(corpus), "--output", str(out)]) == 65
    assert "is a link" in told(capsys)
    assert [path.name for path in diary.iterdir()] == ["work"]
    assert (diary / "work" / "page").read_text() == "dear diary"


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def delete_text(folder: Path) -> None:
    """As `rm -rf folder/*` does, which leaves hidden files."""
    for path in folder.iterdir():
        if not path.name.startswith("."):
            path.unlink()


def replace(folder: Path) -> None:
    shutil.move(folder, folder.with_name("elsewhere"))
    shutil.copytree(folder.with_name("elsewhere"), folder)


@pytest.mark.parametrize("at", [1, 301])
@pytest.mark.parametrize("harm", [delete, delete_text, replace])
def test_a_folder_that_is_taken_away_is_never_called_finished(
    corpus: Path, tmp_path: Path, harm: Callable[[Path], None], at: int
) -> None:
    with halted(tmp_path, "data", "clean", corpus, "--output", tmp_path / "out", at=at, after=TEXT) as first:
        harm(tmp_path / "out")
        code, text = first.go_on()
    assert code == 65, text
    assert text.count(ERROR) == 1 and "Traceback" not in text
    assert not (tmp_path / "out" / "files.json").exists()


def test_a_second_process_keeps_out(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "clean", str(corpus), "--output", str(tmp_path / "out")]
    with halted(tmp_path, *command, after=TEXT) as first:
        assert run(command) == 64
        assert "out is being written by another process" in told(capsys)
        assert first.go_on()[0] == 0
    assert run(command) == 0


ABSURD = ("", "{", "[]", "3", "[3]", "null", '{"input": 3}', "[[]]", '[{"file": "../x"}]', "\ud800", "[" * 5000, "NaN")


@pytest.mark.parametrize("content", ABSURD)
@pytest.mark.parametrize("name", ["files.json", ".stages/plan.json", ".stages/curve.json"])
def test_absurd_records_are_one_line(
    corpus: Path, tmp_path: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["data", "order", str(corpus), "--output", str(out), "--by", "shuffle"]
    assert run(command) == 0
    capsys.readouterr()
    (out / name).write_bytes(content.encode(errors="surrogatepass"))
    assert run(command) in (64, 65)
    text = told(capsys)
    assert any(reason in text for reason in ("not readable", "is not in it", "was made of another"))
