"""Each pipeline stage's share of the model: its layers, its parameters, its memory and its FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.schema import Config
from harness.plan.flops import stage_flops_per_token
from harness.plan.layouts import Layout
from harness.plan.memory import estimate_memory
from harness.plan.parameters import stage_parameters
from harness.plan.stages import layers_of_rank, layers_per_stage


@dataclass(frozen=True, kw_only=True)
class StageShare:
    """The share of one pipeline rank."""

    layers: tuple[tuple[int, ...], ...]
    """Numbers of its layers, from 0, by model chunk."""
    num_parameters: int
    """Parameters on all ranks of the stage that hold one copy, padded rows included."""
    memory_bytes: int
    """Estimate of the memory of one rank, in the phase that needs most."""
    flops_per_token: int
    """Model FLOPs per token, forward and backward; those of all stages add up to the model's."""


def stage_shares(configs: Sequence[Config], layout: Layout) -> tuple[StageShare, ...]:
    """Return the share of every pipeline rank in phases of one layout; FLOPs are those of the first."""
    config = configs[0]
    model, stages = config.model, layers_per_stage(config)
    memory = [estimate_memory(each, layout) for each in configs]
    flops = stage_flops_per_token(model, config.phases[0].seq_length, stages)
    return tuple(
        StageShare(
            layers=tuple(map(tuple, layers_of_rank(stages, rank))),
            num_parameters=held.split * layout.tensor
            + held.replicated
            + held.experts * layout.expert * layout.expert_tensor,
            memory_bytes=max(of_phase[rank].total_bytes for of_phase in memory),
            flops_per_token=flops[rank],
        )
        for rank, held in enumerate(stage_parameters(model, layout, stages))
    )
