"""What is refused because it is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import EXIT_USAGE, ConfigError
from harness.launch.requirements import require_installed

CONFIG = Path(__file__).parents[2] / "model_configs" / "llama3_8b.yaml"


def config(context: int, way: str | None = None) -> Config:
    ring = () if way is None else (f"parallel.cp_comm_type={way}",)
    return load_config(CONFIG, (f"parallel.context_parallel_size={context}", *ring))


@pytest.mark.parametrize("way", [None, "allgather", "a2a"])
def test_without_a_ring_nothing_is_needed(way: str | None) -> None:
    require_installed(config(1 if way is None else 2, way), num_gpus=0, module="no_such_module")
    require_installed(config(2), num_gpus=0, module="no_such_module")


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


def test_a_ring_without_transformer_engine_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        require_installed(config(2, "p2p"), num_gpus=8, module="no_such_module")
    assert refused.value.exit_code == EXIT_USAGE
    assert refused.value.problems == [
        "parallel.cp_comm_type: ranks are to share samples in a ring (p2p), which needs Transformer Engine, and that "
        "is not installed; on a machine with GPUs: pip install 'harness[transformer-engine]', or take allgather or a2a"
    ]


def test_a_ring_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="which needs GPUs, and this machine has none; take allgather or a2a"):
        require_installed(config(2, "p2p"), num_gpus=0, module="json")


@pytest.mark.parametrize("num_gpus", [8, None])
def test_with_both_it_goes_on(num_gpus: int | None) -> None:
    require_installed(config(2, "p2p"), num_gpus=num_gpus, module="json")
