"""A request for a trace of one pipeline stage, and the choice of what is traced of a plan. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from harness.config.phase_settings import in_phase, parallel_of, shares_processes
from harness.config.schema import Config
from harness.json_text import parse_json
from harness.plan.memory import heaviest_rank
from harness.plan.plan import PhasePlan, Plan


@dataclass(frozen=True, kw_only=True)
class Request:
    """The stage to trace."""

    config: Config
    world_sizes: tuple[int, ...]
    """Ranks of every phase."""
    phase_index: int
    pipeline_rank: int
    most_microbatches: int
    """Micro-batches of a step that are traced at most."""

    def as_json(self) -> str:
        """Return the request in one line."""
        return json.dumps({**vars(self), "config": self.config.model_dump_json()})

    @staticmethod
    def from_json(text: str) -> Request:
        """Return the request that `as_json` wrote."""
        record = parse_json(text)
        config = Config.model_validate_json(record["config"])
        return Request(**{**record, "config": config, "world_sizes": tuple(record["world_sizes"])})


def phases_to_trace(config: Config, plan: Plan) -> Iterator[PhasePlan]:
    """Yield one phase for every layout of a run: by the estimate, the one that needs most memory in it."""
    left = list(plan.phases)
    while left:
        own = parallel_of(config, left[0].index)
        alike = [
            phase
            for phase in left
            if phase.layout == left[0].layout and shares_processes(own, parallel_of(config, phase.index))
        ]
        yield max(alike, key=lambda phase: heaviest_rank(in_phase(config, phase.index), phase.layout).total_bytes)
        left = [phase for phase in left if phase not in alike]


def requests_for(config: Config, plan: Plan, phase: PhasePlan) -> list[Request]:
    """Return the requests for a trace of each pipeline stage of a phase.

    Twice as many micro-batches as there are stages fill the pipeline, interleaved or not: further ones repeat what
    those before them did.
    """
    return [
        Request(
            config=config,
            world_sizes=tuple(each.layout.world_size for each in plan.phases),
            phase_index=phase.index,
            pipeline_rank=rank,
            most_microbatches=2 * phase.layout.pipeline,
        )
        for rank in range(phase.layout.pipeline)
    ]
