"""Checks that a run on the CPUs of this machine has room there, before any process is started."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config.phase_settings import in_phase
from harness.config.schema import Config
from harness.errors import ConfigError
from harness.launch.machine import count_cores, memory_bytes
from harness.parameters.table import parameter_table
from harness.plan.memory import GIB, state_bytes
from harness.plan.plan import Plan

PROCESSES_PER_CORE = 8
"""Processes for each core: with more, a step takes minutes, because the ranks wait for each other."""
PROCESSES_ANYWHERE = 64
"""Processes that may be tried on any machine: small layouts are tried on laptops."""


def require_room(
    config: Config, plan: Plan, world_sizes: Sequence[int], *, cores: int | None = None, memory: int | None = None
) -> None:
    """Make sure that the workers of every phase, all on this machine, have cores and memory for what is certain.

    `world_sizes` has the workers of each phase; `cores` and the bytes of `memory` are by default those that are here.
    Counted of the memory are weights, gradients and optimizer state alone: what an activation takes is an estimate.

    Raises:
        ConfigError: They have not.
    """
    num_cores = cores or count_cores()
    most = max(PROCESSES_ANYWHERE, PROCESSES_PER_CORE * num_cores)
    if (needed := max(world_sizes)) > most:
        raise ConfigError(
            [
                f"parallel: the layout needs {needed:,} processes on the CPUs of this machine; on {num_cores} cores at "
                f"most {most} are started. Choose smaller parallel sizes (parallel.data_parallel_size, …), or start "
                "it on several machines with torchrun or srun"
            ]
        )
    available = memory or memory_bytes()
    needed_bytes = max(_state_bytes(config, plan, index) for index in range(len(config.phases)))
    if available is not None and needed_bytes > available:
        raise ConfigError(
            [
                f"model: weights, gradients and optimizer state of its {plan.num_parameters:,} parameters take "
                f"{needed_bytes / GIB:,.1f} GiB on this machine, which has {available / GIB:,.1f} GiB of memory. "
                "Choose a smaller model or fewer copies (parallel.data_parallel_size), or train where there is room: "
                "`harness plan` tells what it needs"
            ]
        )


def _state_bytes(config: Config, plan: Plan, index: int) -> int:
    """Return the bytes of all copies of weights and fp32 gradients, and of the optimizer's state, which they share."""
    own, layout = in_phase(config, index), plan.phases[index].layout
    dtype = own.precision.dtype
    of_a_copy = (2 if dtype == "bf16" else 4) + 4
    in_experts = sum(one.num_true for one in parameter_table(own.model) if one.num_experts is not None)
    held = (plan.num_parameters - in_experts) * layout.data * layout.context + in_experts * layout.expert_data
    return held * of_a_copy + state_bytes(own)
