"""How much memory may be taken, and how much of a model is compared in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint_tools.free_memory import available_bytes
from checkpoint_tools.proof import layers_that_fit
from harness.config.model import ModelConfig
from harness.plan.parameters import count_parameters

GB = 10**9
MACHINE = "MemTotal:       32000000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"
V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def machine(folder: Path, cgroup: str) -> dict[str, Path]:
    (folder / "meminfo").write_text(MACHINE)
    (folder / "cgroup").write_text(cgroup)
    return {"meminfo": folder / "meminfo", "own": folder / "cgroup", "groups": folder / "groups"}


def group(folder: Path, names: tuple[str, str], limit: object, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 7\n")


def test_without_limits_it_is_what_linux_says(tmp_path: Path) -> None:
    files = machine(tmp_path, "0::/\n")
    assert available_bytes(**files) == 20_000_000 * 1024
    group(tmp_path / "groups", V2, "max", 5 * GB)
    assert available_bytes(**files) == 20_000_000 * 1024
    files["own"].unlink()
    assert available_bytes(**files) == 20_000_000 * 1024


def test_a_jobs_own_limit_counts_and_that_of_its_parents(tmp_path: Path) -> None:
    files = machine(tmp_path, "0::/slurm/job_7/step_0\n")
    group(tmp_path / "groups" / "slurm" / "job_7" / "step_0", V2, "max", 3 * GB)
    group(tmp_path / "groups" / "slurm" / "job_7", V2, 8 * GB, 6 * GB, cached=1 * GB)
    assert available_bytes(**files) == 3 * GB
    group(tmp_path / "groups" / "slurm", V2, 8 * GB, 9 * GB)
    assert available_bytes(**files) == 0


def test_older_control_groups_are_read_too(tmp_path: Path) -> None:
    files = machine(tmp_path, "12:cpu,cpuacct:/job_7\n9:memory:/job_7\n")
    group(tmp_path / "groups" / "memory" / "job_7", V1, 4 * GB, 1 * GB)
    group(tmp_path / "groups" / "memory", V1, 9223372036854771712, 1 * GB)
    assert available_bytes(**files) == 3 * GB


def test_in_a_container_the_root_is_its_own_group(tmp_path: Path) -> None:
    files = machine(tmp_path, "0::/docker/0123\n")  # a path of the host, which is not there
    group(tmp_path / "groups", V2, 2 * GB, 1 * GB)
    assert available_bytes(**files) == 1 * GB


def model(num_layers: int) -> ModelConfig:
    return ModelConfig(
        num_layers=num_layers,
        hidden_size=4096,
        num_attention_heads=32,
        num_query_groups=8,
        ffn_hidden_size=14336,
        vocab_size=128256,
    )


@pytest.mark.parametrize(("gigabytes", "layers"), [(0, 0), (17, 0), (30, 3), (60, 11), (100, 21), (140, 32), (999, 32)])
def test_as_many_layers_are_compared_as_fit(gigabytes: int, layers: int) -> None:
    """A model of 8 billion parameters: 12 bytes each, in seven tenths of what is free."""
    assert layers_that_fit(model(32), gigabytes * GB) == layers


def test_what_is_compared_fits_and_one_layer_more_would_not() -> None:
    for gigabytes in range(20, 140, 7):
        fitting = layers_that_fit(model(32), gigabytes * GB)
        needed = [count_parameters(model(number)).total * 12 for number in (max(1, fitting), fitting + 1)]
        assert fitting == 0 or needed[0] <= 0.7 * gigabytes * GB < needed[1] or fitting == 32
