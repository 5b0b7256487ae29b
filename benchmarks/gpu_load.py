"""Reads the state of the GPU in a thread while steps compute: between steps, where the program waits, it is idle."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from typing import Any

from benchmarks.measured_machine import read_gpu

EVERY_S = 2.0
_VARYING = ("power drawn", "SM clock", "temperature")


class LoadReader:
    """Reads every two seconds from `start` to `stop`."""

    def __init__(self, read: Callable[[], dict[str, str]] = read_gpu, every_s: float = EVERY_S) -> None:
        self._read, self._every_s = read, every_s
        self._readings: list[dict[str, str]] = []
        self._fault = ""
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-load", daemon=True)

    def start(self) -> None:
        """Begin to read, after the first two seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more; a reading that has begun is waited for."""
        self._enough.set()
        if self._thread.is_alive():
            self._thread.join()

    def found(self) -> dict[str, Any]:
        """Return the number of readings and what they said; of what varies the least, the median and the most."""
        if not self._readings:
            return {"readings": 0, "fault": self._fault or "the timed steps were over before the first reading"}
        fixed = {name: value for name, value in self._readings[-1].items() if name not in _VARYING}
        return {"readings": len(self._readings)} | fixed | {name: self._range(name) for name in _VARYING}

    def _run(self) -> None:
        while not self._enough.wait(self._every_s):
            try:
                self._readings.append(self._read())
            except RuntimeError as error:
                self._fault = str(error)

    def _range(self, name: str) -> dict[str, float] | str:
        try:
            values = [float(reading[name].split()[0]) for reading in self._readings]
        except ValueError:  # a GPU that does not say: [N/A]
            return self._readings[-1][name]
        return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def load_text(found: dict[str, Any]) -> str:
    """Return what a `LoadReader` found as one line."""
    if not found["readings"]:
        return f"unknown ({found['fault']})"
    parts = [f"{name} {_value_text(value)}" for name, value in found.items() if name != "readings"]
    return ", ".join(parts) + f" ({found['readings']} readings during the timed steps)"


def _value_text(value: dict[str, float] | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value['median']:.0f} (from {value['min']:.0f} to {value['max']:.0f})"
