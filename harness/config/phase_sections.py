"""Sections of a phase: the growth of its batch, and what differs from the run's settings."""

from __future__ import annotations

from pydantic import Field

from harness.config.section import (
    HeldOutSamples,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    Samples,
    Section,
    Share,
    Steps,
    Tokens,
)


class BatchRampUpConfig(Section):
    """A batch size that grows at the beginning of a phase."""

    start: Samples
    """Batch size of the phase's first step, in samples."""
    increment: Samples
    """Samples that are added at each increase, from `start` to `global_batch_size`."""
    ramp_up_samples: Tokens
    """Samples of the phase after which `global_batch_size` is reached. Each smaller batch size gets an equal share of
    them."""


class PhaseOptimizerConfig(Section):
    """Settings of the optimizer that differ in a phase. Default of each key: the run's value."""

    learning_rate: PositiveFloat | None = None
    """Peak learning rate."""
    weight_decay: NonNegativeFloat | None = None
    """Decoupled weight decay."""
    adam_beta1: Share | None = None
    """Decay of the first moment."""
    adam_beta2: Share | None = None
    """Decay of the second moment."""
    clip_grad: NonNegativeFloat | None = None
    """Largest L2 norm of the whole gradient; 0 turns clipping off."""
    muon_momentum: Share | None = None
    """`muon` only: decay of the average of the gradients."""
    muon_extra_scale_factor: PositiveFloat | None = None
    """`muon` only: a further factor of the update."""


class PhaseEvaluationConfig(Section):
    """Settings of the held-out evaluation that differ in a phase. Default of each key: the run's value."""

    every_steps: Steps | None = None
    """Evaluate after each step of the run that is a multiple of this, and at the end of the phase."""
    num_samples_per_channel: HeldOutSamples | None = None
    """Held-out samples of each channel."""
    loss_by_position: bool | None = None
    """Record the held-out loss by position too."""
    num_needles_per_depth: HeldOutSamples | None = None
    """Needles at each of ten depths."""
    channels: tuple[Name, ...] | None = Field(default=None, strict=False, min_length=1)
    """Channels that are evaluated. They may be channels that the phase does not train on. Default: those of the
    blend; all where `evaluation.measure_forgetting` holds."""
