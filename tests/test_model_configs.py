from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.config.load import load_config
from harness.config.phase_settings import in_phase
from harness.plan.gpus import find_gpu
from harness.plan.memory import heaviest_rank
from harness.plan.parameters import ParameterCount, count_parameters
from harness.plan.plan import make_plan

MODEL_CONFIGS = Path(__file__).parent.parent / "model_configs"

# Parameters of the released weights. MiniMind2's are published as 26M and 104M only; these are what its code builds.
PUBLISHED_PARAMETERS = {
    "minimind2_small": 25_829_888,
    "minimind2": 104_030_976,
    "llama_7b": 6_738_415_616,
    "llama_13b": 13_015_864_320,
    "llama_33b": 32_528_943_616,
    "llama_65b": 65_285_660_672,
    "llama3_8b": 8_030_261_248,
    "llama3.2_1b": 1_235_814_400,
    "qwen2.5_7b": 7_615_616_512,
    "internlm2_1.8b": 1_889_110_016,
    "internlm2_7b": 7_737_708_544,
    "internlm2_20b": 19_861_149_696,
    "mixtral_8x7b": 46_702_792_704,
    "qwen3_30b_a3b": 30_532_122_624,
    "olmoe_1b_7b": 6_919_161_856,
    "gpt_oss_20b": 20_914_757_184,
    "glm4.5_air": 106_852_245_504,
    "deepseek_v2_lite": 15_706_484_224,
    "deepseek_v3": 671_026_404_352,  # without the biases of experts, which no gradient moves
}
# Billions, as their makers say it.
ACTIVE = {"mixtral_8x7b": 12.9, "qwen3_30b_a3b": 3.3, "olmoe_1b_7b": 1.3}
ACTIVE_WITHOUT_EMBEDDING = {"gpt_oss_20b": 3.61, "deepseek_v2_lite": 2.4, "deepseek_v3": 36.6}
"""DeepSeek says 2.4 and 37 billion. Neither it nor the card of gpt-oss counts the embedding."""
# Modules that predict further tokens are counted apart. The index of GLM-4.5-Air names 110,468,824,832 parameters: with
# embedding and output layer a second time, and the biases of 46 layers' experts, which no gradient moves.
PUBLISHED_MODULES = {
    "glm4.5_air": 110_468_824_832 - 106_852_245_504 - 2 * 151_552 * 4096 - 46 * 128,
    "deepseek_v3": 11_610_067_968,  # "11.5B" without embedding and output layer, says its makers' list of weights
}
LLAMA_STEPS = {"llama_7b": 238_419, "llama_13b": 238_419, "llama_33b": 333_787, "llama_65b": 333_787}

FILES = sorted(MODEL_CONFIGS.glob("*.yaml"))


def planned_gpus(path: Path) -> int:
    """The number of GPUs in the command that stands at the top of every file."""
    head = "".join(line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[0] == "#")
    command = re.search(rf"harness plan model_configs/{re.escape(path.name)} --gpus (\d+)", head)
    assert command, f"{path.name} does not say how to plan it"
    return int(command[1])


def parameters_without_modules(name: str) -> ParameterCount:
    model = load_config(MODEL_CONFIGS / f"{name}.yaml").model
    return count_parameters(model.model_copy(update={"mtp_num_layers": None}))


def test_every_published_model_has_a_file_and_every_file_a_test() -> None:
    assert {path.stem for path in FILES} == {"tiny", "tiny_moe", "tiny_phases", "continue_sea", *PUBLISHED_PARAMETERS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_configuration_is_a_complete_legal_run(path: Path) -> None:
    config = load_config(path)
    plan = make_plan(config, planned_gpus(path))
    assert config.run.name == path.stem
    of_modules = PUBLISHED_MODULES.get(path.stem, 0)
    assert count_parameters(config.model).mtp == of_modules
    assert plan.num_parameters - of_modules == PUBLISHED_PARAMETERS.get(path.stem, plan.num_parameters)
    assert plan.train_steps == LLAMA_STEPS.get(path.stem, plan.train_steps)
    assert set().union(*(phase.blend for phase in config.phases)) == set(config.data.channels)
    assert config.checkpoint.save_every_steps is not None
    assert config.evaluation.every_steps is not None


@pytest.mark.parametrize("name", ACTIVE)
def test_the_parameters_that_a_token_meets_are_the_published_ones(name: str) -> None:
    active = parameters_without_modules(name).active
    assert active / 1e9 == pytest.approx(ACTIVE[name], abs=0.06)


@pytest.mark.parametrize("name", ACTIVE_WITHOUT_EMBEDDING)
def test_the_parameters_that_a_token_is_multiplied_with_are_the_published_ones(name: str) -> None:
    count = parameters_without_modules(name)
    assert (count.active - count.embedding) / 1e9 == pytest.approx(ACTIVE_WITHOUT_EMBEDDING[name], abs=0.06)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_layout_fits_the_gpus_it_is_meant_for(path: Path) -> None:
    config = load_config(path)
    gpu = find_gpu("a100")
    assert gpu is not None
    for phase in make_plan(config, planned_gpus(path)).phases:
        assert heaviest_rank(in_phase(config, phase.index), phase.layout).fits(gpu.memory_gib)
        assert phase.layout.tensor <= 8


def test_the_demo_trains_at_two_by_two_on_three_channels_in_fp32() -> None:
    config = load_config(MODEL_CONFIGS / "tiny.yaml")
    plan = make_plan(config, 4)
    assert (plan.layout.tensor, plan.layout.pipeline, plan.layout.data) == (2, 2, 1)
    assert config.precision.dtype == "fp32"
    assert {name: str(share) for name, share in plan.phases[0].shares.items()} == {
        "zh": "2/5",
        "en": "2/5",
        "code": "1/5",
    }
    assert {name: str(channel.path) for name, channel in config.data.channels.items()} == {
        name: f".demo/channels/{name}" for name in ("zh", "en", "code")
    }
    assert plan.train_steps == 300
    assert config.model.padded_vocab_size == 4096
