"""Rules for modules that predict further tokens."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.model import ModelConfig
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


def further_token_phase_problems(model: ModelConfig, phases: tuple[PhaseConfig, ...]) -> Iterator[Problem]:
    """Yield the problems of the modules with the length of samples."""
    for index, phase in enumerate(phases):
        if phase.seq_length <= model.num_mtp_modules:
            yield Problem(
                ("phases", index, "seq_length"),
                f"must be greater than model.mtp_num_layers {model.mtp_num_layers}, given {phase.seq_length}: the last "
                "module would have no token to predict",
            )
