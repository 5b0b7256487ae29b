"""The lock of an output folder, and the folder of a conversion that is taken away."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from checkpoint_tools import output_folder
from harness.errors import DataError, HarnessError, UsageError
from harness.run.files import create_file, replace_file, replacing
from harness.sole_writer import LOCK_FILE, partial_folder, sole_writer


def test_one_writer_at_a_time_and_the_next_after_it(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path),
        pytest.raises(UsageError, match="is being written by another process"),
        sole_writer(tmp_path),
    ):
        pass
    with sole_writer(tmp_path) as held:
        held.require()


def test_a_lock_is_released_however_its_holder_ends(tmp_path: Path) -> None:
    script = "import os, signal, sys; from pathlib import Path; from harness.sole_writer import sole_writer\n"
    script += "with sole_writer(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False, timeout=60)
    assert (tmp_path / LOCK_FILE).exists()
    with sole_writer(tmp_path):
        pass


def take_away(folder: Path) -> None:
    shutil.rmtree(folder)


def move_away(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def put_another(folder: Path) -> None:
    move_away(folder)
    shutil.copytree(folder.with_name("moved"), folder)


HARMS = pytest.mark.parametrize("harm", [take_away, move_away, put_another])


@HARMS
def test_a_folder_that_is_taken_away_is_noticed_at_the_end(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(DataError, match="out was deleted, moved or replaced while it was"), sole_writer(folder):
        harm(folder)


@HARMS
def test_a_conversion_whose_folder_is_taken_away_publishes_nothing(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    with (
        pytest.raises(DataError, match=r"out\.partial was deleted, moved or replaced"),
        output_folder.begun(tmp_path / "out", {"of": "this"}) as held,
    ):
        harm(held.folder)
        output_folder.publish(held, tmp_path / "out", {"of": "this"})
    assert not (tmp_path / "out").exists()


def test_an_output_that_came_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="out exists. Name another folder, or remove it"),
        partial_folder(tmp_path / "out") as held,
    ):
        (tmp_path / "out").mkdir()  # a rename would replace an empty one
        held.publish(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", [LOCK_FILE, "proof", "checkpoints/step_0000000"])
def test_links_in_what_an_interruption_left_are_refused(tmp_path: Path, name: str) -> None:
    diary = tmp_path / "diary"
    diary.mkdir()
    (diary / "page").write_text("dear diary")
    with output_folder.begun(tmp_path / "out", {}) as held:
        (held.folder / name).parent.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        (held.folder / name).unlink()
    (held.folder / name).symlink_to(diary / "page" if name == LOCK_FILE else diary)
    with pytest.raises(HarnessError, match="is a link"), output_folder.begun(tmp_path / "out", {"other": 1}):
        pass
    assert (diary / "page").read_text() == "dear diary"


def test_a_file_that_another_process_writes_is_never_published_half(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(OSError, match="another process removed or replaced it"), replacing(file) as first:
        first.write(b"first")
        staging = file.with_name("file.partial")
        staging.unlink()
        staging.write_bytes(b"ha")  # half of what the other will write
    assert not file.exists()
    assert staging.read_bytes() == b"ha"
    replace_file(file, b"second")
    assert file.read_bytes() == b"second"


def test_a_new_file_is_never_put_in_place_of_another(tmp_path: Path) -> None:
    create_file(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "file", b"second")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "link", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
