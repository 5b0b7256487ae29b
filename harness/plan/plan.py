"""What follows from a configuration by arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from harness.config.schema import Config, ModelConfig, PhaseConfig
from harness.plan.flops import flops_per_token
from harness.plan.layouts import Layout, layers_per_stage, make_layout
from harness.plan.parameters import count_parameters


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """One phase, in steps. Steps are 1-based; the phase covers `first_step … first_step + train_steps - 1`."""

    name: str
    first_step: int
    train_steps: int
    seq_length: int
    global_batch_size: int
    num_microbatches: int
    """Micro-batches that each data-parallel rank computes in a step."""
    shares: dict[str, Fraction]
    """Exact share of every channel; they add up to 1."""
    flops_per_token: int
    """Model FLOPs of forward and backward per token, causal attention counted once (see `harness.plan.flops`)."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step trains on."""
        return self.global_batch_size * self.seq_length

    @property
    def train_tokens(self) -> int:
        """Tokens of the whole phase: what was asked for, rounded up to whole steps."""
        return self.train_steps * self.tokens_per_step

    @property
    def last_step(self) -> int:
        """Last step of the phase, counted from the start of the run."""
        return self.first_step + self.train_steps - 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything derived from a `Config` and a world size. Pure arithmetic, the same on every rank."""

    layout: Layout
    layers_per_stage: tuple[tuple[int, ...], ...]
    """Layers by [virtual chunk][pipeline rank]: model chunks in the order in which a token passes them."""
    padded_vocab_size: int
    phases: tuple[PhasePlan, ...]
    train_steps: int
    num_parameters: int
    """Parameters of the model with its true vocabulary."""


def make_plan(config: Config, world_size: int) -> Plan:
    """Derive the plan of a run on `world_size` ranks.

    Raises:
        ConfigError: with every broken rule of the layout.
    """
    layout = make_layout(config, world_size)
    samples_at_once = config.parallel.micro_batch_size * layout.data
    phases: list[PhasePlan] = []
    for phase in config.phases:
        first_step = phases[-1].last_step + 1 if phases else 1
        phases.append(_plan_phase(phase, config.model, first_step, samples_at_once))
    return Plan(
        layout=layout,
        layers_per_stage=layers_per_stage(config),
        padded_vocab_size=config.model.padded_vocab_size,
        phases=tuple(phases),
        train_steps=phases[-1].last_step,
        num_parameters=count_parameters(config.model).total,
    )


def exact_shares(weights: dict[str, float]) -> dict[str, Fraction]:
    """Turn weights into exact shares that add up to 1, each weight taken as the decimal number that was written."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    total = sum(exact.values())
    return {name: weight / total for name, weight in exact.items()}


def _plan_phase(phase: PhaseConfig, model: ModelConfig, first_step: int, samples_at_once: int) -> PhasePlan:
    return PhasePlan(
        name=phase.name,
        first_step=first_step,
        train_steps=_train_steps(phase),
        seq_length=phase.seq_length,
        global_batch_size=phase.global_batch_size,
        num_microbatches=phase.global_batch_size // samples_at_once,
        shares=exact_shares(phase.blend),
        flops_per_token=flops_per_token(model, phase.seq_length),
    )


def _train_steps(phase: PhaseConfig) -> int:
    """Length in steps; a length in tokens is rounded up to whole steps."""
    if phase.train_steps is not None:
        return phase.train_steps
    assert phase.train_tokens is not None, "a phase without a length is refused by harness.config.validate"
    return -(-phase.train_tokens // (phase.global_batch_size * phase.seq_length))
