"""A copy of the run that an earlier version left, and commands on it: `run_of_before/README.md` says what it is."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from exactness import processor
from process_runs import HARNESS, PATIENCE_S, REPOSITORY, Command
from test_golden import TOLERANCE

EXTRACTION: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
FOLDER = Path(__file__).with_name("run_of_before")
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())


class OldRun:
    """The run with its data and its configuration, in a folder of a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with tarfile.open(FOLDER / "run.tar.xz") as archive:
            archive.extractall(root, **EXTRACTION)

    def harness(self, *arguments: str, code: int = 0, package: Path = REPOSITORY) -> str:
        """Returns what a command prints; it must leave with `code`. The package may be another version of harness."""
        done = subprocess.run(
            [*HARNESS, *arguments],
            cwd=self.root,  # the paths in the configuration are relative
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def train(self, stop_at_step: str, *arguments: str, code: int = 0, package: Path = REPOSITORY) -> str:
        """Return what training prints; of this version it is a fork of a process that has loaded it."""
        stop = ("--set", f"run.stop_at_step={stop_at_step}")
        command = ("train", "config.yaml", "--run-dir", "run", *stop, *arguments)
        if package != REPOSITORY:
            return self.harness(*command, code=code, package=package)
        found, text = Command(command, folder=self.root).finish()
        assert found == code, text
        return text

    def steps(self) -> list[dict[str, Any]]:
        """Every line of `metrics.jsonl`."""
        return [json.loads(line) for line in (self.root / "run/metrics.jsonl").read_text().splitlines()]

    def model_of(self, checkpoint: str) -> dict[str, Any]:
        """The model as a checkpoint's manifest describes it."""
        manifest = json.loads((self.root / "run/checkpoints" / checkpoint / "manifest.json").read_text())
        model: dict[str, Any] = manifest["fingerprint"]["model"]
        return model


def expect_steps(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Check that steps are those that the earlier version did, as far as this machine can."""
    for name in ("step", "attempt", "data/batch_hash"):
        assert [step[name] for step in found] == [step[name] for step in expected]
    is_exact = (processor(), version("torch").partition("+")[0]) == (EXPECTED["processor"], EXPECTED["torch"])
    for name, tolerance in (("train/lm_loss", TOLERANCE), ("optim/grad_norm", 10 * TOLERANCE)):
        values, wanted = [step[name] for step in found], [step[name] for step in expected]
        assert values == (wanted if is_exact else pytest.approx(wanted, rel=tolerance)), name
