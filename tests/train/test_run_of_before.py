"""A run directory that an earlier version left is gone on with, rolled back and read by this one.

`run_of_before/README.md` says how the directory was made, and where the expected values come from.

Compared exactly, everywhere: the samples of every step, and every tensor, weights and moments, as it is loaded and
saved again. Losses and gradient norms are compared bit by bit on the processor and the version of torch that wrote them
(measured: equal with megatron-core 0.16.1 and 0.19.2), and elsewhere as far as other processors go.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from exactness import tensor_hashes
from old_run import EXPECTED, OldRun, expect_steps

pytestmark = pytest.mark.slow


@pytest.fixture
def old_run(tmp_path: Path) -> OldRun:
    return OldRun(tmp_path)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> OldRun:
    """One that is only read."""
    return OldRun(tmp_path_factory.mktemp("before"))


def test_it_goes_on_as_it_would_have_gone_on(old_run: OldRun) -> None:
    num_before = len(old_run.steps())
    text = old_run.train("null")
    assert "resuming before from run/checkpoints/step_0000014 (step 14)" in text
    assert "finished (exit code 0): step 24 of 24" in text
    expect_steps(old_run.steps()[num_before:], EXPECTED["resumed"])
    assert "resume-suspect" not in (old_run.root / "run/events.jsonl").read_text()


@pytest.mark.parametrize(
    ("to_step", "saved", "again"), [("8", "step_0000008.2", "step_0000008.3"), ("14", "step_0000014", "step_0000014.2")]
)
def test_a_rollback_loads_and_saves_every_tensor_as_it_was(
    old_run: OldRun, to_step: str, saved: str, again: str
) -> None:
    checkpoints = old_run.root / "run/checkpoints"
    assert tensor_hashes(checkpoints / saved) == EXPECTED["tensors"][saved]
    num_before = len(old_run.steps())
    text = old_run.train("12" if to_step == "8" else "15", "--rollback-to", to_step)
    assert f"to run/checkpoints/{saved}" in text
    assert tensor_hashes(checkpoints / again) == EXPECTED["tensors"][saved]
    if to_step == "8":  # which is in another phase, before the part that was adopted
        expect_steps(old_run.steps()[num_before:], EXPECTED["rolled_back_to_8"])


@pytest.mark.parametrize("expected", EXPECTED["samples"], ids=lambda found: f"{found['step']}-{found['attempt']}")
def test_the_samples_of_a_step_are_found(untouched: OldRun, expected: dict[str, Any]) -> None:
    """Before and after the quarantine, the adoption, the end of a phase and the rollback."""
    chosen = ("--step", str(expected["step"]), "--attempt", str(expected["attempt"]))
    found = json.loads(untouched.harness("data", "where", "run", *chosen, "--json"))
    assert found["parts"] == expected["parts"]
    shown = json.loads(untouched.harness("data", "show", "run", *chosen, "--ids", "--json"))
    assert {str(sample["position"]): sample["ids"] for sample in shown} == expected["ids"]


def test_status_reads_it(untouched: OldRun) -> None:
    found = json.loads(untouched.harness("status", "run", "--json"))
    assert {name: found[name] for name in EXPECTED["status"]} == EXPECTED["status"]


def test_its_checkpoints_are_listed_and_sound(untouched: OldRun) -> None:
    assert json.loads(untouched.harness("checkpoint", "list", "run", "--json")) == EXPECTED["checkpoints"]
    lines = untouched.harness("checkpoint", "verify", "run", "--deep").splitlines()
    assert lines == [f"{entry['path']}: sound" for entry in EXPECTED["checkpoints"]]


def test_the_watcher_begins_anew_from_the_metrics_and_says_so(old_run: OldRun) -> None:
    """The state that it kept had no checksum."""
    warning, kept, *lines = [line.partition(" ")[2] for line in old_run.harness("watch", "run", "--once").splitlines()]
    assert warning.startswith(
        "warning: the memory of the watcher, run/watch/state.json, is not of format 2. It begins anew"
    )
    assert kept == "the file is kept as run/watch/state.json.unusable"
    assert lines == [EXPECTED["watch"][0].partition(" ")[2], "the run has finished: run.stop_at_step is reached"]
    state = json.loads((old_run.root / "run/watch/state.json").read_text())
    memory = state["memory"]
    assert (memory["attempt"], memory["step"], memory["resumed_after_step"]) == (1, 14, 8)
