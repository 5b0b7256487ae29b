"""Watches torch while a step runs on the meta device: allocations, waits of the host, collectives.

On the meta device tensors have shapes and no values. An allocation is a storage that appears in the result of an
operator, and it ends when nothing refers to the storage any more, as on a GPU. What asks for values gets zeros.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.parallel import imagined_world
from harness.trace.findings import Made, Part
from harness.trace.recorder import Recorder
from harness.trace.source import source

T = TypeVar("T")
META = torch.device("meta")
_KINDS = {
    "allreduce_": "all-reduce",
    "allgather_": "all-gather",
    "_allgather_base_": "all-gather",
    "allgather_into_tensor_coalesced_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
    "reduce_scatter_tensor_coalesced_": "reduce-scatter",
    "alltoall_base_": "all-to-all",
    "send": "send",
    "recv_": "receive",
}
"""By the name in torch's c10d."""
_SECOND_IS_WHOLE = ("_reduce_scatter_base_", "reduce_scatter_tensor_coalesced_")
"""Collectives whose second argument, the input, is the whole tensor; of all others it is the first."""


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator, also those of backward passes.

    Args:
        group_names: Kind of ranks, by the ranks of a group.
        logit_columns: Width of the logits of this rank, by which they are known.
    """

    def __init__(self, recorder: Recorder, group_names: Mapping[tuple[int, ...], str], logit_columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder
        self._group_names = group_names
        self._logit_columns = logit_columns
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 (whatever the operator returns)
        """Run the operator, or answer for it where a tensor without values cannot."""
        kwargs = kwargs or {}
        name = func._schema.name
        if name.startswith("c10d::"):
            return self._collective(func, args, kwargs)
        if (answer := _ANSWERS.get(name)) is not None and args[0].is_meta:
            self._recorder.host_waits(_WAITS.get(name, name.removeprefix("aten::")), source().place)
            return answer(args[0])
        if name in ("aten::_to_copy", "aten::copy_"):
            return self._copy(func, args, kwargs)
        result = func(*args, **kwargs)
        self._record(result, name)
        return result

    def _record(self, result: object, operator: str) -> None:
        if isinstance(result, (tuple, list)):
            for part in result:
                self._record(part, operator)
        elif isinstance(result, torch.Tensor) and result.is_meta:
            storage = result.untyped_storage()
            if not self._recorder.ledger.knows(storage._cdata):
                self._record_storage(storage, result, operator)

    def _record_storage(self, storage: torch.UntypedStorage, tensor: torch.Tensor, operator: str) -> None:
        key, found = storage._cdata, source()
        made = Made(
            part=self._part(tensor, found.in_forward),
            place=found.place,
            operator=operator.removeprefix("aten::"),
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
        )
        self._recorder.ledger.add(key, storage.nbytes(), made)
        self._alive[key] = weakref.ref(storage, lambda _: self._forget(key))

    def _forget(self, key: int) -> None:
        self._recorder.ledger.drop(key)
        del self._alive[key]

    def _part(self, tensor: torch.Tensor, in_forward: bool | None) -> Part:
        if in_forward is None:
            in_forward = torch._C._current_graph_task_id() == -1 and torch.is_grad_enabled()
        if not in_forward:
            return "temporary"
        return "logits" if tensor.shape[-1:] == (self._logit_columns,) else "activations"

    def _copy(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Copy within a device, or say that the host waits for a copy to another one."""
        to: torch.Tensor | None = args[0] if func._schema.name == "aten::copy_" else None
        of: torch.Tensor = args[0] if to is None else args[1]
        target = torch.device(kwargs.get("device") or of.device) if to is None else to.device
        result: torch.Tensor
        if target == of.device:
            result = func(*args, **kwargs)
        else:
            if not (kwargs.get("non_blocking") or args[2:] == (True,)):
                way = "copy to host" if target.type == "cpu" else "copy to device"
                self._recorder.host_waits(way, source().place)
            if to is not None:
                return to
            result = torch.zeros(of.shape, dtype=kwargs.get("dtype") or of.dtype, device=target)
        self._record(result, func._schema.name)
        return result

    def _collective(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """Record a collective, and let the imagined world do it with empty tensors."""
        name = func._schema.name.removeprefix("c10d::")
        tensors = _tensors_of(args[1] if name in _SECOND_IS_WHOLE else args[0])
        ranks = next(imagined_world.ranks_of_argument(each) for each in args if isinstance(each, torch.ScriptObject))
        if len(ranks) > 1 and tensors and all(tensor.is_meta for tensor in tensors):
            self._recorder.collective(
                _KINDS.get(name, name.strip("_")),
                self._group_names.get(ranks, "other"),
                num_ranks=len(ranks),
                num_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            )
        if name == "alltoall_base_":  # sizes of stretches are of the tensors themselves
            args = tuple([] if isinstance(each, list) else each for each in args)
        return func(*_without_meta(args), **kwargs)


class HostQuestions(TorchFunctionMode):
    """Answers what would not become an operator: values as lists, and tensors made of the host's numbers.

    Calls with a stand-in are passed to it: see `harness.trace.kernels`.
    """

    def __init__(self, recorder: Recorder, stand_ins: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self._recorder = recorder
        self._stand_ins = stand_ins

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Answer, or call the function."""
        kwargs = kwargs or {}
        if (stand_in := self._stand_ins.get(func)) is not None and args[0].is_meta:
            return stand_in(*args, **kwargs)
        if func is torch.Tensor.tolist and args[0].is_meta:
            self._recorder.host_waits("tolist", source().place)
            return torch.zeros(args[0].shape, dtype=args[0].dtype, device="cpu").tolist()
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type != "cpu":
            # The host's memory is not page-locked: torch waits for the copy.
            self._recorder.host_waits("tensor to device", source().place)
        return func(*args, **kwargs)


_ANSWERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "aten::_local_scalar_dense": lambda tensor: 0.0 if tensor.is_floating_point() else 0,
    "aten::equal": lambda tensor: True,
    # As many as there can be.
    "aten::nonzero": lambda tensor: tensor.new_empty((tensor.numel(), tensor.dim()), dtype=torch.int64),
    "aten::masked_select": lambda tensor: tensor.new_empty(tensor.numel()),
}
"""Operators whose result depends on values: the host waits for them, by the name of the operator."""
_WAITS = {"aten::_local_scalar_dense": "item"}


def _tensors_of(argument: object) -> list[torch.Tensor]:
    if isinstance(argument, torch.Tensor):
        return [argument]
    return [tensor for each in argument for tensor in _tensors_of(each)] if isinstance(argument, (list, tuple)) else []


def _without_meta(argument: T) -> T:
    if isinstance(argument, torch.Tensor) and argument.is_meta:
        return torch.empty(0, device="cpu")  # type: ignore[return-value]
    if isinstance(argument, (list, tuple)):
        return type(argument)(_without_meta(each) for each in argument)
    return argument
