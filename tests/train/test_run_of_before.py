"""A run directory that an earlier version left is gone on with, rolled back and read by this one.

`run_of_before/README.md` says how the directory was made, and where the expected values come from.

Compared exactly, everywhere: the samples of every step, and every tensor, weights and moments, as it is loaded and
saved again. Losses and gradient norms are compared bit by bit on the processor and the version of torch that wrote them
(measured: equal with megatron-core 0.16.1 and 0.19.2), and elsewhere as far as other processors go.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from exactness import processor, tensor_hashes
from process_runs import HARNESS, PATIENCE_S, REPOSITORY
from test_golden import TOLERANCE

FOLDER = Path(__file__).with_name("run_of_before")
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())

pytestmark = pytest.mark.slow


class Site:
    """A copy of the run of before, with its data and its configuration."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with tarfile.open(FOLDER / "run.tar.xz") as archive:
            archive.extractall(root, filter="data")

    def harness(self, *arguments: str) -> str:
        """Returns what a command prints; it must leave with 0."""
        done = subprocess.run(
            [*HARNESS, *arguments],
            cwd=self.root,  # the paths in the configuration are relative
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def train(self, stop_at_step: str, *arguments: str) -> str:
        stop = ("--set", f"run.stop_at_step={stop_at_step}")
        return self.harness("train", "config.yaml", "--run-dir", "run", *stop, *arguments)

    def steps(self) -> list[dict[str, Any]]:
        """Every line of `metrics.jsonl`."""
        return [json.loads(line) for line in (self.root / "run/metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One that is only read."""
    return Site(tmp_path_factory.mktemp("before"))


def test_it_goes_on_as_it_would_have_gone_on(site: Site) -> None:
    num_before = len(site.steps())
    text = site.train("null")
    assert "resuming before from run/checkpoints/step_0000014 (step 14)" in text
    assert "finished (exit code 0): step 24 of 24" in text
    expect_steps(site.steps()[num_before:], EXPECTED["resumed"])
    assert "resume-suspect" not in (site.root / "run/events.jsonl").read_text()


@pytest.mark.parametrize(
    ("to_step", "saved", "again"), [("8", "step_0000008.2", "step_0000008.3"), ("14", "step_0000014", "step_0000014.2")]
)
def test_a_rollback_loads_and_saves_every_tensor_as_it_was(site: Site, to_step: str, saved: str, again: str) -> None:
    checkpoints = site.root / "run/checkpoints"
    assert tensor_hashes(checkpoints / saved) == EXPECTED["tensors"][saved]
    num_before = len(site.steps())
    text = site.train("12" if to_step == "8" else "15", "--rollback-to", to_step)
    assert f"to run/checkpoints/{saved}" in text
    assert tensor_hashes(checkpoints / again) == EXPECTED["tensors"][saved]
    if to_step == "8":  # which is in another phase, before the part that was adopted
        expect_steps(site.steps()[num_before:], EXPECTED["rolled_back_to_8"])


def expect_steps(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for name in ("step", "attempt", "data/batch_hash"):
        assert [step[name] for step in found] == [step[name] for step in expected]
    is_exact = (processor(), version("torch").partition("+")[0]) == (EXPECTED["processor"], EXPECTED["torch"])
    for name, tolerance in (("train/lm_loss", TOLERANCE), ("optim/grad_norm", 10 * TOLERANCE)):
        values, wanted = [step[name] for step in found], [step[name] for step in expected]
        assert values == (wanted if is_exact else pytest.approx(wanted, rel=tolerance)), name


@pytest.mark.parametrize("expected", EXPECTED["samples"], ids=lambda found: f"{found['step']}-{found['attempt']}")
def test_the_samples_of_a_step_are_found(untouched: Site, expected: dict[str, Any]) -> None:
    """Before and after the quarantine, the adoption, the end of a phase and the rollback."""
    chosen = ("--step", str(expected["step"]), "--attempt", str(expected["attempt"]))
    found = json.loads(untouched.harness("data", "where", "run", *chosen, "--json"))
    assert found["parts"] == expected["parts"]
    shown = json.loads(untouched.harness("data", "show", "run", *chosen, "--ids", "--json"))
    assert {str(sample["position"]): sample["ids"] for sample in shown} == expected["ids"]


def test_status_reads_it(untouched: Site) -> None:
    assert json.loads(untouched.harness("status", "run", "--json")) == EXPECTED["status"]


def test_its_checkpoints_are_listed_and_sound(untouched: Site) -> None:
    assert json.loads(untouched.harness("checkpoint", "list", "run", "--json")) == EXPECTED["checkpoints"]
    lines = untouched.harness("checkpoint", "verify", "run", "--deep").splitlines()
    assert lines == [f"{entry['path']}: sound" for entry in EXPECTED["checkpoints"]]


def test_the_watcher_goes_on_from_what_it_kept(site: Site) -> None:
    """The rollback is news to it: the copied files count as replaced, and are read from their beginning."""
    lines = site.harness("watch", "run", "--once").splitlines()
    assert [line.partition(" ")[2] for line in lines] == [line.partition(" ")[2] for line in EXPECTED["watch"]]
    state = json.loads((site.root / "run/watch/state.json").read_text())
    memory = state["memory"]
    assert (memory["attempt"], memory["step"], memory["resumed_after_step"]) == (1, 14, 8)
