"""Which checkpoint is resumed from."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_samples import entry_of, save, store_in
from disk_faults import Call, traced

from harness.errors import EXIT_BAD_DATA, CheckpointError
from harness.run.checkpoints.store import CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return store_in(tmp_path)


def chosen(store: CheckpointStore, resume: str = "auto", **options: object) -> tuple[str | None, list[tuple[str, str]]]:
    choice = store.choose(resume, **options)  # type: ignore[arg-type]
    passed_over = [(path.name, reason) for path, reason in choice.passed_over]
    return choice.entry.path.name if choice.entry else None, passed_over


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_the_newest_is_taken(store: CheckpointStore, resume: str) -> None:
    for step in (10, 30, 20):
        save(store, step)
    assert chosen(store, resume) == ("step_0000030", [])


def test_nothing_is_taken_from_an_empty_run(store: CheckpointStore) -> None:
    assert chosen(store) == (None, [])
    store.begin(10)
    assert chosen(store) == (None, [])


def test_never_looks_at_nothing(store: CheckpointStore) -> None:
    save(store, 10)
    store.run_dir.checkpoint(11).mkdir()
    assert chosen(store, "never") == (None, [])


def test_the_latest_attempt_goes_before_the_highest_step(store: CheckpointStore) -> None:
    save(store, 30)
    save(store, 20, attempt=1)
    assert chosen(store) == ("step_0000020", [])


def test_the_latest_save_of_a_step_is_taken(store: CheckpointStore) -> None:
    save(store, 10)
    save(store, 10)
    assert chosen(store) == ("step_0000010.2", [])


def test_the_clock_plays_no_part(store: CheckpointStore) -> None:
    save(store, 10)
    save(store, 20)
    os.utime(store.run_dir.checkpoint(10), (4e9, 4e9))
    assert chosen(store) == ("step_0000020", [])


def test_what_is_passed_over_is_told_with_its_reason(store: CheckpointStore) -> None:
    save(store, 10)
    for step, health in ((20, "suspect"), (30, "abandoned"), (40, "clean"), (50, "clean")):
        save(store, step, health=health)
    (store.run_dir.checkpoint(40) / "common.pt").unlink()
    for name in ("__0_0.distcp", "__1_0.distcp", "common.pt", ".metadata", "metadata.json"):
        (store.run_dir.checkpoint(50) / name).unlink()
    store.run_dir.checkpoint(60).mkdir()
    assert chosen(store) == (
        "step_0000010",
        [
            ("step_0000060", "manifest.json is missing"),
            (
                "step_0000050",
                "'.metadata' is missing; '__0_0.distcp' is missing; '__1_0.distcp' is missing; 2 more problems",
            ),
            ("step_0000040", "'common.pt' is missing"),
            ("step_0000030", "it is abandoned"),
            ("step_0000020", "it is suspect"),
        ],
    )


def test_a_flipped_bit_is_passed_over_when_hashes_are_asked_for(store: CheckpointStore) -> None:
    save(store, 10)
    shard = save(store, 20) / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[77] ^= 4
    shard.write_bytes(content)
    assert chosen(store) == ("step_0000020", [])
    name, ((passed, reason),) = chosen(store, deep=True)
    assert (name, passed) == ("step_0000010", "step_0000020")
    assert reason.startswith("'__0_0.distcp' was altered: its hash is ")


def test_suspect_ones_are_taken_when_told_to_but_abandoned_ones_never(store: CheckpointStore) -> None:
    save(store, 10)
    save(store, 20, health="suspect")
    save(store, 30, health="abandoned")
    healths = ("clean", "suspect", "abandoned")
    assert chosen(store, healths=healths) == ("step_0000020", [("step_0000030", "it is abandoned")])


def test_auto_starts_anew_when_all_was_abandoned(store: CheckpointStore) -> None:
    save(store, 10, health="abandoned")
    assert chosen(store) == (None, [("step_0000010", "it is abandoned")])


def test_auto_does_not_throw_progress_away(store: CheckpointStore) -> None:
    save(store, 10, health="suspect")
    with pytest.raises(CheckpointError, match="it is suspect"):
        store.choose("auto")
    store.amend(entry_of(store, store.run_dir.checkpoint(10)), health="abandoned")
    store.run_dir.checkpoint(5).mkdir()
    with pytest.raises(CheckpointError) as caught:
        store.choose("auto")
    assert str(caught.value) == (
        f"No checkpoint in {store.run_dir.checkpoints} can be resumed from:\n"
        "  step_0000010: it is abandoned\n"
        "  step_0000005: manifest.json is missing\n"
        "Restore one of them, or give --resume never to start anew."
    )
    assert caught.value.exit_code == EXIT_BAD_DATA


def test_must_refuses_to_start_anew(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError) as caught:
        store.choose("must")
    assert str(caught.value) == (
        f"There is no checkpoint in {store.run_dir.checkpoints}. Give --resume auto to start anew."
    )
    save(store, 10, health="abandoned")
    with pytest.raises(CheckpointError, match="step_0000010: it is abandoned"):
        store.choose("must")


class Disk:
    """Refuses to open the files of a name, so many times."""

    def __init__(self, name: str, times: int) -> None:
        self.name, self.times = name, times
        self.pauses: list[float] = []

    def act(self, number: int, call: Call, perform: Callable[[], object]) -> object:
        if call.name == "open" and call.path.endswith(self.name) and self.times:
            self.times -= 1
            raise OSError(errno.ESTALE, "Stale file handle", call.path)
        return perform()


@pytest.mark.parametrize("name", ["step_0000020/manifest.json", "step_0000020/common.pt"])
@pytest.mark.parametrize(("times", "taken"), [(1, "step_0000020"), (9, "step_0000010")])
def test_what_cannot_be_read_for_a_moment_is_looked_at_again(
    name: str, times: int, taken: str, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 10)
    save(store, 20)
    disk = Disk(name, times)
    monkeypatch.setattr("time.sleep", disk.pauses.append)
    with traced(disk.act):
        found, passed_over = chosen(store, deep=True)
    assert found == taken
    assert [reason.endswith("cannot be read: Stale file handle") for _, reason in passed_over] == [True] * (times > 1)
    assert len(disk.pauses) == 1


def test_what_is_of_an_older_attempt_is_not_taken_for_the_newest_because_it_could_not_be_read(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 30)
    save(store, 20, attempt=1)
    disk = Disk("step_0000030/manifest.json", 1)
    monkeypatch.setattr("time.sleep", disk.pauses.append)
    with traced(disk.act):
        assert chosen(store, deep=True) == ("step_0000020", [])


def test_what_is_damaged_is_looked_at_once(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, 10)
    (save(store, 20) / "common.pt").write_bytes(b"?")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waited"))
    assert chosen(store, deep=True)[0] == "step_0000010"
