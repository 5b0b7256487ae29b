"""Checkpoints, folders of checkpoints and runs that are links to folders elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoint_samples import entry_of, save, store_in

from harness import cli
from harness.errors import CheckpointError, UsageError
from harness.run.checkpoints.entries import BrokenCheckpoint, Checkpoint
from harness.run.checkpoints.lineage import left_behind
from harness.run.checkpoints.manifest import RollbackRecord, read_manifest
from harness.run.checkpoints.retention import RetentionPolicy, to_delete
from harness.run.checkpoints.store import CheckpointStore
from harness.run.checkpoints.verify import verify
from harness.run.launch_folder import make_run
from harness.run.paths import RunDir
from harness.watch.saved import SavedCheckpoints


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    made = store_in(tmp_path)
    for step in (10, 20):
        save(made, step)
    return made


def move_away(store: CheckpointStore, step: int, place: Path) -> Path:
    """Move a checkpoint to a place and leave a link to it; return the folder."""
    place.mkdir(parents=True, exist_ok=True)
    there = store.run_dir.checkpoint(step).rename(place / store.run_dir.checkpoint(step).name)
    store.run_dir.checkpoint(step).symlink_to(there)
    return there


def chosen(store: CheckpointStore) -> tuple[str | None, list[str]]:
    choice = store.choose("auto", deep=True)
    return choice.entry.path.name if choice.entry else None, [reason for _, reason in choice.passed_over]


def harness(*arguments: object) -> int:
    return cli.run(["checkpoint", *map(str, arguments)])


def test_a_checkpoint_that_was_moved_and_linked_back_is_one_like_before(store: CheckpointStore, tmp_path: Path) -> None:
    there = move_away(store, 20, tmp_path / "scratch")
    path = store.run_dir.checkpoint(20)
    assert verify(path, deep=True) == []
    assert chosen(store) == ("step_0000020", [])
    assert entry_of(store, path).links_to == there
    assert [each.step for each in SavedCheckpoints(store.run_dir).list()] == [10, 20]


def test_a_chain_of_relative_links_is_followed(store: CheckpointStore, tmp_path: Path) -> None:
    there = move_away(store, 20, tmp_path / "scratch")
    (tmp_path / "between").symlink_to("scratch/step_0000020")
    store.run_dir.checkpoint(20).unlink()
    store.run_dir.checkpoint(20).symlink_to("../../between")
    assert chosen(store) == ("step_0000020", [])
    assert entry_of(store, store.run_dir.checkpoint(20)).links_to == there


@pytest.mark.parametrize("what", ["checkpoints", "."])
def test_the_folder_of_checkpoints_and_the_run_may_be_links(store: CheckpointStore, tmp_path: Path, what: str) -> None:
    place = store.run_dir.root / what
    place.rename(tmp_path / "elsewhere") if what != "." else store.run_dir.root.rename(tmp_path / "elsewhere")
    (store.run_dir.root / what if what != "." else store.run_dir.root).symlink_to(tmp_path / "elsewhere")
    make_run(store.run_dir)
    assert chosen(store) == ("step_0000020", [])
    assert save(store, 30) == store.run_dir.checkpoint(30)
    assert chosen(store) == ("step_0000030", [])
    store.remove(entry_of(store, store.run_dir.checkpoint(30)))
    assert [entry.step for entry in store.list()] == [10, 20]


def test_a_link_that_leads_nowhere_is_told_with_its_place(
    store: CheckpointStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = move_away(store, 20, tmp_path / "scratch")
    there.rename(tmp_path / "gone")
    text = f"it is a link to {there}, which cannot be read: No such file or directory"
    assert chosen(store) == ("step_0000010", [text])
    assert harness("list", store.run_dir.root) == 0
    assert f"broken: {text}" in capsys.readouterr().out
    assert harness("verify", store.run_dir.checkpoint(20)) == 64
    error = f"is a link to {there}, which cannot be read: No such file or directory. Name checkpoint folders"
    assert error in capsys.readouterr().err


def test_links_in_a_circle_are_told(store: CheckpointStore) -> None:
    store.run_dir.checkpoint(30).symlink_to("step_0000040")
    store.run_dir.checkpoint(40).symlink_to("step_0000030")
    problems = [entry.problem for entry in store.list() if isinstance(entry, BrokenCheckpoint)]
    assert problems == [
        "it is a link to step_0000040, which cannot be read: Too many levels of symbolic links",
        "it is a link to step_0000030, which cannot be read: Too many levels of symbolic links",
    ]


@pytest.mark.parametrize("name", ["checkpoints", ""])
def test_a_run_whose_folder_leads_nowhere_does_not_begin_anew(
    store: CheckpointStore, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = store.run_dir.root / name
    place.rename(tmp_path / "gone")
    place.symlink_to(tmp_path / "scratch")
    text = f"{place} is a link to {tmp_path / 'scratch'}, which cannot be read: No such file or directory"
    with pytest.raises(UsageError, match=text):
        make_run(store.run_dir)
    assert harness("list", store.run_dir.root) == 64
    assert f"is not a run with checkpoints: {text}. Name a run directory." in capsys.readouterr().err


def test_a_folder_in_a_closed_place_is_told(store: CheckpointStore, tmp_path: Path) -> None:
    store.run_dir.checkpoint(30).symlink_to(tmp_path / ("x" * 300))
    (problem,) = (entry.problem for entry in store.list() if isinstance(entry, BrokenCheckpoint))
    assert problem.endswith(", which cannot be read: File name too long")


def test_removing_a_link_leaves_the_folder(
    store: CheckpointStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = move_away(store, 10, tmp_path / "scratch")
    (doomed,) = to_delete(store.list(), RetentionPolicy(keep_last=1))
    assert doomed.path == store.run_dir.checkpoint(10)
    assert harness("prune", store.run_dir.root, "--keep-last", 1) == 0
    text = capsys.readouterr().out
    assert f"removed: {doomed.path} (the link; {there} stays)" in text
    assert "1 checkpoints, 0 B; 1 stay" in text
    assert [path.name for path in store.run_dir.checkpoints.iterdir()] == ["step_0000020"]
    assert verify(there, deep=True) == []


def test_leftovers_that_are_links_go_without_their_folders(store: CheckpointStore, tmp_path: Path) -> None:
    for name in ("step_0000030.partial", "step_0000030.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").touch()
        (store.run_dir.checkpoints / name).symlink_to(tmp_path / name)
    assert len(store.clean_partials()) == 2
    assert sorted(path.name for path in store.run_dir.checkpoints.iterdir()) == ["step_0000010", "step_0000020"]
    assert all((tmp_path / f"step_0000030.{suffix}/content").exists() for suffix in ("partial", "removed"))


def test_health_and_pin_of_a_moved_checkpoint_lie_in_its_folder(store: CheckpointStore, tmp_path: Path) -> None:
    there = move_away(store, 20, tmp_path / "scratch")
    store.amend(entry_of(store, store.run_dir.checkpoint(20)), health="suspect")
    assert read_manifest(there).health == "suspect"
    assert harness("pin", store.run_dir.checkpoint(20)) == 0
    assert read_manifest(there).pinned
    assert store.run_dir.checkpoint(20).is_symlink()


def test_the_checkpoint_of_another_run_is_only_read(
    store: CheckpointStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(store, 30, health="suspect")
    store.run_dir.config.touch()
    mine = store_in(tmp_path / "mine")
    mine.run_dir.checkpoint(30).symlink_to(store.run_dir.checkpoint(30))
    (entry,) = mine.list()
    assert isinstance(entry, Checkpoint)
    assert entry.other_run == store.run_dir.root
    before = (store.run_dir.checkpoint(30) / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match=f"a checkpoint of the run {store.run_dir.root}. Change it there."):
        mine.amend(entry, health="abandoned")
    assert harness("pin", entry.path) == 65
    assert "Change it there." in capsys.readouterr().err
    rollback = RollbackRecord(order="x", from_step=44, to_step=20, attempt=1, reason="")
    assert left_behind([entry], rollback) == []
    mine.remove(entry)
    assert (store.run_dir.checkpoint(30) / "manifest.json").read_bytes() == before
    own = replace(entry, other_run=None)
    assert left_behind([own], rollback) == [own]


def test_the_list_shows_where_a_link_leads(
    store: CheckpointStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = move_away(store, 20, tmp_path / "scratch")
    assert harness("list", store.run_dir.root) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"  2.3750  -> {there}")
    assert harness("list", store.run_dir.root, "--json") == 0
    assert [row.get("links_to") for row in json.loads(capsys.readouterr().out)] == [None, str(there)]


def test_a_run_reached_through_a_link_is_the_run(store: CheckpointStore, tmp_path: Path) -> None:
    save(store, 30)
    move_away(store, 30, tmp_path / "scratch")
    (tmp_path / "linked").symlink_to(store.run_dir.root)
    linked = CheckpointStore(RunDir(tmp_path / "linked"))
    linked.run_dir.config.touch()
    assert [entry.other_run for entry in linked.list() if isinstance(entry, Checkpoint)] == [None, None, None]
