"""A rank's snapshots on its node: what was written is found whole, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from harness.checkpoint.node_folder import NodeFolder, SnapshotRecord
from harness.run.paths import RunDir

START = "ab" * 16
TENSORS = (
    torch.arange(12, dtype=torch.float32).reshape(3, 4),
    torch.tensor(1.5, dtype=torch.bfloat16),
    torch.zeros(0),
    torch.arange(6, dtype=torch.float64).reshape(2, 3).t(),
)


def record(step: int = 110, attempt: int = 0) -> SnapshotRecord:
    return SnapshotRecord(step=step, attempt=attempt, start=START, optimizer_steps=(step,))


@pytest.fixture
def folder(tmp_path: Path) -> NodeFolder:
    made = NodeFolder.of_rank(tmp_path / "local", RunDir(tmp_path / "run"), 3)
    made.make()
    return made


def state_file(folder: NodeFolder) -> Path:
    (path,) = folder.path.glob("*.state")
    return path


def test_what_is_written_is_read_again_bit_for_bit(folder: NodeFolder) -> None:
    folder.write(record(), TENSORS)
    (found,) = folder.records()
    assert (found.step, found.attempt, found.optimizer_steps) == (110, 0, (110,))
    assert found.num_bytes == 12 * 4 + 2 + 6 * 8
    assert folder.is_whole(found)
    for tensor, original in zip(folder.read(found, TENSORS), TENSORS, strict=True):
        assert tensor.dtype == original.dtype
        assert torch.equal(tensor, original)


def test_runs_and_ranks_do_not_share_a_folder(tmp_path: Path) -> None:
    folders = {
        NodeFolder.of_rank(tmp_path, RunDir(tmp_path / run), rank).path for run in ("a", "b") for rank in (0, 1, 12)
    }
    assert len(folders) == 6
    assert all(path.is_relative_to(tmp_path / f"harness-{os.geteuid()}") for path in folders)


def test_the_newest_comes_first_and_the_others_can_be_let_go(folder: NodeFolder) -> None:
    for step, attempt in ((120, 0), (110, 1), (100, 1)):
        folder.write(record(step, attempt), TENSORS)
    (folder.path / "step_0000130.1.x.state.partial").touch()
    found = folder.records()
    assert [(each.attempt, each.step) for each in found] == [(1, 110), (1, 100), (0, 120)]
    folder.keep([found[0].name])
    assert sorted(path.name for path in folder.path.iterdir()) == [f"{found[0].name}.json", f"{found[0].name}.state"]
    folder.remove()
    assert not folder.path.parent.parent.exists()


def test_every_flipped_bit_is_noticed(folder: NodeFolder) -> None:
    folder.write(record(), TENSORS)
    (found,) = folder.records()
    file = state_file(folder)
    content = file.read_bytes()
    for position in range(8 * len(content)):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        file.write_bytes(changed)
        assert not folder.is_whole(found)


@pytest.mark.parametrize(
    "change", [lambda content: content[:-1], lambda content: content + b"x"], ids=["cut", "longer"]
)
def test_a_state_of_another_size_is_none(folder: NodeFolder, change: object) -> None:
    folder.write(record(), TENSORS)
    (found,) = folder.records()
    file = state_file(folder)
    assert callable(change)
    file.write_bytes(change(file.read_bytes()))
    assert not folder.is_whole(found)
    with pytest.raises(OSError, match=r"ends too early|holds more"):
        folder.read(found, TENSORS)


def test_what_has_no_description_is_unfinished(folder: NodeFolder) -> None:
    folder.write(record(), TENSORS)
    (described,) = folder.path.glob("*.json")
    described.rename(folder.path / f"step_0000111.0.{START}.json")  # says that it is of another step
    assert folder.records() == []
    described.write_text("{}")
    assert folder.records() == []
    described.unlink()
    described.mkdir()
    assert folder.records() == []


def test_a_disk_that_refuses_leaves_nothing_behind(folder: NodeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk_is_full:
        disk_is_full.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            folder.write(record(), TENSORS)
    assert list(folder.path.iterdir()) == []


def test_a_folder_that_others_can_enter_is_not_used(folder: NodeFolder) -> None:
    folder.write(record(), TENSORS)
    folder.path.chmod(0o755)
    assert folder.records() == []
    with pytest.raises(OSError, match="closed to all but the user who trains"):
        folder.make()


def test_a_link_is_no_folder(folder: NodeFolder, tmp_path: Path) -> None:
    folder.write(record(), TENSORS)
    aside = tmp_path / "aside"
    folder.path.rename(aside)
    folder.path.symlink_to(aside)
    assert folder.records() == []
    with pytest.raises(OSError, match="closed to all but the user who trains"):
        folder.make()
