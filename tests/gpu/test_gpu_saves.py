"""Saves beside training on a GPU: of the state as it was, bit for bit, and what training was stalled for."""

from __future__ import annotations

import filecmp
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gpu_runs import PATIENCE_S, column, train, values_of, write_text
from pretended import PRETENDED, end_if_pretended
from saves_beside_steps import AGAIN, BESIDE, WAITED, Saves

from harness.checkpoint.cuda_copy import CudaDevice
from harness.checkpoint.device_copy import DeviceCopy
from harness.run import metric_names as names
from harness.run.event_types import SaveWaited
from harness.run.events import read_events
from harness.run.paths import RunDir

LARGE: dict[str, Any] = {
    "model.num_layers": 12,
    "model.hidden_size": 1024,
    "model.num_attention_heads": 16,
    "model.num_query_groups": 4,
    "model.ffn_hidden_size": 4096,
    "precision.dtype": "bf16",
}
"""160 million parameters, 2 GiB of state: large beside what is fixed in a save."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def report(saves: Saves) -> str:
    """Figures for people; of a pretended GPU they are none."""
    half = len(saves.step_s) // 2
    during, without = (statistics.median(part) for part in (saves.step_s[:half], saves.step_s[half:]))
    return (
        f"\na rank's file of {saves.num_bytes / 2**30:.2f} GiB, written while training waits: {saves.waited_s:.3f} s, "
        "with the pinning of memory\n"
        f"stall of a save beside training: {saves.stall_s[BESIDE]:.3f} s, the next time {saves.stall_s[AGAIN]:.3f} s\n"
        f"steps while it is copied and written: {during:.3f} s, without: {without:.3f} s (medians)\n"
        f"waited for the copy: {saves.problem or 'no'}{'; of a pretended GPU, so no figures' if PRETENDED else ''}\n"
    )


def test_a_save_beside_steps_is_that_of_the_moment_and_stalls_less(text: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values_of(text, LARGE)))
    command = [sys.executable, str(Path(__file__).with_name("saves_beside_steps.py")), str(config), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    saves = Saves(**json.loads((tmp_path / "saves.json").read_text()))
    sys.stdout.write(report(saves))
    assert saves.problem is None
    end_if_pretended()
    assert saves.unlike_state == []
    files = [file.name for file in (tmp_path / WAITED).glob("*.distcp")]
    assert files
    assert filecmp.cmpfiles(tmp_path / WAITED, tmp_path / BESIDE, files, shallow=False) == (files, [], [])
    assert filecmp.cmpfiles(tmp_path / BESIDE, tmp_path / AGAIN, files, shallow=False)[1] == files
    assert saves.stall_s[AGAIN] < saves.waited_s


def test_a_copy_is_of_the_moment_although_the_source_changes_behind_it(device: torch.device) -> None:
    """Many times, with work before and behind it that takes longer than the copy."""
    copy = DeviceCopy(CudaDevice(device))
    state, work = torch.zeros(2**26, device=device), torch.ones(4096, 4096, device=device)
    for number in range(8):
        work = work @ work / 4096
        state.fill_(float(number))
        (found,), wait = copy.begin([state])
        work = work @ work / 4096
        copy.hold()
        state.fill_(-1.0)
        wait()
        torch.testing.assert_close(found, torch.full_like(found, float(number)), rtol=0.0, atol=0.0)
    assert copy.problem is None


def test_training_saves_beside_its_steps_and_goes_on_from_such_a_save(text: Path, tmp_path: Path) -> None:
    saving = {"checkpoint.save_every_steps": 2, "checkpoint.async_save": True}
    train(text, tmp_path / "run", {**saving, "run.stop_at_step": 6})
    run = train(text, tmp_path / "run", {**saving, "run.stop_at_step": 8}, resume="must")
    assert len(column(run, names.LM_LOSS)) == 8
    assert column(run, names.SAVE_STALL_S)
    assert not [event for event in read_events(RunDir(tmp_path / "run").events) if isinstance(event, SaveWaited)]
