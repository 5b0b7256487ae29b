"""The axes of a layout: every way in which ranks share the work, and its name in each place that has it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One way in which ranks share the work."""

    name: str
    """Field of `Layout`, and the word in messages."""
    key: str
    """Key in the configuration, in records of a plan, and name in Megatron."""
    multiplies: Literal["ranks of a copy", "copies"] | None
    """Number that its size is a factor of."""


AXES = (
    Axis(name="tensor", key="tensor_model_parallel_size", multiplies="ranks of a copy"),
    Axis(name="pipeline", key="pipeline_model_parallel_size", multiplies="ranks of a copy"),
    Axis(name="virtual_pipeline", key="virtual_pipeline_model_parallel_size", multiplies=None),
    Axis(name="context", key="context_parallel_size", multiplies="ranks of a copy"),
    Axis(name="expert", key="expert_model_parallel_size", multiplies=None),
    Axis(name="expert_tensor", key="expert_tensor_parallel_size", multiplies=None),
    Axis(name="data", key="data_parallel_size", multiplies="copies"),
)
"""Every axis, in the order in which people name them. A further one is a row here and a field of `Layout`."""
COPY_AXES = tuple(axis for axis in AXES if axis.multiplies == "ranks of a copy")
RANK_AXES = tuple(axis for axis in AXES if axis.multiplies is not None)


def given_sizes(config: Config) -> dict[str, int]:
    """Return the size of every axis by its key; 1 where the configuration leaves it out.

    Each expert is shared by as many ranks as every layer, if nothing else is said.
    """
    sizes = {axis.key: getattr(config.parallel, axis.key) or 1 for axis in AXES}
    sizes["virtual_pipeline_model_parallel_size"] = config.parallel.num_model_chunks
    if config.model.num_moe_experts is not None and config.parallel.expert_tensor_parallel_size is None:
        sizes["expert_tensor_parallel_size"] = config.parallel.tensor_model_parallel_size
    return sizes


def ranks_per_copy(config: Config) -> int:
    """Return the number of ranks that hold one copy of the model: tensor x pipeline x context."""
    sizes = given_sizes(config)
    return math.prod(sizes[axis.key] for axis in COPY_AXES)


def ranks_per_experts(config: Config) -> int:
    """Return the number of ranks of one pipeline stage that hold one copy of its experts: expert x expert_tensor."""
    sizes = given_sizes(config)
    return sizes["expert_model_parallel_size"] * sizes["expert_tensor_parallel_size"]


def fewest_ranks(config: Config) -> int:
    """Return the fewest ranks that hold whole copies of the model and of its experts."""
    num_stages = config.parallel.pipeline_model_parallel_size
    return num_stages * math.lcm(ranks_per_copy(config) // num_stages, ranks_per_experts(config))


def as_product(sizes: dict[str, int], axes: tuple[Axis, ...] = RANK_AXES) -> str:
    """Write sizes as a product: `tensor 2 x pipeline 4 x context 1 x data 8`."""
    return " x ".join(f"{axis.name} {sizes[axis.key]}" for axis in axes)
