"""Opens models of fastText, and gives texts their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import UsageError

MOST_CHARACTERS = 100_000
"""Characters at the beginning of a text that are looked at."""


def open_fasttext(file: Path, what: str) -> Any:  # noqa: ANN401 (of fastText)
    """Return the model in a file; `what` names it in messages.

    Raises:
        UsageError: It is no model, or the package is missing.
    """
    try:
        from fasttext.FastText import _FastText
    except ImportError as error:
        raise UsageError(
            f"{what} {file}: it needs the Python package fasttext-numpy2-wheel, which is not installed. "
            "Install the project with its `data-clean` extra."
        ) from error
    try:
        return _FastText(str(file))
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"{what} {file}: is not a fastText model ({error}). Give one that fastText saved, such as lid.176.bin for "
            "languages."
        ) from error


class FastTextModel:
    """A model of fastText that was trained to give labels."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._model: Any = None

    def labels(self) -> tuple[str, ...]:
        """Return all its labels."""
        return tuple(map(str, self._opened().get_labels()))

    def shares(self, text: str) -> dict[str, float]:
        """Return the probability of each label; nothing for a text without words.

        Raises:
            UsageError: The model gives no labels.
        """
        try:
            labels, shares = self._opened().predict(" ".join(text[:MOST_CHARACTERS].split()), -1)
        except ValueError as error:
            raise UsageError(f"{self.file}: is a fastText model without labels ({error}).") from error
        # The library's probabilities exceed 1 by what it adds against a logarithm of 0.
        return {str(label): min(1.0, float(share)) for label, share in zip(labels, shares, strict=True)}

    def _opened(self) -> Any:  # noqa: ANN401 (of fastText)
        if self._model is None:
            self._model = open_fasttext(self.file, "model")
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the model, which cannot be sent to another process."""
        return {"file": self.file, "_model": None}
