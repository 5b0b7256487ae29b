"""A disk that is full when a checkpoint is written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import disk_jobs
import pytest
from pool import Pool
from process_runs import Site

from harness.config.schema import Config

MakeDisk = Callable[[Path, int], None]

pytestmark = pytest.mark.slow


@pytest.fixture
def make_disk() -> Iterator[MakeDisk]:
    """Puts a file system of so many KiB at a folder."""
    with ExitStack() as unmounting:

        def make(folder: Path, size_kib: int) -> None:
            folder.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)]
            if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("this user may not mount file systems")
            unmounting.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)

        yield make


def test_three_saves_in_a_row_that_fail_in_the_middle_end_the_run(tmp_path: Path, make_disk: MakeDisk) -> None:
    site = Site(tmp_path)
    site.config["parallel"] = {"tensor_model_parallel_size": 2}
    site.config["checkpoint"] = {"save_every_steps": 2}
    make_disk(site.run_dir.root, 1500)  # a checkpoint has about 760 KiB; the estimate for it is 580
    code, text = site.train().finish()
    assert code == 76, text
    assert "Traceback" not in text
    assert site.checkpoints() == ["step_0000002"]
    assert site.last_step() == 9
    failed = site.events("save-failed")
    assert [event["step"] for event in failed] == [4, 6, 8]
    for event in failed:
        step = event["step"]
        assert event["reason"].startswith(f"The checkpoint of step {step} was not saved: ")
        assert "No space left on device" in event["reason"]
        assert "Older checkpoints are untouched. Make room in " in event["reason"]
        assert f"warning: {event['reason']}" in text
    assert "(exit code 76): step 9 of 200" in text
    assert f"3 saves in a row failed; saved up to step 2 in {site.run_dir.checkpoint(2)}" in text

    code, text = site.train("--set", "run.stop_at_step=3", "--resume", "must").finish()
    assert code == 70, text
    assert f"resuming small from {site.run_dir.checkpoint(2)} (step 2)" in text
    assert "warning: The checkpoint of step 3 was not saved: " in text
    assert "error: ended, but the last save failed (exit code 70): step 3 of 200" in text
    assert site.checkpoints() == ["step_0000002"]


def test_no_file_that_cannot_be_written_leaves_ranks_waiting(tmp_path: Path, pool: Pool) -> None:
    site = Site(tmp_path)
    site.config["parallel"] = {"tensor_model_parallel_size": 2}
    config = Config.model_validate(site.config)
    first, second = pool.run(disk_jobs.save_with_faults, 2, config, site.run_dir.root)
    assert first == second
    assert first.pop("nothing") is None
    assert first.pop("a folder that rank 0 cannot list") is None  # whoever lists it does so to warn
    assert first.keys() >= {".metadata", "metadata.json", "manifest.json", "a shard of rank 1"}
    for name, problem in first.items():
        assert problem is not None, name
        assert problem.startswith("The checkpoint of step 1 was not saved: "), name
        assert "No space left on device" in problem, name
    assert "rank 1: No space left on device" in str(first["a shard of rank 1"])
    assert site.checkpoints() == ["step_0000001", "step_0000001.2"]
    assert [event["reason"] for event in site.events("save-failed")] == list(first.values())
