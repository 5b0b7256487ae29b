"""Checks a loaded checkpoint before it is trusted: moments, replicas, and the first losses.

Runs were lost in the first step after a resume: with moments of zero, or with weights that were not the saved ones,
the loss went from 2.2 to 11 within two steps, and nobody looked before thousands of steps had followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from harness.errors import CheckpointError
from harness.parallel import collectives
from harness.parallel.mcore import replica_groups
from harness.parameters.parameter import Replicas
from harness.parameters.table import find_parameter
from harness.train.run import Run
from harness.train.state import TrainState

NUM_WATCHED_STEPS = 20
"""Number of steps after loading whose loss is compared with the losses in the checkpoint."""
MIN_LOSSES = 8
"""With fewer losses in the checkpoint nothing is compared, because their noise is unknown."""
MAX_SIGMAS = 8.0
"""A rise by this many sigmas is not noise: in 3 million steps of healthy runs it occurred 9 times, all of them real
jumps."""
MIN_RISE = 0.2
"""Nats. A smaller rise is never reported: noise of one batch reaches it, and broken resumes rose by 8.8."""
_NORM_TOLERANCE = 1e-6
"""Relative. The same numbers added up in another order, in double precision, differ by far less."""
_REPLICAS: Mapping[Replicas, str] = {
    "data": "its data-parallel replicas",
    "tensor": "its tensor-parallel replicas",
    "ends": "the other end of the pipeline",
    "expert data": "its replicas among the copies of the experts",
}
_CHECKSUM_CHUNK = 2**24
_WEIGHT_MULTIPLIER = 0x9E3779B1


def require_restored(run: Run, step: int, norms: Mapping[str, float], *, from_files: bool) -> None:
    """Refuse to train on from moments or weights that differ from the saved ones. Every rank must call it.

    Args:
        run: The run, with the checkpoint loaded.
        step: Step of the checkpoint.
        norms: Norms of the optimizer's state as its manifest has them; empty where it has no optimizer state.
        from_files: True if all replicas were read from the same files; False if every rank kept its own share. Then
            only the replicas that every step makes equal again, the data-parallel ones, must be equal.

    Raises:
        CheckpointError: On every rank, with the same text.
    """
    problems = norm_problems(step, norms, run.optimizer.state_norms()) if norms else []
    made_equal: tuple[Replicas, ...] = ("data", "expert data")
    problems += _replica_problems(run, (*made_equal, "tensor", "ends") if from_files else made_equal)
    if problems:
        raise CheckpointError(
            f"the checkpoint of step {step} was loaded, but the state is not the saved one: {'; '.join(problems)}. "
            "No step was taken. Verify it with `harness checkpoint verify --deep`, or resume from another one."
        )


def norm_problems(step: int, promised: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    """Return the problems of the norms of the optimizer's state, one line each."""
    problems = []
    for name, norm in promised.items():
        loaded = found.get(name, math.nan)
        if step > 0 and not loaded > 0:
            problems.append(f"the optimizer's {name} has the norm {loaded:g} after {step} steps")
        elif not math.isclose(loaded, norm, rel_tol=_NORM_TOLERANCE):
            problems.append(f"the optimizer's {name} has the norm {loaded!r}, its manifest says {norm!r}")
    return problems


def resume_suspicion(state: TrainState, *, phase_first_step: int = 1) -> str | None:
    """Return why the loss of the last step makes the loaded state suspect; None if it does not, or was reported before.

    Losses before `phase_first_step` are of other data and lengths, and say nothing about the loss to expect.
    """
    loaded_at = state.loaded_at_step
    if loaded_at is None or not 0 < state.step - loaded_at <= NUM_WATCHED_STEPS:
        return None
    remembered = [loss for step, loss in state.last_losses if phase_first_step <= step <= loaded_at]
    since = [(step, loss) for step, loss in state.last_losses if step > loaded_at]
    highest = highest_expected(remembered)
    if highest is None:
        return None
    first = next(((step, loss) for step, loss in since if not loss <= highest), None)
    if first is None or first[0] != state.step:
        return None
    return (
        f"the loss of step {state.step} is {first[1]:.4f}, {state.step - loaded_at} steps after loading the checkpoint "
        f"of step {loaded_at}, before which it was {median(remembered[-MIN_LOSSES:]):.4f} (at most {highest:.4f} would "
        "be noise). If it does not come back at once, stop, and resume from an earlier checkpoint"
    )


def highest_expected(losses: Iterable[float]) -> float | None:
    """Return the highest loss that the noise of the last losses explains; None if they are too few.

    Level: median of the last few. Sigma: from the differences of neighbours, on which a slow trend has little effect.
    """
    known = list(losses)
    if len(known) < MIN_LOSSES:
        return None
    level = median(known[-MIN_LOSSES:])
    steps = [abs(after - before) for before, after in zip(known, known[1:], strict=False)]
    sigma = 1.4826 * median(steps) / math.sqrt(2)
    return level + max(MAX_SIGMAS * sigma, MIN_RISE)


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """Return a number that depends on every bit of the tensor and on its order: int64, below 2**62, on its device."""
    words = tensor.detach().contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32).flatten()
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, words.numel(), _CHECKSUM_CHUNK):
        chunk = words[start : start + _CHECKSUM_CHUNK].long()
        weights = torch.arange(start, start + chunk.numel(), device=tensor.device) * _WEIGHT_MULTIPLIER | 1
        total += (chunk * weights).sum()  # wraps around, the same way everywhere
    return total & (2**62 - 1)


def _replica_problems(run: Run, kinds: Iterable[Replicas]) -> list[str]:
    """Return the parameters whose bits differ between ranks that hold the same part of the model, one line per rank."""
    groups, model = replica_groups(), run.config.model
    named = [named for chunk in run.pipeline.chunks for named in _named_tensors(chunk.module)]
    found = []
    for kind in [kind for kind in kinds if kind in groups]:
        held = [
            (name, tensor) for name, tensor in named if kind in find_parameter(_whole(tensor), model).replicated_over
        ]
        if held:  # an embedding that is not tied has no replica at the other end
            found += [(kind, name) for name in _different(held, groups[kind])]
    if not collectives.is_true_anywhere(bool(found)):
        return []
    return [
        f"{len(names)} parameters of rank {rank} differ from those of {_REPLICAS[kind]}, first {names[0]}"
        for rank, differing in enumerate(collectives.gathered(found))
        for kind in _REPLICAS
        if (names := [name for of_kind, name in differing if of_kind == kind])
    ]


def _named_tensors(chunk: Any) -> Iterator[tuple[str, torch.Tensor]]:  # noqa: ANN401 (Megatron's)
    """Yield what the table has of a model chunk: its parameters, and the biases of experts."""
    yield from chunk.named_parameters()
    yield from chunk.named_buffers()


def _whole(tensor: Any) -> str:  # noqa: ANN401 (a tensor that `harness.model` has marked)
    return str(tensor.whole_name)


def _different(named: Sequence[tuple[str, torch.Tensor]], group: collectives.Group) -> list[str]:
    """Return the names of the tensors that are not the same on all ranks of a group. They must call it."""
    sums = torch.stack([checksum(weight) for _, weight in named])
    both = collectives.max_over(torch.stack((sums, -sums)), group)
    return [name for (name, _), is_same in zip(named, (both[0] == -both[1]).tolist(), strict=True) if not is_same]
