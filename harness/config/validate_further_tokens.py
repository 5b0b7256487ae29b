"""Rules for modules that predict further tokens."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.model import ModelConfig
from harness.config.parallel import ParallelConfig
from harness.config.problems import Location, Problem
from harness.config.schema import PhaseConfig, PrecisionConfig
from harness.config.validate_phases import changed_fields


def further_token_problems(model: ModelConfig, precision: PrecisionConfig) -> Iterator[Problem]:
    """Yield the problems of the modules with other settings of the model, and with its number formats."""
    if model.mtp_num_layers is None:
        for name in changed_fields(model, ("mtp_loss_scaling_factor",)):
            yield Problem(("model", name), "has no effect without mtp_num_layers; give that, or remove this")
        return
    here: Location = ("model", "mtp_num_layers")
    if model.position_embedding_type != "rope":
        yield Problem(
            here,
            f"cannot be combined with position_embedding_type {model.position_embedding_type}, whose vectors are on "
            "the first pipeline stage only; take rope, or leave it out",
        )
    if precision.fp8 is not None:
        yield Problem(here, "cannot be combined with precision.fp8; leave one of them out")


def further_token_phase_problems(
    model: ModelConfig, parallel: ParallelConfig, phases: tuple[PhaseConfig, ...]
) -> Iterator[Problem]:
    """Yield the problems of the modules with the length of samples, and with ranks that share a sequence."""
    if model.mtp_num_layers is None:
        return
    places: list[tuple[Location, ParallelConfig]] = [(("parallel",), parallel)]
    for index, phase in enumerate(phases):
        if phase.seq_length <= model.mtp_num_layers:
            yield Problem(
                ("phases", index, "seq_length"),
                f"must be greater than model.mtp_num_layers {model.mtp_num_layers}, given {phase.seq_length}: the last "
                "module would have no token to predict",
            )
        if phase.parallel is not None:
            places.append((("phases", index, "parallel"), phase.parallel))
    for here, each in places:
        if each.context_parallel_size > 1:
            yield Problem(
                (*here, "context_parallel_size"),
                f"must be 1 with model.mtp_num_layers, given {each.context_parallel_size}: a rank does not hold the "
                "tokens behind its own",
            )
