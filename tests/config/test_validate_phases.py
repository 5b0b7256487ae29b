"""Each rule of phases, with its text."""

import pytest
from config_text import SMALL

from harness.config.overrides import apply_override
from harness.config.problems import dotted
from harness.config.schema import Config
from harness.config.strict_yaml import parse_file_text
from harness.config.validate import cross_field_problems

MAIN = "name: main, train_steps: 100, seq_length: 32, global_batch_size: 8, blend: {zh: 1}"
LONG = "name: long, train_tokens: 8192, seq_length: 128, global_batch_size: 8, blend: {en: 1}"


def problems(*phases: str) -> list[str]:
    """Problems between the fields of the small configuration with these phases."""
    document = parse_file_text(SMALL, "small.yaml")
    apply_override(document, f"phases=[{', '.join(f'{{{phase}}}' for phase in phases)}]")
    found = cross_field_problems(dict(Config.model_validate(document.value)))
    return [f"{dotted(problem.location)}: {problem.text}" for problem in found]


REFUSED = [
    (
        (MAIN, LONG, LONG),
        "phases.2.name: long is the name of phase 1 already; choose another one",
    ),
    (
        (f"{MAIN}, schedule: {{continues: true}}", LONG),
        "phases.0.schedule.continues: has nothing to continue in the first phase; remove it",
    ),
    (
        (MAIN, f"{LONG}, schedule: {{continues: true}}, optimizer: {{learning_rate: 1e-3}}"),
        "phases.1.optimizer.learning_rate: has no effect, because the schedule continues without a warm-up: the peak "
        "is the last learning rate of the phase before; remove it, or give schedule.warmup_steps to go from there to "
        "0.001",
    ),
    (
        (MAIN, f"{LONG}, schedule: {{warmup_steps: 9}}"),
        "phases.1.schedule.warmup_steps: must be at most the phase's 8 steps, given 9",
    ),
    (
        (MAIN, f"{LONG}, rope_scaling: {{type: linear, factor: 0.5}}"),
        "phases.1.rope_scaling.factor: must be at least 1 (it stretches the context), given 0.5",
    ),
    (
        (MAIN, f"{LONG}, parallel: {{sequence_parallel: true}}"),
        "phases.1.parallel.sequence_parallel: needs tensor_model_parallel_size greater than 1; set it, or leave "
        "sequence_parallel out",
    ),
    (
        (MAIN, f"{LONG}, parallel: {{num_layers_in_last_pipeline_stage: 1}}"),
        "phases.1.parallel.num_layers_in_last_pipeline_stage: needs pipeline_model_parallel_size greater than 1; set "
        "it, or leave this out",
    ),
    (
        (MAIN, f"{LONG}, evaluation: {{channels: [en, zhh]}}"),
        "phases.1.evaluation.channels.1: zhh is not a channel of data.channels; did you mean 'zh'? (channels: zh, en)",
    ),
    (
        (f"{MAIN}, batch_ramp_up: {{start: 8, increment: 2, ramp_up_samples: 16}}",),
        "phases.0.batch_ramp_up.start: must be smaller than global_batch_size 8, given 8",
    ),
    (
        (f"{MAIN}, batch_ramp_up: {{start: 2, increment: 4, ramp_up_samples: 16}}",),
        "phases.0.batch_ramp_up.increment: must divide global_batch_size - start = 6, given 4; take 3 or 6, or a "
        "global_batch_size of 6 or 10",
    ),
    (
        (f"{MAIN}, batch_ramp_up: {{start: 2, increment: 2, ramp_up_samples: 1000}}",),
        "phases.0.batch_ramp_up.ramp_up_samples: must be less than the phase's 200 samples, given 1000",
    ),
    (
        (f"{MAIN}, frozen_parameters: [embeding.*]",),
        "phases.0.frozen_parameters.0: embeding.* matches no parameter; names are such as embedding.*, "
        "decoder.layers.0.self_attention.linear_qkv.weight, *layernorm*",
    ),
    (
        (f"{MAIN}, frozen_parameters: [embedding.*, 'decoder.*', output_layer.weight]",),
        "phases.0.frozen_parameters: names all parameters, and nothing would be trained; remove a pattern",
    ),
]


@pytest.mark.parametrize(("phases", "expected"), REFUSED)
def test_refused(phases: tuple[str, ...], expected: str) -> None:
    assert problems(*phases) == [expected]


@pytest.mark.parametrize(
    "phases",
    [
        (MAIN, LONG),
        (MAIN, f"{LONG}, schedule: {{continues: true}}"),
        (MAIN, f"{LONG}, schedule: {{continues: true, warmup_steps: 3}}, optimizer: {{learning_rate: 1e-3}}"),
        (f"{MAIN}, batch_ramp_up: {{start: 2, increment: 2, ramp_up_samples: 24}}", LONG),
        (f"{MAIN}, frozen_parameters: [embedding.*, 'decoder.layers.[0-2].*', '*layernorm*']",),
        (MAIN, f"{LONG}, evaluation: {{channels: [en, zh], every_steps: 4}}, rotary_base: 1e6"),
    ],
)
def test_allowed(phases: tuple[str, ...]) -> None:
    assert problems(*phases) == []
