"""Kinds of optimizers: which state they keep of a parameter, how large it is, and which settings they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

NumberFormat = Literal["bf16", "fp32"]
"""Format of the weights in forward and backward."""
_FP32_BYTES = 4
_WEIGHT_BYTES: Mapping[NumberFormat, int] = {"bf16": 2, "fp32": _FP32_BYTES}


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """A kind of optimizer. A further one is a further row here, and its update in `harness.optim`."""

    name: str
    """`optimizer.kind` in a configuration."""
    megatron_name: str
    """`optimizer` in Megatron's configuration of it."""
    states: tuple[str, ...]
    """Names of the fp32 tensors that it keeps of a parameter, each of the parameter's shape; zeros at the start."""
    matrix_states: tuple[str, ...]
    """The same of a hidden matrix (`Parameter.is_matrix`)."""
    options: Mapping[str, tuple[str, ...]]
    """Options of a parameter group that may change from phase to phase, and the settings that they are made of."""

    @property
    def orthogonalizes(self) -> bool:
        """True if hidden matrices have an update of their own."""
        return self.matrix_states != self.states

    def states_of(self, *, is_matrix: bool) -> tuple[str, ...]:
        """Return the names of the states of a hidden matrix, or of any other parameter."""
        return self.matrix_states if is_matrix else self.states

    def state_bytes(self, dtype: NumberFormat, *, is_matrix: bool) -> int:
        """Return the bytes in memory for one number of a parameter: states, and fp32 master weights beside bf16 ones.

        fp32 weights are their own master.
        """
        return _FP32_BYTES * (len(self.states_of(is_matrix=is_matrix)) + (dtype == "bf16"))

    def checkpoint_bytes(self, dtype: NumberFormat, *, is_matrix: bool) -> int:
        """Return the bytes in a checkpoint for one number of a parameter: weights, fp32 master weights, states."""
        return _WEIGHT_BYTES[dtype] + _FP32_BYTES * (1 + len(self.states_of(is_matrix=is_matrix)))

    def group_options(self, settings: object) -> dict[str, tuple[float, ...]]:
        """Return the options of a parameter group for the settings of a phase."""
        return {option: tuple(getattr(settings, name) for name in names) for option, names in self.options.items()}


ADAMW = OptimizerKind(
    name="adamw",
    megatron_name="adam",
    states=("exp_avg", "exp_avg_sq"),
    matrix_states=("exp_avg", "exp_avg_sq"),
    options={"betas": ("adam_beta1", "adam_beta2")},
)
MUON = OptimizerKind(
    name="muon",
    megatron_name="adam",  # of what is no hidden matrix; ours is beside Megatron's
    states=ADAMW.states,
    matrix_states=("exp_avg",),
    options=ADAMW.options,
)
KINDS: Mapping[str, OptimizerKind] = {kind.name: kind for kind in (ADAMW, MUON)}
"""By the name in a configuration."""
