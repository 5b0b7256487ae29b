"""What was loaded is looked at before it is trusted: moments, replicas, the first losses."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tampering
import torch
from pool import Pool
from small_run import Grid, small_config

from harness.run.paths import RunDir
from harness.train.state import TrainState
from harness.train.steps.restored import checksum, highest_expected, norm_problems, resume_suspicion

LOADED = 10
QUIET = tuple((step, 2.2 + 0.03 * (-1) ** step) for step in range(1, LOADED + 1))


@pytest.mark.parametrize(
    ("step", "promised", "found", "problem"),
    [
        (7, 0.5, 0.5, None),
        (7, 0.5, 0.5 * (1 + 1e-9), None),
        (7, 0.5, 0.0, "the optimizer's exp_avg has the norm 0 after 7 steps"),
        (7, 0.0, 0.0, "the optimizer's exp_avg has the norm 0 after 7 steps"),
        (7, 0.5, math.nan, "the optimizer's exp_avg has the norm nan after 7 steps"),
        (0, 0.0, 0.0, None),
        (7, 0.5, 0.501, "the optimizer's exp_avg has the norm 0.501, its manifest says 0.5"),
    ],
)
def test_norms(step: int, promised: float, found: float, problem: str | None) -> None:
    problems = norm_problems(step, {"exp_avg": promised}, {"exp_avg": found})
    assert problems == ([] if problem is None else [problem])


def loaded_then(*losses: float, remembered: tuple[tuple[int, float], ...] = QUIET) -> TrainState:
    later = tuple((LOADED + 1 + number, loss) for number, loss in enumerate(losses))
    return TrainState(step=LOADED + len(losses), loaded_at_step=LOADED, last_losses=remembered + later)


@pytest.mark.parametrize(
    ("state", "is_suspect"),
    [
        (loaded_then(2.21), False),
        (loaded_then(2.6), False),  # 6.4 sigmas
        (loaded_then(2.8), True),
        (loaded_then(11.08), True),
        (loaded_then(math.nan), True),
        (loaded_then(1.0), False),
        (loaded_then(2.21, 11.08), True),  # the weights were loaded well, and the first step broke them
        (loaded_then(11.08, 11.0), False),  # told at the step before
        (loaded_then(*[2.2] * 19, 11.0), True),
        (loaded_then(*[2.2] * 20, 11.0), False),  # for the watch to see, not a matter of loading
        (loaded_then(11.08, remembered=QUIET[-7:]), False),  # too few to know the noise
        (replace(loaded_then(11.08), loaded_at_step=None), False),
    ],
)
def test_a_jump_after_loading_is_told_once(state: TrainState, is_suspect: bool) -> None:
    assert (resume_suspicion(state) is not None) == is_suspect


def test_losses_of_another_phase_are_not_compared() -> None:
    state = loaded_then(9.0)
    assert resume_suspicion(state, phase_first_step=1) is not None
    assert resume_suspicion(state, phase_first_step=LOADED + 1) is None
    assert resume_suspicion(state, phase_first_step=LOADED - 4) is None


def test_the_suspicion_says_what_to_do() -> None:
    assert resume_suspicion(loaded_then(2.21, 11.08)) == (
        "the loss of step 12 is 11.0800, 2 steps after loading the checkpoint of step 10, before which it was 2.2000 "
        "(at most 2.7032 would be noise). If it does not come back at once, stop, and resume from an earlier checkpoint"
    )


def test_a_steep_fall_is_no_noise_that_hides_a_jump() -> None:
    falling = [11 - 0.2 * step for step in range(20)]
    highest = highest_expected(falling)
    assert highest is not None
    assert falling[-1] < highest < falling[-1] + 2.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checksum_sees_every_bit_and_the_order(dtype: torch.dtype) -> None:
    tensor = torch.arange(1.0, 9.0, dtype=dtype)
    assert checksum(tensor) == checksum(tensor.clone())
    swapped = tensor[[1, 0, 2, 3, 4, 5, 6, 7]]
    negative = tensor * torch.tensor([1, 1, 1, -1, 1, 1, 1, 1], dtype=dtype)
    assert len({int(checksum(item)) for item in (tensor, swapped, negative, tensor[:7])}) == 4


def resumed(pool: Pool, corpus: Path, base_run: Path, run_dir: Path, grid: Grid, fault: str) -> Any:
    """(exit code, error) of every rank that resumes at step 10 and goes on to step 13."""
    shutil.copytree(RunDir(base_run).checkpoint(LOADED), RunDir(run_dir).checkpoint(LOADED))
    config = small_config(corpus, grid, {"run.stop_at_step": LOADED + 3})
    return pool.run(tampering.resume_with, grid.world_size, config, run_dir, fault)


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = RunDir(run_dir).events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "grid", "text"),
    [
        ("moments of zero", Grid(dp=2), "the optimizer's exp_avg has the norm 0 after 10 steps. No step was taken."),
        ("a moment", Grid(dp=2), "the optimizer's exp_avg_sq has the norm "),
        (
            "a replica",
            Grid(dp=2),
            "1 parameters of rank 1 differ from those of its data-parallel replicas, first decoder.final_layernorm",
        ),
        (
            "a replica",
            Grid(tp=2, sequence_parallel=True),
            "1 parameters of rank 1 differ from those of its tensor-parallel replicas, first decoder.final_layernorm",
        ),
        (
            "the tied embedding",
            Grid(pp=2),
            "1 parameters of rank 1 differ from those of the other end of the pipeline, first output_layer.weight",
        ),
    ],
)
def test_no_step_is_taken_with_a_state_that_was_not_saved(
    fault: str, grid: Grid, text: str, pool: Pool, corpus: Path, base_run: Path, tmp_path: Path
) -> None:
    found = resumed(pool, corpus, base_run, tmp_path, grid, fault)
    assert [code for code, _ in found] == [65, 65]
    assert text in found[0][1]
    assert not RunDir(tmp_path).metrics.exists() or RunDir(tmp_path).metrics.read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "count"), [("none", 0), ("all weights", 1)])
def test_a_loss_that_jumps_after_loading_is_an_event(
    fault: str, count: int, pool: Pool, corpus: Path, base_run: Path, tmp_path: Path
) -> None:
    assert resumed(pool, corpus, base_run, tmp_path, Grid(), fault) == [(0, "")]
    found = events(tmp_path, "resume-suspect")
    assert len(found) == count
    assert all(event["step"] in (11, 12) for event in found)
