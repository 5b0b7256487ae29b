from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config.schema import ScheduleConfig
from harness.plan.schedule import learning_rate

PEAK = 3e-4


def schedule(style: str, **fields: object) -> ScheduleConfig:
    return ScheduleConfig.model_validate({"style": style, **fields})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # Shares of the peak by step, in a phase of 100 steps.
        (schedule("constant"), {1: 1, 50: 1, 100: 1}),
        (schedule("constant", warmup_steps=10), {1: 0.1, 5: 0.5, 10: 1, 11: 1, 100: 1}),
        (schedule("linear", warmup_steps=20), {1: 0.05, 20: 1, 60: 0.55, 100: 0.1}),
        (schedule("linear", min_learning_rate_share=0.0), {1: 0.99, 50: 0.5, 100: 0}),
        (schedule("cosine", warmup_steps=20), {20: 1, 40: 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2, 60: 0.55, 100: 0.1}),
        (schedule("cosine", min_learning_rate_share=1.0), {1: 1, 50: 1, 100: 1}),
        (schedule("wsd", decay_style="linear"), {1: 1, 80: 1, 90: 0.55, 100: 0.1}),
        (schedule("wsd", decay_style="cosine", min_learning_rate_share=0.0), {80: 1, 90: 0.5, 100: 0}),
        (schedule("wsd", min_learning_rate_share=0.0), {80: 1, 85: 0.5, 100: 0}),
        (schedule("wsd", warmup_steps=10, decay_share=0.9, decay_style="linear"), {5: 0.5, 10: 1, 55: 0.55, 100: 0.1}),
        # Warm-up reaches into the decay, which is then shorter.
        (schedule("wsd", warmup_steps=90, decay_style="linear"), {45: 0.5, 90: 1, 95: 0.55, 100: 0.1}),
        (schedule("wsd", decay_share=0.001), {99: 1, 100: 0.1}),
        (schedule("inverse_square_root", warmup_steps=16), {8: 0.5, 16: 1, 64: 0.5, 100: 0.4}),
        (schedule("inverse_square_root", warmup_steps=1), {1: 1, 4: 0.5, 100: 0.1}),
        (schedule("inverse_square_root", warmup_steps=0), {1: 1, 4: 0.5, 25: 0.2}),
        (schedule("inverse_square_root", warmup_steps=1, min_learning_rate_share=0.25), {16: 0.25, 100: 0.25}),
    ],
)
def test_learning_rate_by_step(config: ScheduleConfig, expected: dict[int, float]) -> None:
    found = {step: learning_rate(config, PEAK, step, 100) for step in expected}
    assert found == pytest.approx({step: PEAK * share for step, share in expected.items()}, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(
    ("style", "of_megatron"),
    [("cosine", {"lr_decay_style": "cosine"}), ("linear", {"lr_decay_style": "linear"})]
    + [
        ("wsd", {"lr_decay_style": "WSD", "wsd_decay_steps": 20, "lr_wsd_decay_style": "minus_sqrt"}),
        ("inverse_square_root", {"lr_decay_style": "inverse-square-root"}),
    ],
)
def test_megatron_has_the_learning_rates_one_step_later(style: str, of_megatron: dict[str, Any]) -> None:
    """Megatron's scheduler moves after the update; so its first step has 0, where our last step may have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Megatron's own imports
        from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    weights = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    theirs = OptimizerParamScheduler(
        weights,
        init_lr=0.0,
        max_lr=PEAK,
        min_lr=0.0,
        lr_warmup_steps=10,
        lr_decay_steps=100,
        start_wd=0.0,
        end_wd=0.0,
        wd_incr_steps=100,
        wd_incr_style="constant",
        **of_megatron,
    )
    found = []
    for _ in range(101):
        found.append(weights.param_groups[0]["lr"])  # that of the step before `step` is called
        theirs.step(1)
    ours = schedule(style, warmup_steps=10, min_learning_rate_share=0.0)
    assert found == pytest.approx([0.0, *(learning_rate(ours, PEAK, step, 100) for step in range(1, 101))], abs=1e-18)
    assert found[99] > 0, "the last of Megatron's 100 steps changes weights"


@st.composite
def schedules(draw: st.DrawFn) -> tuple[ScheduleConfig, int]:
    train_steps = draw(st.integers(1, 5000))
    config = schedule(
        draw(st.sampled_from(["cosine", "linear", "constant", "wsd", "inverse_square_root"])),
        warmup_steps=draw(st.integers(0, train_steps - 1)),
        min_learning_rate_share=draw(st.floats(0, 1)),
        decay_share=draw(st.floats(0, 1, exclude_min=True)),
        decay_style=draw(st.sampled_from(["linear", "cosine", "one_minus_sqrt"])),
    )
    return config, train_steps


@given(schedules(), st.floats(1e-7, 1.0), st.data())
def test_the_peak_is_reached_after_warm_up_and_never_passed(
    drawn: tuple[ScheduleConfig, int], peak: float, data: st.DataObject
) -> None:
    config, train_steps = drawn
    step = data.draw(st.integers(1, train_steps))
    assert 0 <= learning_rate(config, peak, step, train_steps) <= peak
    if config.warmup_steps:
        assert learning_rate(config, peak, config.warmup_steps, train_steps) == peak


@given(schedules(), st.data())
def test_it_rises_in_warm_up_and_never_after(drawn: tuple[ScheduleConfig, int], data: st.DataObject) -> None:
    config, train_steps = drawn
    earlier = data.draw(st.integers(1, train_steps))
    later = data.draw(st.integers(earlier, train_steps))
    before, after = (learning_rate(config, PEAK, step, train_steps) for step in (earlier, later))
    if later <= config.warmup_steps:
        assert after >= before
    if earlier >= config.warmup_steps:
        assert after <= before * (1 + 1e-12)


@given(schedules())
def test_a_decay_ends_exactly_at_the_minimum(drawn: tuple[ScheduleConfig, int]) -> None:
    config, train_steps = drawn
    last = learning_rate(config, PEAK, train_steps, train_steps)
    minimum = PEAK * config.min_learning_rate_share
    if config.style in ("cosine", "linear", "wsd"):
        assert last == minimum
    else:
        assert last >= minimum


@given(schedules(), st.data())
def test_it_depends_on_the_peak_by_proportion_only(drawn: tuple[ScheduleConfig, int], data: st.DataObject) -> None:
    config, train_steps = drawn
    step = data.draw(st.integers(1, train_steps))
    once, twice = (learning_rate(config, peak, step, train_steps) for peak in (PEAK, 2 * PEAK))
    assert twice == 2 * once
