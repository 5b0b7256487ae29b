"""Opens a picture for drawing and writes it as a PNG. Needs matplotlib, which is in the extra `plot`."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import DataError, UsageError

_DOTS_PER_INCH = 110
_NO_SUCH_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)


class Picture(NamedTuple):
    """A figure of panels one below the other, with matplotlib's own types."""

    figure: Any
    panels: list[Any]


@contextmanager
def picture(path: Path, num_panels: int, inches: tuple[float, float], *, same_x: bool = False) -> Iterator[Picture]:
    """Yield a picture for drawing, of this width and height, and write it when the `with` block ends.

    Raises:
        UsageError: The package matplotlib is not installed, or there can be no such file.
        DataError: The disk refused the file.
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
        content = BytesIO()
        figure.savefig(content, format="png", dpi=_DOTS_PER_INCH)
        _write(path, content.getvalue())
    finally:
        plt.close(figure)


def _write(path: Path, content: bytes) -> None:
    is_new = not path.exists()
    try:
        path.write_bytes(content)
    except OSError as error:
        text = f"--plot {path}: cannot be written: {error.strerror or error}."
        if error.errno in _NO_SUCH_PLACE:
            raise UsageError(f"{text} Give a file in a folder that exists.") from error
        if is_new:  # half a picture is none
            with suppress(OSError):
                path.unlink()
        raise DataError(f"{text} Make room, or name another file.") from error
