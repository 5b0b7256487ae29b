from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from harness.config.schema import Config
from harness.errors import ConfigError, UsageError
from harness.plan.course import sketch
from harness.plan.plan import make_plan
from harness.plan.plan_text import plan_text, print_plan
from harness.plan.record import plan_record

MakeConfig = Callable[..., Config]

UNEVEN_BLEND = {"blend": {"zh": 3, "en": 1}, "schedule": {"style": "cosine", "warmup_steps": 20}}


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    return make_config(
        model={"vocab_size": 31900},
        parallel={"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 4},
        phase=UNEVEN_BLEND,
    )


def lines_of(text: str) -> dict[str, str]:
    """Rows of the report by label."""
    rows = (line.strip().split("  ", maxsplit=1) for line in text.splitlines())
    return {row[0]: row[1].strip() for row in rows if len(row) == 2}


def test_plan_text_states_every_derived_number(config: Config) -> None:
    text = plan_text(config, make_plan(config, 16))
    rows = lines_of(text)
    assert rows["parameters"] == "426,107,904 (426M)"
    assert rows["vocabulary"] == "31,900, padded to 32,000 (204,800 padding parameters)"
    assert rows["ranks"] == "16 = tensor 2 x pipeline 4 x context 1 x data 2"
    assert rows["layers per stage"] == "8 8 8 8"
    assert rows["steps"] == "100 (from step 1)"
    assert "  tokens           13,107,200 (13.1M)\n" in text
    assert rows["batch"] == (
        "64 samples x 2,048 = 131,072 tokens (131K) a step, 32 micro-batches per rank, pipeline bubble 9 %"
    )
    assert rows["channel zh"] == "75.00 % = 9.83M tokens"
    assert rows["channel en"] == "25.00 % = 3.28M tokens"
    assert rows["learning rate"] == (
        "1.5e-05 at 1, 0.0003 at 20, 0.000297 at 25, 0.000217 at 50, 9e-05 at 75, 3e-05 at 100"
    )
    assert rows["FLOPs per token"].startswith("2.763e+09 (causal; ")
    assert rows["total"].endswith("on pipeline rank 0")


def test_plan_text_is_plain_text(config: Config) -> None:
    text = plan_text(config, make_plan(config, 16))
    assert text.endswith("\n")
    assert "[" not in text
    assert "\x1b" not in text
    headings = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert headings == [
        "Model",
        "Layout",
        "Phase main",
        "Channels: 13.1M tokens in all",
        "Memory on the heaviest rank (estimate)",
    ]


def test_plan_text_names_chunks(make_config: MakeConfig) -> None:
    config = make_config(
        parallel={
            "pipeline_model_parallel_size": 2,
            "virtual_pipeline_model_parallel_size": 4,
            "context_parallel_size": 2,
        }
    )
    rows = lines_of(plan_text(config, make_plan(config, 4)))
    assert rows["virtual chunks"] == "4 per pipeline rank (interleaved)"
    assert rows["layers per stage"] == "4 4 | 4 4 | 4 4 | 4 4"


LAYOUT = {"pipeline_model_parallel_size": 2, "pipeline_model_parallel_layout": "Et*3|t*20|t*9|L"}


def test_each_stage_is_named_with_its_share(make_config: MakeConfig) -> None:
    config = make_config(parallel=LAYOUT)
    rows = lines_of(plan_text(config, make_plan(config, 2)))
    assert rows["virtual chunks"] == "2 per pipeline rank (interleaved)"
    assert rows["layers per stage"] == "3 20 | 9 0"
    assert re.fullmatch(
        r"embedding and layers 0-2, 23-31: 168M parameters, [0-9.]+ GiB a rank, 34\.. % of the FLOPs", rows["stage 0"]
    )
    assert re.fullmatch(
        r"loss and layers 3-22: 258M parameters, [0-9.]+ GiB a rank, 65\.. % of the FLOPs", rows["stage 1"]
    )


def test_a_stage_without_layers_is_named(make_config: MakeConfig) -> None:
    parallel = {"pipeline_model_parallel_size": 4, "pipeline_model_parallel_layout": "E|t*12|t*20|L"}
    rows = lines_of(plan_text(make_config(parallel=parallel), make_plan(make_config(parallel=parallel), 4)))
    assert rows["stage 0"].startswith("embedding and no layer: 32.8M parameters, ")
    assert rows["stage 0"].endswith(" 0.0 % of the FLOPs")
    assert rows["stage 3"].startswith("loss and no layer: 32.8M parameters, ")


def test_the_shares_of_stages_add_up(make_config: MakeConfig) -> None:
    config = make_config(parallel={**LAYOUT, "tensor_model_parallel_size": 2})
    record = plan_record(config, make_plan(config, 8), gpu=None)
    stages = record["layout"]["stages"]
    assert sorted(layer for stage in stages for chunk in stage["layers"] for layer in chunk) == list(range(32))
    assert sum(stage["num_parameters"] for stage in stages) == record["model"]["num_parameters_padded"]
    assert sum(stage["flops_per_token"] for stage in stages) == record["phases"][0]["flops_per_token"]
    assert max(stage["memory_bytes"] for stage in stages) == record["memory"]["total_bytes"]


def test_of_many_stages_the_ends_are_shown(make_config: MakeConfig) -> None:
    config = make_config(parallel={"pipeline_model_parallel_size": 32})
    text = plan_text(config, make_plan(config, 32))
    assert [label for label in lines_of(text) if label.startswith("stage ")] == [
        f"stage {rank}" for rank in (*range(8), *range(24, 32))
    ]


@pytest.mark.parametrize(
    ("parallel", "text"),
    [
        ({}, "none"),
        ({"recompute": "selective"}, "selective: layernorm, mlp_act, moe_act"),
        (
            {"recompute_granularity": "selective", "recompute_modules": ["mlp", "core_attn"]},
            "selective: core_attn, mlp",
        ),
        ({"recompute": "full"}, "full"),
        ({"recompute": "full", "recompute_num_layers": 4}, "full: 4 layers together"),
        (
            {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 4},
            "full: the first 4 layers of every model chunk",
        ),
    ],
)
def test_what_is_recomputed_is_said(make_config: MakeConfig, parallel: dict[str, Any], text: str) -> None:
    config = make_config(parallel=parallel)
    assert lines_of(plan_text(config, make_plan(config, 1)))["recompute"] == text


def test_the_printed_plan_adds_time_and_legal_layouts(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(config, 16, "a100", as_json=False)
    shown = capsys.readouterr().out
    assert "on a100 at 40 % MFU" in shown
    assert "Legal layouts on 16 GPUs, best guess first" in shown
    assert "fits 79 GiB" in shown


def test_the_json_holds_the_same_numbers(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(config, 16, "NVIDIA H100 80GB HBM3", as_json=True)
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    plan = make_plan(config, 16)
    assert (record["legal"], record["problems"]) == (True, [])
    assert record["model"]["num_parameters"] == plan.num_parameters
    assert record["layout"]["layers_per_stage"] == [[8, 8, 8, 8]]
    phase = record["phases"][0]
    assert phase["flops_per_token"] == plan.phases[0].flops_per_token
    assert phase["channels"]["zh"] == {"share": 0.75, "train_tokens": 9830400}
    assert phase["learning_rate"][-1] == {"step": 100, "value": pytest.approx(3e-5)}
    flops = plan.phases[0].flops_per_token * plan.phases[0].train_tokens
    assert record["time"]["seconds"] == pytest.approx(flops / (16 * 989e12 * 0.4))
    assert record["legal_layouts"][0]["data_parallel_size"] == 16


def test_without_a_number_of_gpus_the_smallest_is_planned(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(config, None, None, as_json=True)
    assert json.loads(capsys.readouterr().out)["layout"]["world_size"] == 8


def test_fp32_has_no_estimate_of_time(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(make_config(precision="fp32"), 1, None, as_json=True)
    assert json.loads(capsys.readouterr().out)["time"] is None


@pytest.mark.parametrize("as_json", [True, False])
def test_a_broken_layout_is_refused_after_the_legal_ones_are_shown(
    config: Config, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    with pytest.raises(ConfigError, match="world size 4 is not a multiple of") as caught:
        print_plan(config, 4, None, as_json)
    shown = capsys.readouterr().out
    if as_json:
        record = json.loads(shown)
        assert (record["legal"], record["problems"]) == (False, caught.value.problems)
        assert record["legal_layouts"]
        assert "phases" not in record
    else:
        assert "426,107,904" in shown
        assert "Legal layouts on 4 GPUs" in shown
        assert "Phase" not in shown


def test_no_legal_layout_is_said(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(phase={"global_batch_size": 1})
    with pytest.raises(ConfigError, match="global_batch_size 1 of phase main"):
        print_plan(config, 7, None, as_json=False)
    assert "none with even stages: change the number of GPUs, the batch or the model" in capsys.readouterr().out


def test_an_unknown_gpu_is_refused_with_the_known_ones(config: Config) -> None:
    with pytest.raises(
        UsageError, match=r"GPU 'gtx' is not known: use one of b200, .*, or the name that torch reports"
    ):
        print_plan(config, 8, "gtx", as_json=False)


def test_a_sketch_is_scaled_to_its_largest_value() -> None:
    assert sketch([0.0, 1.0, 2.0, 4.0, 8.0]) == " ▁▂▄█"
    assert sketch([0.0, 0.0]) == "  "
