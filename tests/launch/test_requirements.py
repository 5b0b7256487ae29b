"""What is refused because it is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import EXIT_USAGE, ConfigError
from harness.launch.requirements import require_installed

CONFIG = Path(__file__).parents[2] / "model_configs" / "llama3_8b.yaml"


def config(context: int) -> Config:
    return load_config(CONFIG, (f"parallel.context_parallel_size={context}",))


def test_without_context_parallelism_nothing_is_needed() -> None:
    require_installed(config(1), num_gpus=0, module="no_such_module")


def test_fp8_without_transformer_engine_or_a_gpu_is_refused() -> None:
    asks = load_config(CONFIG, ("precision.fp8=hybrid",))
    with pytest.raises(ConfigError) as refused:
        require_installed(asks, num_gpus=8, module="no_such_module")
    assert refused.value.problems == [
        "precision.fp8: products are to be computed in fp8 (hybrid), which needs Transformer Engine, and that is not "
        "installed; on a machine with GPUs: pip install 'harness[transformer-engine]', or leave precision.fp8 out"
    ]
    with pytest.raises(ConfigError, match="needs GPUs, and this machine has none; leave precision.fp8 out"):
        require_installed(asks, num_gpus=0, module="json")
    require_installed(asks, num_gpus=8, module="json")


def test_context_parallelism_without_transformer_engine_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        require_installed(config(2), num_gpus=8, module="no_such_module")
    assert refused.value.exit_code == EXIT_USAGE
    assert refused.value.problems == [
        "parallel.context_parallel_size: 2 ranks are to share a sequence, which needs Transformer Engine, and that is "
        "not installed; on a machine with GPUs: pip install 'harness[transformer-engine]', or take "
        "context_parallel_size 1"
    ]


def test_context_parallelism_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="which needs GPUs, and this machine has none; take context_parallel_size 1"):
        require_installed(config(2), num_gpus=0, module="json")


@pytest.mark.parametrize("num_gpus", [8, None])
def test_with_both_it_goes_on(num_gpus: int | None) -> None:
    require_installed(config(2), num_gpus=num_gpus, module="json")
