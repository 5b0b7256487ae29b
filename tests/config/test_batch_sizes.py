"""Batch sizes over a phase, against a walk through its steps."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config.batch_sizes import BatchSizes, batch_sizes, train_steps
from harness.config.schema import PhaseConfig


def phase(**changes: Any) -> PhaseConfig:
    values = {"name": "main", "train_steps": 50, "seq_length": 4, "global_batch_size": 16, "blend": {"zh": 1.0}}
    return PhaseConfig.model_validate(values | changes)


def ramped(start: int, increment: int, samples: int, **changes: Any) -> PhaseConfig:
    return phase(batch_ramp_up={"start": start, "increment": increment, "ramp_up_samples": samples}, **changes)


def walked(given: PhaseConfig, num_steps: int) -> list[int]:
    """The size of each step as Megatron-LM finds it: by the samples consumed so far."""
    ramp = given.batch_ramp_up
    assert ramp is not None
    num_rises = (given.global_batch_size - ramp.start) // ramp.increment
    sizes, consumed = [], 0
    for _ in range(num_steps):
        rises = next((n for n in range(num_rises) if consumed < ramp.ramp_up_samples * (n + 1) // num_rises), num_rises)
        sizes.append(ramp.start + rises * ramp.increment)
        consumed += sizes[-1]
    return sizes


@pytest.mark.parametrize(
    ("start", "increment", "samples"), [(4, 4, 60), (1, 1, 200), (8, 8, 3), (2, 2, 5), (15, 1, 1), (1, 5, 77)]
)
def test_sizes_are_those_of_a_walk(start: int, increment: int, samples: int) -> None:
    given = ramped(start, increment, samples)
    sizes, expected = batch_sizes(given), walked(given, 50)
    assert [sizes.of_step(step) for step in range(1, 51)] == expected
    assert [sizes.samples_in(steps) for steps in range(51)] == [sum(expected[:steps]) for steps in range(51)]
    assert [sizes.after_samples(sum(expected[:steps])) for steps in range(50)] == expected


@pytest.mark.parametrize("given", [phase(), ramped(4, 4, 60), ramped(2, 2, 5)])
def test_steps_for_samples_is_the_inverse(given: PhaseConfig) -> None:
    sizes = batch_sizes(given)
    for num_samples in range(0, 300):
        num_steps = sizes.steps_for(num_samples)
        assert sizes.samples_in(num_steps) >= num_samples
        assert num_steps == 0 or sizes.samples_in(num_steps - 1) < num_samples


def test_without_a_ramp_up_there_is_one_size() -> None:
    sizes: BatchSizes = batch_sizes(phase())
    assert [stage.size for stage in sizes.stages] == [16]
    assert sizes.smallest == sizes.of_step(1) == sizes.of_step(10**6) == 16


def test_a_length_in_tokens_counts_the_small_batches() -> None:
    given = ramped(4, 4, 24, train_steps=None, train_tokens=4 * (8 + 8 + 12 + 16 + 1))
    assert [stage.size for stage in batch_sizes(given).stages] == [4, 8, 12, 16]
    assert walked(given, 5) == [4, 4, 8, 12, 16]
    assert train_steps(given) == 6
