"""Where a conversion may write: never into what it reads, and only where there can be a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hugging_face_models import VARIANTS, write_model

from checkpoint_tools.output_folder import require_free
from harness.cli import run
from harness.errors import EXIT_USAGE, UsageError


@pytest.mark.parametrize("out", ["in/out", "in/a/b/out", "in/../in/out", "link/out", "link/a/../out", "in/a"])
def test_the_output_lies_outside_of_what_is_read(tmp_path: Path, out: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "manifest.json").touch()
    (tmp_path / "link").symlink_to("in")
    for source in ("in", "link"):
        with pytest.raises(UsageError, match=r"lies in .*, which is read: it would be changed\. Name a folder outside"):
            require_free(tmp_path / out, [tmp_path / "elsewhere", tmp_path / source])
    assert require_free(tmp_path / "in-2", [tmp_path / "in"]) == tmp_path / "in-2.partial"


@pytest.mark.parametrize("source", ["out.partial", "out.partial/checkpoints/step_0000000"])
def test_what_is_read_lies_outside_of_the_partial_folder(tmp_path: Path, source: str) -> None:
    """It is emptied, if another conversion left it."""
    (tmp_path / source).mkdir(parents=True)
    (tmp_path / source / "config.json").touch()
    (tmp_path / "link").symlink_to(source)
    for path in (tmp_path / source, tmp_path / "link"):
        with pytest.raises(UsageError, match="which is read"):
            require_free(tmp_path / "out", [path])


@pytest.mark.parametrize(
    ("out", "problem"),
    [
        ("a" * 300, "File name too long. Name another folder"),
        ("a" * 300 + "/out", "File name too long. Name another folder"),
        ("a" * 250, "File name too long. Name another folder"),
        ("file/out", "Not a directory. Name another folder"),
        ("loop/out", "Too many levels of symbolic links. Name another folder"),
        ("none/..", "ends without the name of a new folder"),
        ("..", "ends without the name of a new folder"),
        ("/", "ends without the name of a new folder"),
        (".", "ends without the name of a new folder"),
    ],
)
def test_a_place_where_there_can_be_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "given", VARIANTS[0])
    Path("file").touch()
    Path("loop").symlink_to("loop")
    capsys.readouterr()
    before = sorted(tmp_path.iterdir())
    assert run(["convert", "from-hf", "given", out]) == EXIT_USAGE
    assert problem in (told := capsys.readouterr().err)
    assert (told.count("\n"), "Traceback" in told) == (1, False)
    assert sorted(tmp_path.iterdir()) == before


def test_no_verb_writes_into_its_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything of it is read."""
    given, inner = tmp_path / "given", tmp_path / "given" / "out"
    given.mkdir()
    (given / "manifest.json").touch()
    for arguments in (["to-hf", given, inner], ["average", given, given, inner], ["from-hf", given, inner]):
        if arguments[0] == "from-hf":
            (given / "manifest.json").rename(given / "config.json")
        assert run(["convert", *map(str, arguments)]) == EXIT_USAGE
        assert f"{inner}, or out.partial in which it is written, lies in {given}" in capsys.readouterr().err
    assert list(given.iterdir()) == [given / "config.json"]
