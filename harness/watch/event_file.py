"""Scalars out of a TensorBoard event file, read by the `tensorboard` package, without tensorflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number that was logged."""

    step: int
    tag: str
    value: float


def read_scalars(path: Path) -> Iterator[Scalar]:
    """Yield the scalars of an event file in the order in which they were written.

    A record that is cut off ends the file, as it does while a run is being written.

    Raises:
        ValueError: The file is not an event file.
        UsageError: The `tensorboard` package is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        raise UsageError(
            f"{path}: reading a TensorBoard event file needs the package `tensorboard`; install it with "
            "`pip install 'harness[train]'`"
        ) from None
    has_event = False
    for event in LegacyEventFileLoader(str(path)).Load():
        has_event = True
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield Scalar(event.step, value.tag, value.simple_value)
            elif (
                value.HasField("tensor")
                and (array := make_ndarray(value.tensor)).size == 1
                and array.dtype.kind in "fiu"
            ):
                yield Scalar(event.step, value.tag, float(array.reshape(())))
    if not has_event and path.stat().st_size:
        raise ValueError("there is no event in it")
