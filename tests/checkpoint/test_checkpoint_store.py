"""Saving, listing, amending and removing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_samples import FILES, entry_of, sample_manifest, save, store_in, write_files
from disk_faults import Call, failing_at, traced

from harness.errors import CheckpointError, RunTakenOverError, SaveFailedError
from harness.run.checkpoints import contents
from harness.run.checkpoints.contents import _file_record, file_records
from harness.run.checkpoints.entries import BrokenCheckpoint, Checkpoint
from harness.run.checkpoints.manifest import MANIFEST_NAME, FileRecord, read_manifest
from harness.run.checkpoints.store import CheckpointStore
from harness.run.checkpoints.verify import verify
from harness.run.fence import claim


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return store_in(tmp_path)


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.run_dir.checkpoints.iterdir())


def test_a_saved_step_is_listed(store: CheckpointStore) -> None:
    path = save(store, 12000)
    assert path == store.run_dir.checkpoints / "step_0012000"
    (entry,) = store.list()
    assert isinstance(entry, Checkpoint)
    assert (entry.path, entry.step, entry.copy) == (path, 12000, 1)
    assert set(entry.manifest.files) == set(FILES)
    assert entry.manifest.model_copy(update={"files": {}}) == sample_manifest(12000)
    assert names(store) == ["step_0012000"]


def test_a_run_without_a_folder_has_no_checkpoints(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.run_dir.checkpoints.rmdir()
    assert store.list() == []
    assert store.clean_partials() == ()
    assert save(store, 1).is_dir()


def test_a_step_saved_again_stands_beside_the_older_one(store: CheckpointStore) -> None:
    first, second, third = save(store, 10), save(store, 10, attempt=1), save(store, 10, attempt=2)
    assert (first.name, second.name, third.name) == ("step_0000010", "step_0000010.2", "step_0000010.3")
    assert [(entry.step, entry.copy) for entry in store.list()] == [(10, 1), (10, 2), (10, 3)]
    assert [read_manifest(path).attempt for path in (first, second, third)] == [0, 1, 2]
    store.remove(entry_of(store, second))
    assert save(store, 10, attempt=3) == second


def test_a_damaged_folder_is_left_alone_by_a_save(store: CheckpointStore) -> None:
    store.run_dir.checkpoint(10).mkdir()
    (store.run_dir.checkpoint(10) / "someone's").touch()
    assert save(store, 10).name == "step_0000010.2"
    assert (store.run_dir.checkpoint(10) / "someone's").exists()


def test_the_list_says_what_is_wrong(store: CheckpointStore) -> None:
    save(store, 10)
    store.run_dir.checkpoint(10).rename(store.run_dir.checkpoint(20))
    store.run_dir.checkpoint(5).mkdir()
    store.run_dir.checkpoint(6).touch()
    store.run_dir.checkpoint(7).symlink_to(store.run_dir.checkpoint(20))
    store.run_dir.partial_checkpoint(8).mkdir()
    (store.run_dir.checkpoints / "notes").mkdir()
    (store.run_dir.checkpoints / "step_9").mkdir()
    problems = [(entry.step, entry.problem) for entry in store.list() if isinstance(entry, BrokenCheckpoint)]
    assert problems == [
        (5, "manifest.json is missing"),
        (6, "it is not a folder"),
        (7, "the folder is named after step 7, its manifest says step 10"),
        (20, "the folder is named after step 20, its manifest says step 10"),
    ]
    assert len(store.list()) == 4


def test_begin_removes_remains(store: CheckpointStore) -> None:
    partial = store.begin(10)
    write_files(partial)
    assert store.begin(10) == partial
    assert list(partial.iterdir()) == []


def test_begin_refuses_what_cannot_fit(store: CheckpointStore) -> None:
    with pytest.raises(SaveFailedError) as caught:
        store.begin(10, estimated_bytes=1 << 60)
    assert "The checkpoint of step 10 was not saved: it needs about 1,073,741,824.0 GiB, and only" in str(caught.value)
    assert "Nothing was written, older checkpoints are untouched. Make room there" in str(caught.value)
    assert names(store) == []
    assert store.begin(10, estimated_bytes=1).is_dir()


def test_the_text_of_a_full_disk(store: CheckpointStore) -> None:
    partial = store.begin(10)
    write_files(partial)
    with pytest.raises(SaveFailedError) as caught, failing_at(3, errno.ENOSPC, sticky=True):
        store.publish(partial, sample_manifest(10))
    assert str(caught.value).startswith("The checkpoint of step 10 was not saved: No space left on device (")
    assert str(caught.value).endswith(
        "Older checkpoints are untouched. Make room there, or remove checkpoints that are no longer needed."
    )
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"__9_0.distcp": 1}, "'__9_0.distcp' was written by another process but is not visible in"),
        ({"common.pt": 9999}, "'common.pt' was written with 9,999 bytes but has 451 on disk"),
    ],
)
def test_files_must_be_as_their_writers_saw_them(store: CheckpointStore, sizes: dict[str, int], message: str) -> None:
    partial = store.begin(10)
    write_files(partial)
    records = {name: FileRecord(bytes=size, xxh3="0" * 16) for name, size in sizes.items()}
    with pytest.raises(SaveFailedError) as caught:
        store.publish(partial, sample_manifest(10), records=records)
    assert message in str(caught.value)
    assert names(store) == []


def test_files_that_their_writers_have_hashed_are_not_read_again(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = store.begin(10)
    write_files(partial)
    hashed = {name: record for name, record in file_records(partial, FILES).items() if name.endswith(".distcp")}
    read: list[str] = []

    def look(path: Path, *options: Any) -> FileRecord:
        read.append(path.relative_to(partial).as_posix())
        return _file_record(path, *options)

    monkeypatch.setattr(contents, "_file_record", look)
    published = store.publish(partial, sample_manifest(10), records=hashed)
    assert sorted(read) == sorted(FILES.keys() - hashed.keys())
    monkeypatch.undo()
    assert verify(published, deep=True) == []


def test_a_folder_without_files_is_not_published(store: CheckpointStore) -> None:
    with pytest.raises(SaveFailedError, match="step 10 was not saved: the folder holds no files"):
        store.publish(store.begin(10), sample_manifest(10))


def test_links_are_not_published(store: CheckpointStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    partial = store.begin(10)
    write_files(partial)
    (partial / "link").symlink_to(outside)
    with pytest.raises(SaveFailedError, match="the folder holds 'link', a symbolic link"):
        store.publish(partial, sample_manifest(10))
    assert outside.read_text() == "kept"


def test_a_name_that_could_not_be_read_again_is_not_published(store: CheckpointStore) -> None:
    partial = store.begin(10)
    (partial / "a\nb").touch()
    with pytest.raises(SaveFailedError, match="a file name must be relative, printable"):
        store.publish(partial, sample_manifest(10))
    assert names(store) == []


def test_a_folder_of_another_step_is_a_bug(store: CheckpointStore) -> None:
    with pytest.raises(AssertionError, match="is not of step 11"):
        store.publish(store.begin(10), sample_manifest(11))


def test_a_failed_fsync_of_the_folder_is_told(store: CheckpointStore) -> None:
    partial = store.begin(10)
    write_files(partial)
    with traced(_failing_fsync_after_the_folder_has_its_name), pytest.raises(SaveFailedError) as caught:
        store.publish(partial, sample_manifest(10))
    final = store.run_dir.checkpoint(10)
    assert f"step 10 is complete in {final}, but may not survive a power cut: Input/output error." in str(caught.value)
    assert verify(final, deep=True) == []


def _failing_fsync_after_the_folder_has_its_name(number: int, call: Call, perform: Callable[[], object]) -> object:
    if call.name == "fsync" and call.path.endswith("/checkpoints"):
        raise OSError(errno.EIO, "Input/output error")
    return perform()


def test_health_and_pin_are_amended(store: CheckpointStore) -> None:
    path = save(store, 10, health="suspect")
    entry = store.amend(entry_of(store, path), health="clean")
    entry = store.amend(entry, pinned=True)
    assert entry == entry_of(store, path)
    assert (entry.manifest.health, entry.manifest.pinned) == ("clean", True)
    assert store.amend(entry, pinned=False).manifest.health == "clean"
    assert verify(path, deep=True) == []


def test_a_manifest_that_cannot_be_amended(store: CheckpointStore) -> None:
    path = save(store, 10)
    entry = entry_of(store, path)
    with (
        pytest.raises(SaveFailedError, match=r"could not be changed: Read-only file system\."),
        failing_at(1, errno.EROFS, sticky=True),
    ):
        store.amend(entry, pinned=True)
    assert entry_of(store, path) == entry


def test_removed_without_a_trace(store: CheckpointStore) -> None:
    save(store, 10)
    save(store, 20)
    for entry in store.list():
        store.remove(entry)
    assert names(store) == []


def test_a_broken_one_can_be_removed(store: CheckpointStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    store.run_dir.checkpoint(10).symlink_to(elsewhere)
    store.run_dir.checkpoint(11).touch()
    store.run_dir.checkpoint(12).mkdir()
    for entry in store.list():
        store.remove(entry)
    assert names(store) == []
    assert (elsewhere / "kept").exists()


def test_what_cannot_be_removed_is_told(store: CheckpointStore) -> None:
    save(store, 10)
    (entry,) = store.list()
    with pytest.raises(CheckpointError) as caught, failing_at(2, errno.EROFS, sticky=True):
        store.remove(entry)
    assert str(caught.value) == f"Checkpoint {entry.path} could not be removed: Read-only file system."
    assert verify(entry.path, deep=True) == []


def test_remains_are_cleaned_and_nothing_else(store: CheckpointStore) -> None:
    save(store, 10)
    folder = store.run_dir.checkpoints
    remains = [folder / name for name in ("step_0000010.removed", "step_0000011.partial", "step_0000012.2.removed")]
    for path in remains:
        path.mkdir()
        write_files(path)
    (folder / "mine.partial").mkdir()
    (folder / "step_0000013").mkdir()
    assert list(store.clean_partials()) == remains
    assert names(store) == ["mine.partial", "step_0000010", "step_0000013"]


def test_remains_that_cannot_be_removed_are_told(store: CheckpointStore) -> None:
    store.begin(10)
    with (
        pytest.raises(SaveFailedError, match=r"left over from a crash and cannot be removed: Read-only .* by hand\."),
        failing_at(1, errno.EROFS, sticky=True),
    ):
        store.clean_partials()


def test_a_manifest_that_the_disk_lost_is_not_put_in_the_place_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(tmp_path)
    saved = save(store, 10)
    before = (saved / MANIFEST_NAME).read_bytes()
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data))
    with pytest.raises(SaveFailedError, match="not all that was written is there"):
        store.amend(entry_of(store, saved), health="abandoned")
    assert (saved / MANIFEST_NAME).read_bytes() == before
    assert sorted(path.name for path in saved.iterdir() if "partial" in path.name) == []


def test_who_lost_the_run_publishes_nothing_and_takes_its_remains_along(tmp_path: Path) -> None:
    run_dir = store_in(tmp_path).run_dir
    first = CheckpointStore(run_dir, claim(run_dir))
    partial = first.begin(10)
    write_files(partial)
    second = CheckpointStore(run_dir, claim(run_dir))
    with pytest.raises(RunTakenOverError):
        first.publish(partial, sample_manifest(10))
    assert names(second) == []
    assert save(second, 10).name == "step_0000010"
