"""Output folders that two processes write, or that somebody deletes, moves or replaces while they are written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from channel_files import write_channel
from gated import halted
from small_disk import enlarge, small_disk
from tokenized import content_of, write_lines

from harness.cli import run

ERROR = "harness: error: "


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.count(ERROR) == 1, text
    return text.partition(ERROR)[2]


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    return [write_channel(tmp_path / "a", [[1, 2], [3]]), write_channel(tmp_path / "b", [[4, 5, 6]])]


@pytest.fixture
def tokenize(tmp_path: Path, poems: list[str], model_file: Path) -> list[str]:
    """A call that makes about ten parts of poems."""
    file = write_lines(tmp_path / "text.jsonl", *({"text": poem} for poem in poems))
    options = ["--channel", "zh", "--output", str(tmp_path / "data"), "--tokens-per-part", "3000"]
    return ["data", "tokenize", str(file), "--tokenizer", str(model_file), *options]


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def delete_content(folder: Path) -> None:
    """As `rm -rf folder/*` does, which leaves hidden files."""
    for path in folder.iterdir():
        if not path.name.startswith("."):
            path.unlink()


def move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replace(folder: Path) -> None:
    """Moves the folder away, and puts another there with the same names."""
    move(folder)
    shutil.copytree(folder.with_name("elsewhere"), folder)


HARMS = pytest.mark.parametrize("harm", [delete, delete_content, move, replace])


def test_a_second_merge_to_the_same_output_keeps_out(
    tmp_path: Path, inputs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "merge", *map(str, inputs), "--output", str(tmp_path / "out")]
    with halted(tmp_path, *command) as first:
        assert run(command) == 64
        assert "out.partial is being written by another process. Wait until it is done" in told(capsys)
        assert first.go_on()[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "part-00000.bin",
        "part-00000.idx",
        "parts.jsonl",
    ]
    assert run(["data", "verify", str(tmp_path / "out")]) == 0
    assert run(command) == 64


def test_a_killed_merge_is_begun_anew(tmp_path: Path, inputs: list[Path]) -> None:
    command = ["data", "merge", *map(str, inputs), "--output", str(tmp_path / "out")]
    with halted(tmp_path, *command) as first:
        first.process.kill()
        first.process.wait()
    assert (tmp_path / "out.partial" / "part-00000.bin.partial").exists()
    assert run(command) == 0
    assert not (tmp_path / "out.partial").exists()


def test_a_folder_that_is_no_merge_is_left_alone(
    tmp_path: Path, inputs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is an input, whatever it is called."""
    thesis = tmp_path / "out.partial" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("x")
    assert run(["data", "merge", *map(str, inputs), "--output", str(tmp_path / "out")]) == 64
    assert "out.partial is not left over from a merge: it holds 'thesis.tex'" in told(capsys)
    assert thesis.read_text() == "x"
    inputs[0].rename(tmp_path / "c.partial")
    assert run(["data", "merge", str(tmp_path / "c.partial"), str(inputs[1]), "--output", str(tmp_path / "c")]) == 64
    assert "c is written in c.partial, which is read: it would be changed" in told(capsys)
    assert (tmp_path / "c.partial" / "part-00000.bin").exists()


@HARMS
def test_a_merge_whose_folder_is_taken_away_says_so(
    tmp_path: Path, inputs: list[Path], harm: Callable[[Path], None]
) -> None:
    command = ["data", "merge", *map(str, inputs), "--output", str(tmp_path / "out")]
    with halted(tmp_path, *command, at=2) as first:
        harm(tmp_path / "out.partial")
        code, text = first.go_on()
    assert code == 65, text
    assert text.count(ERROR) == 1 and "Traceback" not in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("at", [1, 4])
@HARMS
def test_a_channel_that_is_taken_away_while_it_is_made_is_never_called_finished(
    tmp_path: Path, tokenize: list[str], at: int, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "zh"
    with halted(tmp_path, *tokenize, at=at) as first:
        harm(folder)
        before = content_of(folder) if folder.exists() else {}
        code, text = first.go_on()
    assert code == 65, text
    assert text.count(ERROR) == 1 and "Traceback" not in text
    if harm is replace:  # nothing came into the new one
        assert content_of(folder) == before
    shutil.rmtree(folder, ignore_errors=True)
    assert run(tokenize) == 0
    assert run(["data", "verify", str(folder)]) == 0


def test_a_channel_that_is_begun_anew_under_a_call_has_only_the_later_one(tmp_path: Path, tokenize: list[str]) -> None:
    """As the advice to delete the folder and start again says, while the first call still runs."""
    folder = tmp_path / "data" / "zh"
    with halted(tmp_path, *tokenize, at=3) as first:
        shutil.rmtree(folder)
        assert run(tokenize) == 0
        after = content_of(folder)
        code, text = first.go_on()
    assert code == 65 and "zh" in text
    assert content_of(folder) == after


@HARMS
def test_files_are_never_said_to_be_added_to_a_channel_that_is_taken_away(
    tmp_path: Path, tokenize: list[str], poems: list[str], model_file: Path, harm: Callable[[Path], None]
) -> None:
    assert run(tokenize) == 0
    more = write_lines(tmp_path / "more.jsonl", *({"text": poem + poem} for poem in poems))
    options = ["--tokenizer", str(model_file), "--channel", "zh", "--output", str(tmp_path / "data")]
    with halted(tmp_path, "data", "append", more, *options, at=2) as first:
        harm(tmp_path / "data" / "zh")
        code, text = first.go_on()
    assert code == 65, text
    assert text.count(ERROR) == 1 and "Traceback" not in text


def test_a_finished_channel_without_its_parts_is_not_called_good(
    tmp_path: Path, tokenize: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tokenize) == 0
    parts = tmp_path / "data" / "zh" / "parts.jsonl"
    parts.write_bytes(b"".join(parts.read_bytes().splitlines(keepends=True)[:-1]))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="65"):
        run(["data", "verify", str(parts.parent)])
    assert "tokens were written when the channel was made, and its parts have" in capsys.readouterr().out
    assert run(tokenize) == 65
    assert "parts with" in told(capsys)


@pytest.mark.parametrize("name", [".lock", "rejected.jsonl", "parts.jsonl", "resume.jsonl", "part-00000.bin.partial"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_an_output_folder_costs_nothing_of_its_target(
    tmp_path: Path, tokenize: list[str], name: str, link: Callable[[Path, Path], None]
) -> None:
    folder, diary = tmp_path / "data" / "zh", tmp_path / "diary"
    diary.write_text("dear diary")
    assert run(tokenize) == 0
    source = json.loads((folder / "source.json").read_text()) | {"finished": None}
    for path in folder.iterdir():
        path.unlink()
    (folder / "source.json").write_text(json.dumps(source))
    link(diary, folder / name)
    assert run(tokenize) in (0, 65)
    assert diary.read_text() == "dear diary"


def test_a_pipe_in_place_of_a_lock_holds_nobody_up(
    tmp_path: Path, tokenize: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "zh").mkdir(parents=True)
    os.mkfifo(tmp_path / "data" / "zh" / ".lock")
    assert run(tokenize) == 65
    assert ".lock is a link or no regular file" in told(capsys)


def test_a_full_disk_is_told_by_merge_and_append(
    tmp_path: Path,
    inputs: list[Path],
    tokenize: list[str],
    poems: list[str],
    model_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    large = write_channel(tmp_path / "large", [[7] * 100_000])
    with small_disk(tmp_path / "disk", 64):
        command = ["data", "merge", str(large), "--output", str(tmp_path / "disk" / "out")]
        assert run(command) == 65
        assert "out: cannot be written" in told(capsys)
        enlarge(tmp_path / "disk", 4096)
        assert run(command) == 0
    with small_disk(tmp_path / "data", 400):
        assert run(tokenize) == 0
        zh = tmp_path / "data" / "zh"
        (zh / "ballast").write_bytes(bytes(shutil.disk_usage(zh).free - 12_000))
        before = content_of(zh)
        more = write_lines(tmp_path / "more.jsonl", *({"text": poem + poem} for poem in poems))
        options = ["--tokenizer", str(model_file), "--channel", "zh", "--output", str(tmp_path / "data")]
        capsys.readouterr()
        assert run(["data", "append", str(more), *options]) == 65
        assert "zh: cannot be written" in told(capsys)
        assert content_of(zh)["parts.jsonl"].startswith(before["parts.jsonl"])
        (zh / "ballast").unlink()
        enlarge(tmp_path / "data", 4096)
        assert run(["data", "append", str(more), *options]) == 0
        assert run(["data", "verify", str(zh)]) == 0


def test_files_may_not_grow_beyond_a_limit(tmp_path: Path, tokenize: list[str]) -> None:
    """As a quota, or `ulimit -f`."""
    command = ["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", sys.executable, "-m", "harness.cli", *tokenize]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 65
    assert done.stderr.count(ERROR) == 1 and "File too large" in done.stderr and "Traceback" not in done.stderr
