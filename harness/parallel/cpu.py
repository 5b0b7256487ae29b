"""Makes megatron-core run on a machine without a GPU, by answering its CUDA questions with the CPU.

Megatron asks torch.cuda for the current device, streams and random generators, and writes
`device="cuda"` into factory calls. Nothing of Megatron is replaced: it is the questions that are answered. While it is
imported it asks for compiled functions, and gets them as they are.
Only `prepare()` changes anything, only on machines without a GPU, and only once per process. A process may then have
another device in the place of the CPU (`compute_on`): the meta device, on which tensors have shapes and no values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from harness.parallel.megatron_changes import replace

_CPU = torch.device("cpu")
_CUDA_TYPE_NAMES = {
    torch.float32: "torch.cuda.FloatTensor",
    torch.bfloat16: "torch.cuda.BFloat16Tensor",
    torch.float16: "torch.cuda.HalfTensor",
}


class _InertStream:
    """Stands in for a CUDA stream: on a CPU everything is already in order, and nothing is waited for."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        self.device = _standing_in.device

    def synchronize(self, *_others: object) -> None:
        """Do nothing: a CPU has no streams."""

    wait = wait_stream = wait_event = synchronize

    def record_event(self, *_others: object) -> _InertStream:
        """Return an event, which is as inert."""
        return self


class _StandsInForCuda(TorchFunctionMode):
    """Maps every `cuda` device in a torch call to the CPU, or to the device that `compute_on` set.

    `Tensor.type()` without arguments answers with the CUDA name, because Megatron's optimizers sort parameters by it.
    """

    device = _CPU

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 (whatever the torch call returns)
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0].to(self.device)
        if func is torch.Tensor.type and len(args) == 1 and not kwargs and args[0].dtype in _CUDA_TYPE_NAMES:
            return _CUDA_TYPE_NAMES[args[0].dtype]
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs = {**kwargs, "device": self.device}
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], self.device, *args[2:])
        return func(*args, **kwargs)


def _is_cuda(device: object) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def _answer(value: object) -> Callable[..., object]:
    """Return a new function that ignores its arguments; torch's compiler needs each torch.cuda function to differ."""
    return lambda *_args, **_kwargs: value


def _as_it_is(function: Callable[..., object] | None = None, **_options: object) -> Callable[..., object]:
    """Stand in for `torch.compile`, with and without options."""
    return (lambda later: later) if function is None else function


_standing_in = _StandsInForCuda()
_prepared: list[TorchFunctionMode] = []


def prepare() -> None:
    """Answer Megatron's CUDA questions with the CPU. Do nothing where there is a GPU, or when called again.

    Must be called before `megatron.core` is imported.
    """
    if torch.cuda.is_available() or _prepared:
        return
    replace(torch.cuda, "current_device", lambda: _standing_in.device)
    for name in ("synchronize", "set_device", "ipc_collect"):
        replace(torch.cuda, name, _answer(None))
    replace(torch.cuda, "manual_seed", lambda seed: torch.manual_seed(seed))
    for module in (torch.cuda, torch.cuda.random):
        replace(module, "get_rng_state", lambda *_args, **_kwargs: torch.get_rng_state())
        replace(module, "set_rng_state", lambda state, *_args, **_kwargs: torch.set_rng_state(state))
    replace(torch.cuda, "Stream", _InertStream)
    replace(torch.cuda, "current_stream", lambda *_args: _InertStream())
    replace(torch.cuda, "default_stream", lambda *_args: _InertStream())

    _standing_in.__enter__()  # type: ignore[no-untyped-call]  # for the rest of the process
    _prepared.append(_standing_in)

    compile_for_gpu = torch.compile
    replace(torch, "compile", _as_it_is)
    try:
        from megatron.core.tensor_parallel import random as megatron_random
    finally:
        replace(torch, "compile", compile_for_gpu)
    replace(megatron_random, "_set_cuda_rng_state", lambda state, *_args, **_kwargs: torch.set_rng_state(state))


def compute_on(device: torch.device) -> None:
    """Put a device in the place of the CPU for the rest of this process, which must have no GPU. Prepares as well."""
    prepare()
    assert _prepared, "a process with a GPU computes on it"
    _standing_in.device = device
