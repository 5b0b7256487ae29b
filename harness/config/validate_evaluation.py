"""Rules for held-out samples and for what is asked of them."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.problems import Problem
from harness.config.schema import DataConfig, EvaluationConfig, PhaseConfig
from harness.limits import LEAST_NEEDLE_TOKENS

_PROBES = ("loss_by_position", "num_needles_per_depth")


def held_out_problems(data: DataConfig, evaluation: EvaluationConfig) -> Iterator[Problem]:
    """Check that held-out documents are not trained on, and that there are some."""
    for name, channel in data.channels.items():
        if channel.validation_path == channel.path:
            yield Problem(
                ("data", "channels", name, "validation_path"),
                "is the channel's own path; held-out documents must not be trained on",
            )
    lacking = [name for name, channel in data.channels.items() if channel.validation_path is None]
    is_asked = evaluation.every_steps is not None or evaluation.measure_forgetting
    if is_asked and evaluation.held_out_share == 0 and lacking:
        yield Problem(
            ("evaluation", "held_out_share"),
            f"is 0, so nothing is held out for {', '.join(lacking)}; raise it, or give each a validation_path",
        )


def probe_problems(evaluation: EvaluationConfig, phases: tuple[PhaseConfig, ...]) -> Iterator[Problem]:
    """Check that losses by position and needles are of an evaluation, and that needles fit into the samples."""
    is_asked = evaluation.every_steps is not None or evaluation.measure_forgetting
    if not is_asked and all(phase.evaluation.every_steps is None for phase in phases):
        for name in _PROBES:
            if getattr(evaluation, name):
                yield Problem(("evaluation", name), "has no effect without evaluation.every_steps; give that too")
    for index, phase in enumerate(phases):
        own = phase.evaluation
        if own.every_steps is None and not is_asked:
            for name in _PROBES:
                if getattr(own, name):
                    text = "has no effect without every_steps; give that too"
                    yield Problem(("phases", index, "evaluation", name), text)
        elif (own.num_needles_per_depth or evaluation.num_needles_per_depth) and phase.seq_length < LEAST_NEEDLE_TOKENS:
            yield Problem(
                ("phases", index, "seq_length"),
                f"must be at least {LEAST_NEEDLE_TOKENS} where needles are put into samples "
                f"(evaluation.num_needles_per_depth), given {phase.seq_length}",
            )
