"""Opens a picture for drawing and writes it as a PNG. Needs matplotlib, which is in the extra `plot`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import UsageError

_DOTS_PER_INCH = 110


class Picture(NamedTuple):
    """A figure of panels one below the other, with matplotlib's own types."""

    figure: Any
    panels: list[Any]


@contextmanager
def picture(path: Path, num_panels: int, inches: tuple[float, float], *, same_x: bool = False) -> Iterator[Picture]:
    """Yield a picture for drawing, of this width and height, and write it when the `with` block ends.

    Raises:
        UsageError: The package matplotlib is not installed, or the file cannot be written.
    """
    try:
        import_module("matplotlib").use("Agg")
        plt = import_module("matplotlib.pyplot")
    except ImportError as error:
        raise UsageError(
            f"--plot {path}: drawing needs matplotlib, which is not installed. Install it "
            "(pip install 'harness[plot]'), or leave --plot away."
        ) from error
    figure, axes = plt.subplots(num_panels, 1, figsize=inches, sharex=same_x, squeeze=False, layout="constrained")
    try:
        yield Picture(figure, list(axes[:, 0]))
        figure.savefig(path, format="png", dpi=_DOTS_PER_INCH)
    except OSError as error:
        raise UsageError(f"--plot {path}: cannot be written: {error}. Give a file in a folder that exists.") from error
    finally:
        plt.close(figure)
