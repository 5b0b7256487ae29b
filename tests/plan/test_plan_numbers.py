from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction

import pytest

from harness.config.schema import Config
from harness.errors import ConfigError
from harness.plan.flops import flops_per_token
from harness.plan.layouts import Layout
from harness.plan.plan import exact_shares, make_plan

MakeConfig = Callable[..., Config]


def test_a_plan_holds_what_follows_from_the_configuration(make_config: MakeConfig) -> None:
    config = make_config(
        model={"vocab_size": 31900},
        parallel={"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 4, "micro_batch_size": 2},
    )
    plan = make_plan(config, 16)
    assert plan.layout == Layout(tensor=2, pipeline=4, virtual_pipeline=1, context=1, data=2)
    assert plan.layers_per_stage == ((8, 8, 8, 8),)
    assert config.model.padded_vocab_size == 32000
    assert plan.train_steps == 100
    (phase,) = plan.phases
    assert (phase.name, phase.first_step, phase.last_step, phase.train_steps) == ("main", 1, 100, 100)
    assert phase.num_microbatches == 64 // (2 * 2)
    assert phase.tokens_per_step == 64 * 2048
    assert phase.train_tokens == 100 * 64 * 2048
    assert phase.shares == {"zh": Fraction(1, 2), "en": Fraction(1, 2)}
    assert phase.flops_per_token == flops_per_token(config.model, 2048)


@pytest.mark.parametrize(("train_tokens", "steps"), [(1, 1), (131072, 1), (131073, 2), (10 * 131072, 10)])
def test_tokens_are_rounded_up_to_whole_steps(make_config: MakeConfig, train_tokens: int, steps: int) -> None:
    plan = make_plan(make_config(phase={"train_steps": None, "train_tokens": train_tokens}), 1)
    assert plan.train_steps == plan.phases[0].train_steps == steps


def test_phases_follow_one_another_without_a_gap(make_config: MakeConfig) -> None:
    config = make_config()
    second = config.phases[0].model_copy(update={"name": "anneal", "train_steps": 7})
    plan = make_plan(config.model_copy(update={"phases": (config.phases[0], second)}), 1)
    assert [(phase.first_step, phase.last_step) for phase in plan.phases] == [(1, 100), (101, 107)]
    assert plan.train_steps == 107


def test_a_broken_layout_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="world size 3 is not a multiple of tensor 2") as caught:
        make_plan(make_config(parallel={"tensor_model_parallel_size": 2}), 3)
    assert len(caught.value.problems) == 1


def test_shares_are_exact_fractions_of_the_decimal_weights() -> None:
    assert exact_shares({"a": 0.1, "b": 0.2}) == {"a": Fraction(1, 3), "b": Fraction(2, 3)}
    assert exact_shares({"a": 67.0, "b": 4.5, "c": 28.5})["b"] == Fraction(9, 200)
    assert exact_shares({"a": 1e-07, "b": 0.9999999})["a"] == Fraction(1, 10**7)
    assert sum(exact_shares({str(number): 0.1 * number for number in range(1, 20)}).values()) == 1


def test_the_plan_needs_no_torch() -> None:
    code = "import sys, harness.plan.plan_text\nprint(sorted({'torch', 'numpy', 'megatron'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
