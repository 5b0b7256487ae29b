"""A slice of the fault campaign, always the same one, and whether the campaign sees what it looks for.

`make faults` goes on as long as one likes. The slice runs in a process of its own: what forks must have no threads.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from fault_report import Report, TrialId
from found import FOUND
from harms import HARMS, Harm
from judge import is_sound, newest, unsound
from system_calls import SystemCall, injection, is_available, recorded_calls

from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.store import CheckpointStore
from harness.run.paths import RunDir

REPOSITORY = Path(__file__).parents[2]
HAS_COMMON_FILE = int(version("megatron-core").split(".")[1]) < 17
"""Later versions write no `common.pt`."""


def campaign(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.faults", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=480, check=False)
    return done.returncode, done.stdout + done.stderr


def num_injections(text: str) -> int:
    return int(re.search(r"^all +([0-9,]+)", text, re.MULTILINE)[1].replace(",", ""))  # type: ignore[index]


@pytest.mark.slow
def test_a_slice_of_the_campaign_breaks_nothing() -> None:
    code, text = campaign("--layer", "store", "--seed", "7", "--injections", "200")
    assert code == 0, text
    assert num_injections(text) >= 200


@pytest.mark.slow
@pytest.mark.skipif(not is_available(), reason="needs strace")
def test_what_once_broke_breaks_nothing() -> None:
    code, text = campaign("--found")
    assert code == 0, text
    can_strike = [faults for what, _, faults in FOUND if "common.pt" not in what or HAS_COMMON_FILE]
    assert num_injections(text) == sum(map(len, can_strike)), text


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Two checkpoints of a store."""
    import checkpoint_samples

    store = checkpoint_samples.store_in(tmp_path)
    checkpoint_samples.save(store, 10)
    checkpoint_samples.save(store, 20)
    return store.run_dir.checkpoints


@pytest.mark.parametrize("name", HARMS)
def test_every_harm_is_seen_by_the_judge(name: str, checkpoints: Path) -> None:
    folder = checkpoints / "step_0000020"
    harm: Harm = HARMS[name]
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "manifest.json")
    assert is_sound(folder)
    harm(random.Random(3), files[0], files)
    assert is_sound(folder) is None
    assert unsound(checkpoints) == {"step_0000020"}
    found = newest(checkpoints)
    assert found is not None
    assert found.step == 10


def test_the_judge_and_the_product_agree_on_what_is_newest(checkpoints: Path) -> None:
    store = CheckpointStore(RunDir(checkpoints.parent))
    import checkpoint_samples

    checkpoint_samples.save(store, 10, attempt=1)
    found, chosen = newest(checkpoints), store.choose("must").entry
    assert found is not None
    assert chosen is not None
    assert found.path == chosen.path == checkpoints / "step_0000010.2"
    assert isinstance(chosen, Checkpoint)
    store.amend(chosen, health="abandoned")
    found, chosen = newest(checkpoints), store.choose("must").entry
    assert found is not None
    assert chosen is not None
    assert found.path == chosen.path == checkpoints / "step_0000020"


def test_calls_are_read_from_a_recording(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "fence").mkdir(parents=True)
    (run / "fence" / "0000004").touch()
    log = tmp_path / "calls.txt"
    partial = f"{run}/checkpoints/step_0000006.2.partial"
    log.write_text(
        f'11 openat(AT_FDCWD</>, "{partial}/a.distcp", O_WRONLY|O_CREAT, 0666) = 5<{partial}/a.distcp>\n'
        f'11 write(5<{partial}/a.distcp>, "P"..., 100) = 100\n'
        f'12 write(7<{run}/events.jsonl>, "P"..., 9 <unfinished ...>\n'
        f'11 write(5<{partial}/a.distcp>, "P"..., 70) = 70\n'
        "12 <... write resumed>) = 9\n"
        f'11 openat(AT_FDCWD</>, "{run}/lock", O_RDONLY|O_CLOEXEC) = 5<{run}/lock>\n'
        '11 write(1</elsewhere>, "P"..., 7) = 7\n'
        f'11 unlinkat(6<{run}/checkpoints/step_0000002.removed>, "a", 0) = 0\n'
        "11 +++ exited with 0 +++\n"
    )
    shard = "checkpoints/step_0000006.TOKEN.partial/a.distcp"
    assert recorded_calls(log, run) == [
        SystemCall("checkpoints/step_0000002.removed", "unlinkat", 1, 0),
        SystemCall(shard, "openat", 1, 5),
        SystemCall(shard, "write", 1, 100),
        SystemCall(shard, "write", 2, 70),
        SystemCall("events.jsonl", "write", 1, 9),
        SystemCall("lock", "openat", 1, 5, reads=True),
    ]
    arguments = injection(SystemCall(shard, "write", 2), run, "error=EIO", sticky=True)
    assert f"{run}/checkpoints/step_0000006.5.partial/a.distcp" in arguments
    assert arguments[-1] == "inject=write:error=EIO:when=2+"


def test_reports_are_added_and_printed() -> None:
    first, second = Report(num_trials=1), Report(num_starts=3)
    first.threw("store", "a flipped bit", 2)
    second.threw("store", "a flipped bit")
    second.threw("launch", "SIGKILL")
    second.missed["launch", "SIGKILL"] += 1
    second.violated(TrialId("launch", 4, 2), "SIGKILL", "it hangs")
    first.add(Report.from_json(second.to_json()))
    assert str(first).splitlines() == [
        "layer   family         injections  violations",
        "launch  SIGKILL                 1           1",
        "store   a flipped bit           3           0",
        "all                             4           1",
        "1 trials, 3 starts of a trainer",
        "1 faults did not strike and are not counted",
        "SIGKILL [--replay launch:4:2]: it hangs",
    ]
    assert TrialId.parse("launch:4:2") == TrialId("launch", 4, 2)
