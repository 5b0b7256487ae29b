"""A configuration as it is in one of its phases."""

from __future__ import annotations

from harness.config.parallel import ParallelConfig
from harness.config.schema import Config
from harness.config.section import Section

_OF_EVALUATION = ("every_steps", "num_samples_per_channel", "loss_by_position", "num_needles_per_depth")


def in_phase(config: Config, index: int) -> Config:
    """Return the configuration with the settings of one phase in place of the run's, and with no other phase."""
    phase = config.phases[index]
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=_given(phase, ("rotary_base", "rope_scaling"))),
            "parallel": parallel_of(config, index),
            "optimizer": config.optimizer.model_copy(update=_given(phase.optimizer)),
            "evaluation": config.evaluation.model_copy(update=_given(phase.evaluation, _OF_EVALUATION)),
            "phases": (phase,),
        }
    )


def evaluated_in(config: Config, index: int) -> tuple[str, ...]:
    """Return the channels whose held-out loss is computed in a phase; none if it evaluates nothing."""
    phase, own = config.phases[index], in_phase(config, index).evaluation
    if own.every_steps is None and not own.measure_forgetting:
        return ()
    return phase.evaluation.channels or tuple(config.data.channels if own.measure_forgetting else phase.blend)


def with_forgetting(config: Config, *, has_other_weights: bool) -> Config:
    """Return the configuration with `evaluation.measure_forgetting` decided.

    `has_other_weights` if the run has begun, or begins now, with weights that another run or program made.
    """
    if config.evaluation.measure_forgetting is not None:
        return config
    evaluation = config.evaluation.model_copy(update={"measure_forgetting": has_other_weights})
    return config.model_copy(update={"evaluation": evaluation})


def parallel_of(config: Config, index: int) -> ParallelConfig:
    """Return the layout of a phase: its own section, or the run's."""
    return config.phases[index].parallel or config.parallel


def shares_processes(one: ParallelConfig, other: ParallelConfig) -> bool:
    """Return whether one launch can train in both layouts: all but the micro-batch size is equal."""
    return one.model_copy(update={"micro_batch_size": other.micro_batch_size}) == other


def _given(section: Section, names: tuple[str, ...] | None = None) -> dict[str, object]:
    """Return the fields that are set."""
    fields = {name: getattr(section, name) for name in names or type(section).model_fields}
    return {name: value for name, value in fields.items() if value is not None}
