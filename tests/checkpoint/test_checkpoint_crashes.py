"""Killed, failing and powered-off disks at every disk call of everything that the store does."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
from checkpoint_samples import FILES, entry_of, sample_manifest, save, store_in, write_files
from disk_faults import REFUSED, failing_at, killed_at, recorded
from power_cuts import DiskModel

from harness.errors import HarnessError, SaveFailedError
from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.store import CheckpointStore
from harness.run.checkpoints.verify import verify

WHEN: tuple[Literal["before", "within"], ...] = ("before", "within")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EMFILE)


@dataclass(frozen=True)
class Scenario:
    """An operation on a store of which steps 10 and 20 are saved, and the (step, attempt) that may be chosen after."""

    name: str
    operation: Callable[[CheckpointStore], Callable[[], object]]
    """Looks up what it needs, and returns what is disturbed."""
    before: tuple[int, int]
    after: tuple[int, int]
    prepare: Callable[[CheckpointStore], object] = lambda store: None


def _leave_remains(store: CheckpointStore) -> None:
    folder = store.run_dir.checkpoints
    shutil.copytree(folder / "step_0000010", folder / "step_0000030.partial")
    shutil.copytree(folder / "step_0000010", folder / "step_0000005.removed")


def _saving(step: int, attempt: int) -> Callable[[CheckpointStore], Callable[[], object]]:
    return lambda store: lambda: save(store, step, attempt=attempt)


def _removing(step: int) -> Callable[[CheckpointStore], Callable[[], object]]:
    return lambda store: partial(store.remove, entry_of(store, store.run_dir.checkpoint(step)))


def _amending(change: dict[str, Any]) -> Callable[[CheckpointStore], Callable[[], object]]:
    return lambda store: partial(store.amend, entry_of(store, store.run_dir.checkpoint(20)), **change)


SCENARIOS = [
    Scenario("save", _saving(30, attempt=0), (20, 0), (30, 0)),
    Scenario("save over remains", _saving(30, attempt=0), (20, 0), (30, 0), _leave_remains),
    Scenario("save a step again", _saving(20, attempt=1), (20, 0), (20, 1)),
    Scenario("remove the oldest", _removing(10), (20, 0), (20, 0)),
    Scenario("remove the newest", _removing(20), (20, 0), (10, 0)),
    Scenario("abandon", _amending({"health": "abandoned"}), (20, 0), (10, 0)),
    Scenario("pin", _amending({"pinned": True}), (20, 0), (20, 0)),
    Scenario("clean", lambda store: store.clean_partials, (20, 0), (20, 0), _leave_remains),
]


@pytest.fixture(params=SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "_"))
def scenario(request: pytest.FixtureRequest) -> Scenario:
    found = request.param
    assert isinstance(found, Scenario)
    return found


@dataclass
class Disk:
    """A prepared store, as often as it is needed."""

    scenario: Scenario
    folder: Path
    count: int = 0

    def fresh(self) -> CheckpointStore:
        template = self.folder / "template"
        if not template.exists():
            store = store_in(template)
            save(store, 10)
            save(store, 20)
            self.scenario.prepare(store)
        self.count += 1
        copy = self.folder / str(self.count)
        shutil.copytree(template, copy, copy_function=os.link)  # quick; nothing changes a file in place
        return store_in(copy)


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: the campaign makes thousands of small files."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def disk(scenario: Scenario, quick_folder: Path) -> Disk:
    return Disk(scenario, quick_folder)


def assert_sound(store: CheckpointStore, allowed: set[tuple[int, int]]) -> None:
    """One of `allowed` is chosen, and nothing that is named like a checkpoint is less than one."""
    choice = store.choose("must")
    assert choice.entry is not None
    assert (choice.entry.step, choice.entry.manifest.attempt) in allowed
    for entry in store.list():
        assert isinstance(entry, Checkpoint), entry
        assert verify(entry.path, deep=True) == []


def assert_recovers(store: CheckpointStore) -> None:
    """Cleaned up, nothing is left over, and the next save is chosen."""
    recorded(store.clean_partials)
    recorded(lambda: save(store, 40, attempt=2))
    choice = store.choose("must", deep=True)
    assert choice.entry is not None
    assert choice.entry.step == 40
    assert choice.passed_over == ()
    assert {entry.path for entry in store.list()} == set(store.run_dir.checkpoints.iterdir())


def test_the_operation_does_what_the_scenario_says(scenario: Scenario, disk: Disk) -> None:
    store = disk.fresh()
    assert_sound(store, {scenario.before})
    assert len(recorded(scenario.operation(store)).calls) > 3
    assert_sound(store, {scenario.after})


def test_killed_at_every_disk_call(scenario: Scenario, disk: Disk) -> None:
    calls = recorded(scenario.operation(disk.fresh())).calls
    for number, call in enumerate(calls, start=1):
        for when in WHEN if call.name == "write" else WHEN[:1]:
            store = disk.fresh()
            assert killed_at(number, when, scenario.operation(store)) == -9
            assert_sound(store, {scenario.before, scenario.after})
            assert_recovers(store)
    assert killed_at(len(calls) + 1, "before", scenario.operation(disk.fresh())) == 0


@pytest.mark.parametrize("scenario", [SCENARIOS[1], SCENARIOS[4]], ids=lambda scenario: scenario.name, indirect=True)
def test_killed_again_while_recovering(scenario: Scenario, disk: Disk) -> None:
    num_calls = len(recorded(scenario.operation(disk.fresh())).calls)
    for number in range(3, num_calls + 1, 29):
        status, again = -9, 0
        while status == -9:
            again += 1
            store = disk.fresh()
            killed_at(number, "before", scenario.operation(store))
            status = killed_at(again, "before", store.clean_partials)
            assert_sound(store, {scenario.before, scenario.after})
            assert_recovers(store)
        assert status == 0


def test_an_error_at_every_disk_call(scenario: Scenario, disk: Disk) -> None:
    num_calls = len(recorded(scenario.operation(disk.fresh())).calls)
    chance = random.Random(0)
    for number in range(1, num_calls + 1):
        for sticky in (False, True):
            error = chance.choice(ERRORS)
            store = disk.fresh()
            refused = _refused(number, error, sticky, scenario.operation(store))
            assert refused or not sticky
            assert_sound(store, {scenario.before, scenario.after} if refused else {scenario.after})
            assert_recovers(store)


def _refused(number: int, error: int, sticky: bool, operation: Callable[[], object]) -> bool:
    """Whether the operation gave up, as it should: naming the cause, and without a second fsync of a file."""
    with failing_at(number, error, sticky=sticky) as tracer:
        try:
            operation()
        except HarnessError as raised:
            refusal = str(raised)
        except OSError as raised:
            refusal = str(raised)
            assert tracer.calls[number - 1].path.endswith((*FILES, "more"))  # the test's own writing of the files
        else:
            return False
    failed = tracer.calls[number - 1]
    # shutil.rmtree closes a folder again that could not be closed, and raises what comes of that.
    assert os.strerror(error) in refusal or (failed.name == "close" and "Bad file descriptor" in refusal)
    if failed.name == "fsync":
        assert failed.path not in [call.path for call in tracer.calls[number:] if call.name == "fsync"]
    return True


def test_a_failed_publish_leaves_no_partial(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    save(store, 10)
    number = 0
    while True:
        number += 1
        folder = store.begin(20)
        write_files(folder)
        try:
            with failing_at(number, errno.EIO, sticky=False):
                published = store.publish(folder, sample_manifest(20))
        except SaveFailedError as error:
            assert not folder.exists()
            if "complete" not in str(error):
                assert store.list()[-1].step == 10
            else:  # only the folder's own fsync failed: the checkpoint is there
                assert verify(store.list()[-1].path, deep=True) == []
                store.remove(store.list()[-1])
        else:
            break
    assert number > 20
    assert verify(published, deep=True) == []


def test_power_cut_after_every_disk_call(scenario: Scenario, disk: Disk, quick_folder: Path) -> None:
    store = disk.fresh()
    root = store.run_dir.root
    model = DiskModel(root)
    calls = recorded(scenario.operation(store)).done
    chance = random.Random(1)
    for number, call in enumerate(calls):
        model.apply(call)
        for trial, luck in enumerate((None, chance, chance, chance, chance)):
            survivors = store_in(quick_folder / f"cut_{number}_{trial}")
            survivors.run_dir.checkpoints.rmdir()
            model.write_survivors(survivors.run_dir.root, luck)
            allowed = {scenario.after} if number == len(calls) - 1 else {scenario.before, scenario.after}
            assert_sound(survivors, allowed)
    assert_recovers(survivors)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small tmpfs with the options given; skips where that is not allowed."""
    point = tmp_path / "small"
    point.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        if mounted:
            subprocess.run(["umount", "--lazy", str(point)], check=True)
            mounted = False
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(point)], capture_output=True)
        if done.returncode != 0:
            pytest.skip("needs the right to mount a tmpfs")
        mounted = True
        return point

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(point)], check=True)


@pytest.mark.parametrize("limit", ["size={}k", "size=1m,nr_inodes={}"])
def test_a_disk_that_fills_up_at_every_stage(small_disk: Callable[[str], Path], limit: str) -> None:
    outcomes = set()
    for amount in range(12, 120, 4 if "size={}" in limit else 1):
        store = store_in(small_disk(limit.format(amount)))
        try:
            save(store, 10)
        except (SaveFailedError, OSError):
            continue  # not even room for the first one
        try:
            folder = store.begin(20)
            write_files(folder)
            store.publish(folder, sample_manifest(20))
            outcomes.add("saved")
        except SaveFailedError as error:
            assert "No space left on device" in str(error)
            assert "Make room there" in str(error)
            outcomes.add("refused")
        except OSError:
            outcomes.add("no room for the files")
            store.clean_partials()
        assert_sound(store, {(10, 0), (20, 0)})
        if {"saved", "no room for the files"} <= outcomes:
            break
    assert {"saved", "no room for the files"} <= outcomes


def test_a_child_that_gives_up_is_told_from_one_that_is_killed(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert killed_at(1000, "before", lambda: store.begin(1, estimated_bytes=1 << 60)) == REFUSED
