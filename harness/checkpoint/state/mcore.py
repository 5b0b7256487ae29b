"""States of model and optimizer in Megatron's sharded form, in which any layout can load what another has saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from harness.checkpoint.staged import Writers, staged_state
from harness.parallel import cpu
from harness.parallel.megatron_changes import replace

cpu.prepare()

from megatron.core.dist_checkpointing.strategies import common  # noqa: E402 (the CPU must be prepared first)
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer  # noqa: E402

HAS_COMMON_FILE = hasattr(common, "TorchCommonSaveStrategy")
"""True until 0.16; later versions write no `common.pt`."""
# Every parameter's state in the parameter's own shape.
SHARDING = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}

_state_of_zeros = DistributedOptimizer.get_parameter_state_dp_zero


class _Staging:
    """The writers of the optimizer's state, while a save asks for it."""

    def __init__(self) -> None:
        self.writers: Writers = {}
        self.leave_on_device = False


_staging = _Staging()


@contextmanager
def staging_for(writers: Writers, *, leave_on_device: bool = False) -> Iterator[None]:
    """Bring to each rank what it writes, where Megatron asks for the optimizer's state in the `with` block.

    It comes to the host's memory, or with `leave_on_device` stays in that of the device.
    """
    _staging.writers, _staging.leave_on_device = writers, leave_on_device
    try:
        yield
    finally:
        _staging.writers, _staging.leave_on_device = {}, False


def _get_parameter_state(optimizer: Any, *arguments: Any, empty_data: bool = False, **ways: Any) -> Any:  # noqa: ANN401
    """Replace Megatron's method, except if a load needs empty tensors."""
    if empty_data:
        return _state_of_zeros(optimizer, *arguments, empty_data=True, **ways)
    return staged_state(optimizer, _staging.writers, leave_on_device=_staging.leave_on_device)


replace(DistributedOptimizer, "get_parameter_state_dp_zero", _get_parameter_state)


def complete_parameters(chunks: list[Any]) -> None:
    """Gather the parameters that other ranks have updated, as the next forward pass would have done.

    Every rank must call it.
    """
    for chunk in chunks:
        if chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def model_state(chunks: list[Any]) -> dict[str, Any]:
    """Return the state of this rank's model chunks."""
    return {
        f"model{index}": chunk.module.sharded_state_dict(metadata=dict(SHARDING)) for index, chunk in enumerate(chunks)
    }


def whole_state(chunks: list[Any], optimizer: Any, *, is_loading: bool) -> dict[str, Any]:  # noqa: ANN401
    """Return the state of model and optimizer, to be loaded into or to be saved (`staging_for`)."""
    state = model_state(chunks)
    state["optimizer"] = optimizer.sharded_state_dict(dict(state), is_loading=is_loading, metadata=dict(SHARDING))
    # Megatron takes it that there are the same states of all parameters.
    for _, parameter, states in states_of_parameters(optimizer, state["optimizer"]):
        for name in states.keys() - {"param", *parameter.kept_states}:
            del states[name]
    return state


def states_of_parameters(
    optimizer: Any,  # noqa: ANN401 (Megatron's types)
    state: dict[Any, Any],
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Yield each part of the optimizer with each of its parameters, and what `state` has of that parameter."""
    parts: Sequence[Any] = optimizer.chained_optimizers
    for number, part in enumerate(parts):
        of_part = state if len(parts) == 1 else state[number]
        parameters: Iterator[Tensor] = (parameter for buffer in part.buffers for parameter in buffer.param_index_map)
        for parameter, states in zip(parameters, of_part["param_state"].values(), strict=True):
            yield part, parameter, states
