"""The plan of a run: everything that follows from its configuration by arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from harness.config.batch_sizes import BatchSizes, batch_sizes
from harness.config.phase_settings import in_phase
from harness.config.schema import Config
from harness.errors import ConfigError
from harness.plan.flops import flops_per_token
from harness.plan.layouts import Layout, make_layout, phase_problems
from harness.plan.parameters import count_parameters
from harness.plan.schedule import PhaseSchedule, phase_number, phase_schedules
from harness.plan.stages import Stages, layers_per_stage


@dataclass(frozen=True, kw_only=True)
class PhasePlan(PhaseSchedule):
    """One phase: its steps and learning rates, and what else follows from the configuration and the world size."""

    seq_length: int
    batch_sizes: BatchSizes
    micro_batch_size: int
    layout: Layout
    layers_per_stage: Stages
    """Layers by [virtual chunk][pipeline rank]: model chunks in the order in which a token passes them."""
    shares: dict[str, Fraction]
    """Exact share of every channel; they add up to 1."""
    flops_per_token: int
    """Model FLOPs of forward and backward per token, causal attention counted once (see `harness.plan.flops`)."""

    @property
    def global_batch_size(self) -> int:
        """Samples in a step, after any ramp-up."""
        return self.batch_sizes.stages[-1].size

    @property
    def num_microbatches(self) -> int:
        """Micro-batches that each data-parallel rank computes in a step, after any ramp-up."""
        return self.num_microbatches_of(self.global_batch_size)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step trains on, after any ramp-up."""
        return self.global_batch_size * self.seq_length

    @property
    def train_samples(self) -> int:
        """Samples of the whole phase."""
        return self.batch_sizes.samples_in(self.train_steps)

    @property
    def train_tokens(self) -> int:
        """Tokens of the whole phase: what was asked for, rounded up to whole steps."""
        return self.train_samples * self.seq_length

    def num_microbatches_of(self, batch_size: int) -> int:
        """Return the micro-batches that each data-parallel rank computes in a step of this many samples."""
        return batch_size // (self.micro_batch_size * self.layout.data)

    def batch_size(self, step: int) -> int:
        """Return the samples in a step, counted from the start of the run."""
        return self.batch_sizes.of_step(step - self.first_step + 1)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything derived from a `Config` and a world size. Pure arithmetic, the same on every rank."""

    layout: Layout
    """Of the phase that the plan was made for: the first, or the one that a launch begins with."""
    layers_per_stage: Stages
    """Of that phase."""
    phases: tuple[PhasePlan, ...]
    train_steps: int
    num_parameters: int
    """Parameters of the model with its true vocabulary."""

    @property
    def train_tokens(self) -> int:
        """Tokens of all phases."""
        return sum(phase.train_tokens for phase in self.phases)

    @property
    def borders(self) -> tuple[int, ...]:
        """The last step of every phase that another one follows."""
        return tuple(phase.last_step for phase in self.phases[:-1])

    def phase_of(self, step: int) -> PhasePlan:
        """Return the phase of a step; steps beyond the end belong to the last phase."""
        return self.phases[phase_number(self.phases, step)]

    def step_of_sample(self, consumed_samples: int) -> int:
        """Return the step that begins at, or contains, this number of samples since the run began."""
        missing = consumed_samples
        for phase in self.phases[:-1]:
            if missing < phase.train_samples:
                return phase.first_step - 1 + phase.batch_sizes.steps_for(missing + 1)
            missing -= phase.train_samples
        return self.phases[-1].first_step - 1 + self.phases[-1].batch_sizes.steps_for(missing + 1)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: one pure function over the whole run."""
        return self.phase_of(step).learning_rate(step)

    def batch_size(self, step: int) -> int:
        """Return the samples in a step: one pure function over the whole run."""
        return self.phase_of(step).batch_size(step)


def make_plan(config: Config, world_size: int | Sequence[int], phase_index: int = 0) -> Plan:
    """Derive the plan of a run on `world_size` ranks, or those of each phase. Its layout is that of `phase_index`.

    Raises:
        ConfigError: With every broken rule of the layout of every phase.
    """
    sizes = [world_size] * len(config.phases) if isinstance(world_size, int) else world_size
    if problems := phase_problems(config, sizes):
        raise ConfigError(problems)
    schedules = phase_schedules(config)
    phases = [_plan_phase(config, schedule, size) for schedule, size in zip(schedules, sizes, strict=True)]
    return Plan(
        layout=phases[phase_index].layout,
        layers_per_stage=phases[phase_index].layers_per_stage,
        phases=tuple(phases),
        train_steps=phases[-1].last_step,
        num_parameters=count_parameters(config.model).total,
    )


def exact_shares(weights: dict[str, float]) -> dict[str, Fraction]:
    """Turn weights into exact shares that add up to 1, each weight taken as the decimal number that was written."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    total = sum(exact.values())
    return {name: weight / total for name, weight in exact.items()}


def _plan_phase(config: Config, schedule: PhaseSchedule, world_size: int) -> PhasePlan:
    own, phase = in_phase(config, schedule.index), config.phases[schedule.index]
    return PhasePlan(
        **vars(schedule),
        seq_length=phase.seq_length,
        batch_sizes=batch_sizes(phase),
        micro_batch_size=own.parallel.micro_batch_size,
        layout=make_layout(own, world_size),
        layers_per_stage=layers_per_stage(own),
        shares=exact_shares(phase.blend),
        flops_per_token=flops_per_token(config.model, phase.seq_length),
    )
