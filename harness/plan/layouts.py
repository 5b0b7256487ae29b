"""The layout of a model on the ranks: the process grid, and what a number of ranks allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.config.phase_settings import in_phase
from harness.config.schema import Config
from harness.errors import ConfigError
from harness.plan import layout_rules
from harness.plan.axes import AXES, RANK_AXES, Axis, fewest_ranks, given_sizes, ranks_per_copy


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the process grid.

    `virtual_pipeline` is the number of model chunks per pipeline rank (1: not interleaved). `expert` and
    `expert_tensor` divide the ranks of a pipeline stage anew, for its experts.
    """

    tensor: int
    pipeline: int
    virtual_pipeline: int
    context: int
    data: int
    expert: int = 1
    expert_tensor: int = 1

    @property
    def expert_data(self) -> int:
        """Copies of the experts."""
        return self.tensor * self.context * self.data // (self.expert * self.expert_tensor)

    @property
    def world_size(self) -> int:
        """Ranks that the layout needs."""
        return math.prod(getattr(self, axis.name) for axis in RANK_AXES)

    def sizes(self, axes: Iterable[Axis] = AXES) -> dict[str, int]:
        """Return the size of every axis by its key."""
        return {axis.key: getattr(self, axis.name) for axis in axes}


def make_layout(config: Config, world_size: int) -> Layout:
    """Return the process grid that `world_size` ranks form.

    Raises:
        ConfigError: With all problems of `layout_problems`, if there are any.
    """
    if problems := layout_problems(config, world_size):
        raise ConfigError(problems)
    sizes = given_sizes(config) | {"data_parallel_size": world_size // ranks_per_copy(config)}
    return Layout(**{axis.name: sizes[axis.key] for axis in AXES})


def phase_problems(config: Config, world_sizes: Sequence[int]) -> list[str]:
    """Name every rule that a phase breaks on its number of ranks; what several phases break alike is named once.

    A phase that has a `parallel` section of its own is named in front of what is wrong with it.
    """
    problems: list[str] = []
    for index, (phase, size) in enumerate(zip(config.phases, world_sizes, strict=True)):
        place = f"parallel section of phase {phase.name}: " if phase.parallel is not None else ""
        problems += [f"{place}{problem}" for problem in layout_problems(in_phase(config, index), size)]
    return list(dict.fromkeys(problems))


def needed_world_sizes(config: Config) -> list[int]:
    """Return the ranks of every phase: as few as its layout allows."""
    return [smallest_world_size(in_phase(config, index)) for index in range(len(config.phases))]


def phase_world_sizes(config: Config, world_size: int) -> list[int]:
    """Return the ranks of every phase in a launch of `world_size`: all, if the phase can use them, else what it needs.

    Where no phase can use them, they are wrong for all.
    """
    own = [in_phase(config, index) for index in range(len(config.phases))]
    fits = [not layout_rules.world_size_problems(each, world_size) for each in own]
    if not any(fits):
        return [world_size] * len(own)
    return [world_size if fit else smallest_world_size(each) for each, fit in zip(own, fits, strict=True)]


def layout_problems(config: Config, world_size: int) -> list[str]:
    """Name every rule that `config` on `world_size` ranks breaks, with the numbers and the nearest legal values."""
    return [
        *layout_rules.world_size_problems(config, world_size),
        *layout_rules.tensor_problems(config),
        *layout_rules.expert_problems(config, world_size),
        *layout_rules.pipeline_problems(config),
        *layout_rules.recompute_problems(config),
        *layout_rules.sequence_problems(config),
        *layout_rules.batch_problems(config, world_size),
    ]


def smallest_world_size(config: Config) -> int:
    """Return the ranks that the parallel section needs: `data_parallel_size` copies, or as few as hold every expert."""
    copies = config.parallel.data_parallel_size
    return fewest_ranks(config) if copies is None else ranks_per_copy(config) * copies
