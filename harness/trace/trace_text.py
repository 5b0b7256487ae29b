"""A trace as people read it on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from harness.config.schema import Config
from harness.errors import UsageError
from harness.plan.axes import as_product
from harness.plan.memory import GIB
from harness.plan.plan import Plan
from harness.say import say
from harness.screen import Screen
from harness.trace.findings import PARTS, StageFindings
from harness.trace.traced_plan import TracedPhase, TracedStage, trace_plan

NUM_SHOWN = 12
"""Kinds of tensors that are shown of a peak; `--json` has all."""


class TraceText:
    """A trace to be printed, or recorded as JSON."""

    def __init__(self, phases: Sequence[TracedPhase]) -> None:
        self._phases = phases

    def record(self) -> list[dict[str, Any]]:
        """Return all findings, phase by phase."""
        return [phase.record() for phase in self._phases]

    def print(self, console: Screen) -> None:
        """Print what every stage takes, what that consists of, and what a step asks of host and network."""
        for phase in self._phases:
            _print_phase(console, phase)


def trace_for_plan(config: Config, plan: Plan) -> TraceText:
    """Trace a plan, with a line on standard error for every stage that is done.

    Raises:
        UsageError: The model has experts.
    """
    if config.model.num_moe_experts is not None:
        raise UsageError(
            "a model with experts cannot be traced: tensors without values do not say which experts tokens go to. "
            "Leave --trace out: the plan estimates the memory"
        )
    return TraceText(trace_plan(config, plan, show=lambda line: say(line, err=True)))


def _print_phase(console: Screen, phase: TracedPhase) -> None:
    findings = phase.heaviest.findings
    console.print()
    traced, in_all = findings.num_microbatches, phase.phase.num_microbatches
    filled = "" if traced == in_all else " (more do not change the peak)"
    console.print(f"[bold]Trace of phase {phase.phase.name}[/bold]", highlight=False)
    console.print(
        f"  [dim]{as_product(phase.phase.layout.sizes())}; {traced} of {in_all} micro-batches a step{filled}; "
        "bytes allocated by torch[/dim]",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_stages(phase.stages))
    _print_peak(console, findings)
    _print_host_waits(console, findings)
    _print_collectives(console, findings)


def _stages(stages: Sequence[TracedStage]) -> Table:
    table = _table("pipeline rank", *PARTS, "peak", "estimate", "deviation")
    for stage in stages:
        by_part = stage.findings.bytes_by_part
        table.add_row(
            str(stage.findings.pipeline_rank),
            *(_gib(by_part[part]) for part in PARTS),
            f"{_gib(stage.findings.peak_bytes)} GiB",
            _gib(stage.estimate.total_bytes),
            f"{stage.deviation_pct:+.2f} %",
        )
    return table


def _print_peak(console: Screen, findings: StageFindings) -> None:
    console.print(f"  At the peak of pipeline rank {findings.pipeline_rank}, largest first", highlight=False)
    table = _table("GiB", "tensors", "part", "shape", "made by", left=("part", "shape", "made by"))
    for held in findings.held[:NUM_SHOWN]:
        made = held.made
        table.add_row(
            _gib(held.num_bytes),
            str(held.count),
            made.part,
            f"{' x '.join(map(str, made.shape))} {made.dtype}",
            f"{made.place} {made.place.function}",
        )
    left = sum(held.num_bytes for held in findings.held[NUM_SHOWN:])
    if left:
        table.add_row(_gib(left), str(sum(held.count for held in findings.held[NUM_SHOWN:])), "", "all others", "")
    console.print(table)


def _print_host_waits(console: Screen, findings: StageFindings) -> None:
    count = findings.num_host_waits
    times = "once" if count == 1 else f"{count} times"
    console.print(f"  The host waits for the device {times} a step", highlight=False)
    if not count:
        return
    table = _table("times", "by", "place", left=("by", "place"))
    for wait in findings.host_waits:
        table.add_row(str(wait.count), wait.kind, f"{wait.place} {wait.place.function}")
    console.print(table)


def _print_collectives(console: Screen, findings: StageFindings) -> None:
    if not findings.collectives:
        return
    console.print("  Collectives and messages of the traced step", highlight=False)
    table = _table("times", "GiB", "kind", "between", left=("kind", "between"))
    for each in sorted(findings.collectives, key=lambda each: -each.num_bytes):
        table.add_row(str(each.count), _gib(each.num_bytes), each.kind, f"{each.group} ranks ({each.num_ranks})")
    console.print(table)


def _table(*headings: str, left: Sequence[str] = ()) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", overflow="fold")
    return table


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f}"
