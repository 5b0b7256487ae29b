"""Models of the user that give texts labels: fastText's, or ONNX with a tokenizer beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from data_prep.text.classifiers.fasttext_file import FastTextModel
from data_prep.text.classifiers.onnx_file import OnnxModel, companions
from harness.errors import DataError, UsageError
from harness.json_text import parse_json
from harness.limited_child import LimitedError, limited

ONNX_ENDING = ".onnx"
_FREE_BYTES = 1 << 30
_SECONDS = 60.0
_BYTES_PER_SECOND = 20_000_000
_LABELS_SHOWN = 10


class Classifier(Protocol):
    """A model that gives texts labels."""

    def labels(self) -> tuple[str, ...]:
        """Return all its labels; one for a model that gives a number."""

    def shares(self, text: str) -> Mapping[str, float]:
        """Return the probability of each label, or the number."""


def classifier(file: Path, setting: str) -> Classifier:
    """Return the model in a file, by its ending; it is tried out in a child process first.

    Raises:
        UsageError: There is no such file, it is no model, or a package is missing.
    """
    if not file.is_file():
        raise UsageError(
            f"{setting} {file}: there is no such file. Give a model of fastText (.bin, .ftz), or one in the format "
            "ONNX (.onnx) with its tokenizer.json and config.json beside it."
        )
    model: Classifier = OnnxModel(file) if is_onnx(file) else FastTextModel(file)
    size = file.stat().st_size
    try:
        limited(
            try_out,
            json.dumps(str(file)).encode(),
            memory_bytes=_FREE_BYTES + 4 * size,
            seconds=_SECONDS + size / _BYTES_PER_SECOND,
        )
    except LimitedError as error:
        raise UsageError(f"{setting} {file}: {error}.") from error
    return model


def is_onnx(file: Path) -> bool:
    """Return whether a model is taken to be ONNX."""
    return file.suffix.lower() == ONNX_ENDING


def files_of_model(file: Path) -> list[Path]:
    """Return all files that a model consists of."""
    return [file, *companions(file)] if is_onnx(file) else [file]


def try_out(content: bytes) -> bytes:
    """Open the model that JSON `content` names, and give a text its labels.

    Raises:
        ValueError: It cannot be opened.
    """
    file = Path(parse_json(content))
    model: Classifier = OnnxModel(file) if is_onnx(file) else FastTextModel(file)
    try:
        model.labels()
        model.shares("A text of some words.")
    except (UsageError, DataError) as error:
        raise ValueError(str(error)) from error
    return b""


class Score:
    """The score of texts: the probability of a label, or the number that a model of one output gives."""

    def __init__(self, model: Classifier, label: str, setting: str) -> None:
        """Take a model.

        Raises:
            UsageError: It does not give this label.
        """
        self._model = model
        labels = model.labels()
        self._label = labels[0] if len(labels) == 1 else label
        if self._label not in labels:
            shown = ", ".join(labels[:_LABELS_SHOWN]) + (" …" if len(labels) > _LABELS_SHOWN else "")
            raise UsageError(f"{setting}: the model has no label {label!r}. Its labels: {shown}.")

    def __call__(self, text: str) -> float:
        """Return the score of a text.

        Raises:
            DataError: The model gives no number.
        """
        score = float(self._model.shares(text).get(self._label, 0.0))
        if not math.isfinite(score):
            raise DataError(f"the model of the quality score gives {score} for the text {text[:60]!r}: it is damaged.")
        return score
