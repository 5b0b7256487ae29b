"""Times the steps of a run of the trainer, and profiles one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu_load import LoadReader
from benchmarks.kernels import Kernel

_ATTENTION = "aten::_scaled_dot_product_"
FEWEST_STEPS = 4
"""Timed steps of a run whose time is up."""


class EnoughError(Exception):
    """Everything is measured: leaves the trainer before it would save."""


@dataclass
class Stopwatch:
    """Stands in for the trainer's `take_step`: marks when each step begins, and profiles the last one.

    If `seconds` are over before all `steps` are timed, fewer are: a slow GPU gives fewer steps, and never no result.
    """

    take_step: Callable[..., Any]
    device: torch.device
    warm_up: int
    steps: int
    seconds: float = float("inf")
    clock: Callable[[], float] = time.monotonic
    marks: list[Any] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    forward_backward: list[tuple[Any, Any]] = field(default_factory=list)
    host_s: list[float] = field(default_factory=list)
    """Seconds that the host took to ask for forward and backward of each step; it does not wait for them on a GPU."""
    load: LoadReader = field(default_factory=LoadReader)
    profiler: Any = None

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds

    @property
    def train_steps(self) -> int:
        """Steps that the trainer must be ready to make."""
        return self.warm_up + self.steps + 4

    def __call__(self, run: Any, state: Any) -> Any:  # noqa: ANN401 (the trainer's own types)
        """Takes the step that the trainer asks for."""
        number = len(self.losses)
        if number == 0:
            run.pipeline.forward_backward = self._timed(run.pipeline.forward_backward)
        self._begin_and_end(number)
        self._profile(number)
        self.marks.append(self._mark())
        result = self.take_step(run, state)
        self.losses.append(result.loss)
        return result

    def _begin_and_end(self, number: int) -> None:
        """Begins to time after the warm-up, and ends after all steps, or when the time is up."""
        if number == self.warm_up:
            self._forget_peak()
            self.load.start()
        if self.warm_up + FEWEST_STEPS <= number < self.warm_up + self.steps and self.clock() > self._end:
            self.steps = number - self.warm_up
        if number == self.warm_up + self.steps:
            self.load.stop()

    def _profile(self, number: int) -> None:
        """Profiles one step after the timed ones; the step after it ends the run."""
        first = self.warm_up + self.steps + 1
        if number == first:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
                torch.cuda.synchronize(self.device)
            self.profiler = torch.profiler.profile(activities=activities)
            self.profiler.__enter__()
            self._profile_begun = time.perf_counter()
        elif number == first + 1:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.profiled_s = time.perf_counter() - self._profile_begun
            self.profiler.__exit__(None, None, None)
            raise EnoughError

    def _mark(self) -> Any:  # noqa: ANN401
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _timed(self, forward_backward: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
            start, begun = self._mark(), time.perf_counter()
            result = forward_backward(*arguments, **keywords)
            self.host_s.append(time.perf_counter() - begun)
            self.forward_backward.append((start, self._mark()))
            return result

        return timed

    def _forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def between(self, start: Any, end: Any) -> float:  # noqa: ANN401
        """Time between two marks."""
        return start.elapsed_time(end) / 1e3 if self.device.type == "cuda" else end - start

    def step_seconds(self) -> list[float]:
        """Return the seconds of every timed step."""
        chosen = self.marks[self.warm_up : self.warm_up + self.steps + 1]
        return [self.between(start, end) for start, end in zip(chosen, chosen[1:], strict=False)]

    def forward_backward_seconds(self) -> list[float]:
        """Return the seconds of forward and backward of every timed step."""
        return [self.between(*pair) for pair in self.forward_backward[self.warm_up : self.warm_up + self.steps]]

    def host_seconds(self) -> list[float]:
        """Return the seconds of the host in forward and backward of every timed step."""
        return self.host_s[self.warm_up : self.warm_up + self.steps]

    def kernels(self) -> list[Kernel]:
        """Return the kernels of the profiled step."""
        return [
            Kernel(name=event.name, start_us=event.time_range.start, end_us=event.time_range.end)
            for event in self.profiler.events()
            if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
        ]

    def attention_calls(self) -> dict[str, int]:
        """Return the attention functions of torch that the profiled step called, with their numbers of calls."""
        names = [event.name for event in self.profiler.events() if event.name.startswith(_ATTENTION)]
        return {name: names.count(name) for name in sorted(set(names)) if not name.endswith("_backward")}
