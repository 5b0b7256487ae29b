"""The batch size of every step of a phase, and how many steps a number of tokens makes: pure arithmetic."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

from harness.config.schema import PhaseConfig
from harness.limits import MOST_PHASES


@dataclass(frozen=True, kw_only=True)
class BatchStage:
    """Steps with one batch size. The last stage of a phase lasts until the phase ends."""

    first_step: int
    """First step of the stage, 1-based within its phase."""
    first_sample: int
    """Samples of the phase before that step."""
    size: int
    """Samples in one step."""


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """The batch size over a phase: one stage, or several where it ramps up."""

    stages: tuple[BatchStage, ...]

    @property
    def smallest(self) -> int:
        """The smallest batch of the phase."""
        return min(stage.size for stage in self.stages)

    def of_step(self, step: int) -> int:
        """Return the number of samples in step `step` (1-based within the phase)."""
        return self._stage_of(step).size

    def after_samples(self, num_samples: int) -> int:
        """Return the number of samples in the step that follows `num_samples` samples of the phase."""
        return self._stage_after(num_samples).size

    def samples_in(self, num_steps: int) -> int:
        """Count the samples of the first `num_steps` steps of the phase."""
        stage = self._stage_of(num_steps)
        return stage.first_sample + (num_steps - stage.first_step + 1) * stage.size if num_steps else 0

    def steps_for(self, num_samples: int) -> int:
        """Count the steps after which at least `num_samples` samples of the phase have been trained on."""
        if num_samples <= 0:
            return 0
        stage = self._stage_after(num_samples - 1)
        return stage.first_step - 1 - (stage.first_sample - num_samples) // stage.size

    def _stage_of(self, step: int) -> BatchStage:
        return self.stages[bisect_right(self.stages, step, key=lambda stage: stage.first_step) - 1]

    def _stage_after(self, num_samples: int) -> BatchStage:
        return self.stages[bisect_right(self.stages, num_samples, key=lambda stage: stage.first_sample) - 1]


def batch_sizes(phase: PhaseConfig) -> BatchSizes:
    """Return the batch sizes of a phase.

    A ramp-up gives every size below `global_batch_size` an equal share of `ramp_up_samples`, rounded up to whole steps
    (Megatron-LM: `--rampup-batch-size`). A share that is used up by the rounding of earlier ones has no step.
    """
    ramp = phase.batch_ramp_up
    if ramp is None or ramp.start >= phase.global_batch_size:
        return BatchSizes(stages=(BatchStage(first_step=1, first_sample=0, size=phase.global_batch_size),))
    return _ramping_up(ramp.start, ramp.increment, phase.global_batch_size, ramp.ramp_up_samples)


@lru_cache(maxsize=MOST_PHASES)
def _ramping_up(start: int, increment: int, whole: int, ramp_up_samples: int) -> BatchSizes:
    sizes = [*range(start, whole, increment), whole]
    num_rises = len(sizes) - 1
    stages: list[BatchStage] = []
    step, sample = 1, 0
    for number, size in enumerate(sizes, start=1):
        end = ramp_up_samples * number // num_rises
        num_steps = max(0, -(-(end - sample) // size))
        if num_steps or number > num_rises:
            stages.append(BatchStage(first_step=step, first_sample=sample, size=size))
        step, sample = step + num_steps, sample + num_steps * size
    return BatchSizes(stages=tuple(stages))


def train_steps(phase: PhaseConfig) -> int:
    """Return the length of a phase in steps (tokens rounded up to whole steps); 0 if it has none."""
    if phase.train_steps is not None:
        return phase.train_steps
    return batch_sizes(phase).steps_for(-(-(phase.train_tokens or 0) // phase.seq_length))
