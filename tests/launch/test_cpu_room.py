"""A run on CPUs that cannot have room is refused before a process starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.config.load import load_config
from harness.errors import EXIT_USAGE, ConfigError
from harness.launch.cpu_room import require_room
from harness.plan.plan import make_plan

TINY = Path(__file__).parents[2] / "model_configs" / "tiny.yaml"
GIB = 1 << 30


def require(*overrides: str, world_size: int, cores: int = 2, memory: int = 64 * GIB) -> None:
    config = load_config(TINY, overrides)
    require_room(config, make_plan(config, world_size), [world_size], cores=cores, memory=memory)


def test_thousands_of_processes_are_not_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("parallel.data_parallel_size=5000", "phases.0.global_batch_size=40000")
    run_dir = tmp_path / "run"
    words = [word for size in sizes for word in ("--set", size)]
    assert cli.run(["train", str(TINY), "--run-dir", str(run_dir), *words]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "parallel: the layout needs 20,000 processes on the CPUs of this machine; on " in said
    assert not run_dir.exists()


@pytest.mark.parametrize(("cores", "most"), [(2, 64), (8, 64), (9, 72), (96, 768)])
def test_as_many_as_a_machine_may_try_are_taken(cores: int, most: int) -> None:
    batch = f"phases.0.global_batch_size={most}"
    require(batch, "parallel.micro_batch_size=1", world_size=most, cores=cores)
    with pytest.raises(ConfigError, match=f"needs {most + 4} processes .* on {cores} cores at most {most} are started"):
        require(
            f"phases.0.global_batch_size={most + 4}",
            "parallel.micro_batch_size=1",
            world_size=most + 4,
            cores=cores,
        )


def test_a_model_that_is_larger_than_the_memory_is_refused() -> None:
    require(world_size=4, memory=GIB)
    with pytest.raises(ConfigError, match=r"model: weights, gradients and optimizer state of its [0-9,]+ parameters"):
        require("model.ffn_hidden_size=1048576", "model.hidden_size=65536", world_size=4)


def test_experts_that_ranks_share_are_counted_once() -> None:
    """One copy of 1.6 billion fp32 numbers, 16 bytes each with gradients and moments, and four of dense layers."""
    sizes = (
        *("model.num_moe_experts=64", "model.moe_ffn_hidden_size=16384"),
        *("parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1"),
        *("parallel.micro_batch_size=1", "parallel.expert_tensor_parallel_size=1"),
    )
    require(*sizes, "parallel.expert_model_parallel_size=4", world_size=4, memory=26 * GIB)
    with pytest.raises(ConfigError, match="which has 26.0 GiB of memory"):
        require(*sizes, world_size=4, memory=26 * GIB)
