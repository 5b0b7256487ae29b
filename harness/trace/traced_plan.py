"""The trace of a plan: what the real program takes and asks for, beside the arithmetic's estimate. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.config.phase_settings import in_phase
from harness.config.schema import Config
from harness.errors import UsageError
from harness.plan.axes import AXES
from harness.plan.memory import MemoryEstimate, estimate_memory
from harness.plan.plan import PhasePlan, Plan
from harness.trace.findings import StageFindings
from harness.trace.processes import Show, require_megatron, trace_stages
from harness.trace.request import Request, phases_to_trace, requests_for

MOST_STAGES = 64
"""Stages that are traced: two at once, they take minutes."""
TraceStages = Callable[[Sequence[Request], Show], list[StageFindings]]


@dataclass(frozen=True, kw_only=True)
class TracedStage:
    """A pipeline stage as it was traced, and as it was estimated."""

    findings: StageFindings
    estimate: MemoryEstimate

    @property
    def deviation_pct(self) -> float:
        """Deviation of the estimate from the trace."""
        return 100 * (self.estimate.total_bytes / self.findings.peak_bytes - 1)


@dataclass(frozen=True, kw_only=True)
class TracedPhase:
    """All pipeline stages of a phase, which stands for all phases of its layout."""

    phase: PhasePlan
    stages: tuple[TracedStage, ...]

    @property
    def heaviest(self) -> TracedStage:
        """The stage that takes most memory."""
        return max(self.stages, key=lambda stage: stage.findings.peak_bytes)

    def record(self) -> dict[str, Any]:
        """Return all findings under stable names."""
        return {
            "phase": self.phase.name,
            **self.phase.layout.sizes(AXES),
            "num_microbatches": self.phase.num_microbatches,
            "num_microbatches_traced": self.heaviest.findings.num_microbatches,
            "stages": [_stage_record(stage) for stage in self.stages],
        }


def trace_plan(config: Config, plan: Plan, show: Show, trace: TraceStages = trace_stages) -> list[TracedPhase]:
    """Trace a plan, one phase for every layout. Takes seconds for each stage; `show` gets a line for each.

    Raises:
        UsageError: Megatron or torch are not installed, or there are too many stages.
        HarnessError: A trace failed.
    """
    require_megatron()
    phases = list(phases_to_trace(config, plan))
    if (num_stages := sum(phase.layout.pipeline for phase in phases)) > MOST_STAGES:
        raise UsageError(
            f"--trace runs each of the {num_stages:,} pipeline stages of the run's layouts, some seconds each; at most "
            f"{MOST_STAGES} are traced: choose fewer stages (parallel.pipeline_model_parallel_size) or phases with a "
            "layout of their own, or leave --trace out"
        )
    return [_trace_phase(config, plan, phase, show, trace) for phase in phases]


def _trace_phase(config: Config, plan: Plan, phase: PhasePlan, show: Show, trace: TraceStages) -> TracedPhase:
    requests = requests_for(config, plan, phase)
    show(f"phase {phase.name}: tracing {_counted(len(requests), 'pipeline rank')} on the meta device")
    estimates = estimate_memory(in_phase(config, phase.index), phase.layout)
    stages = zip(trace(requests, show), estimates, strict=True)
    return TracedPhase(
        phase=phase, stages=tuple(TracedStage(findings=findings, estimate=estimate) for findings, estimate in stages)
    )


def _stage_record(stage: TracedStage) -> dict[str, Any]:
    findings = stage.findings
    return {
        "pipeline_rank": findings.pipeline_rank,
        "peak_bytes": findings.peak_bytes,
        **{f"{part}_bytes": num_bytes for part, num_bytes in findings.bytes_by_part.items()},
        "estimate": {**asdict(stage.estimate), "total_bytes": stage.estimate.total_bytes},
        "estimate_deviation_pct": round(stage.deviation_pct, 3),
        "held_at_peak": [
            {
                "bytes": held.num_bytes,
                "tensors": held.count,
                **asdict(held.made),
                "place": str(held.made.place),
                "function": held.made.place.function,
            }
            for held in findings.held
        ],
        "host_waits": [
            {"kind": wait.kind, "place": str(wait.place), "function": wait.place.function, "count": wait.count}
            for wait in findings.host_waits
        ],
        "collectives": [asdict(collective) for collective in findings.collectives],
    }


def _counted(number: int, word: str) -> str:
    return f"1 {word}" if number == 1 else f"{number} {word}s"
