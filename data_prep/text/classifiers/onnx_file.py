"""Opens text classifiers in the format ONNX, as Hugging Face's optimum exports them, and gives texts their labels.

NAME.onnx        inputs among input_ids, attention_mask, token_type_ids (int64, [texts, tokens]);
the first output [texts, labels]: logits, or one number for each text
tokenizer.json   beside it
config.json      beside it, with the names of the labels (`id2label`); they are 0, 1, … without it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.json_text import parse_json

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOKENIZER, CONFIG = "tokenizer.json", "config.json"
MOST_TOKENS = 512
"""Tokens at the beginning of a text that are looked at, unless the tokenizer's file says how many."""
CHARACTERS_PER_TOKEN = 32
"""No more is given to the tokenizer."""
_MOST_CONFIG_BYTES = 16 << 20


def companions(file: Path) -> list[Path]:
    """Return the files that belong to a model and are there."""
    return [path for path in (file.with_name(TOKENIZER), file.with_name(CONFIG)) if path.is_file()]


class OnnxModel:
    """A text classifier."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._open: _Opened | None = None

    def labels(self) -> tuple[str, ...]:
        """Return the names of its labels; one for a model that gives a number.

        Raises:
            UsageError: It is no such model, or a package or a file beside it is missing.
        """
        return self._opened().labels

    def shares(self, text: str) -> dict[str, float]:
        """Return the probability of each label, or the number.

        Raises:
            UsageError: As `labels`.
        """
        opened = self._opened()
        values = opened.outputs(text)
        if len(values) == 1:
            return {opened.labels[0]: float(values[0])}
        return dict(zip(opened.labels, _softmax(values), strict=True))

    def _opened(self) -> _Opened:
        if self._open is None:
            self._open = _Opened(self.file)
        return self._open

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the session, which cannot be sent to another process."""
        return {"file": self.file, "_open": None}


class _Opened:
    """The session of a model, its tokenizer, and its labels."""

    def __init__(self, file: Path) -> None:
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise UsageError(
                f"model {file}: it needs the Python package onnxruntime, which is not installed. Install the project "
                "with its `data-quality` extra."
            ) from error
        beside = file.with_name(TOKENIZER)
        if not beside.is_file():
            raise UsageError(f"model {file}: there is no {TOKENIZER} beside it, which cuts texts into its tokens.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # tasks run side by side
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            self._tokenizer = Tokenizer.from_file(str(beside))
        except Exception as error:  # noqa: BLE001 - both libraries have errors of their own
            raise UsageError(f"model {file}: cannot be opened ({_first_line(error)}).") from error
        self._inputs = [given.name for given in self._session.get_inputs()]
        if not self._inputs or (other := set(self._inputs) - set(INPUTS)):
            named = ", ".join(sorted(other)) if self._inputs else "none"
            raise UsageError(f"model {file}: its inputs are to be among {', '.join(INPUTS)}; it has {named}.")
        self._tokenizer.no_padding()
        self._most_tokens = int((self._tokenizer.truncation or {}).get("max_length", MOST_TOKENS))
        self._tokenizer.enable_truncation(self._most_tokens)
        self._file = file
        self.labels = _labels(file.with_name(CONFIG), len(self.outputs("a")))

    def outputs(self, text: str) -> list[float]:
        """Return the first output for a text, [labels]."""
        import numpy as np

        encoded = self._tokenizer.encode(text[: self._most_tokens * CHARACTERS_PER_TOKEN])
        given = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
        feed = {name: np.array([given[name]], dtype=np.int64) for name in self._inputs}
        try:
            found = np.asarray(self._session.run(None, feed)[0], dtype=np.float64)
        except Exception as error:  # noqa: BLE001 - onnxruntime has errors of its own
            raise UsageError(f"model {self._file}: cannot be run ({_first_line(error)}).") from error
        if found.shape[:1] != (1,) or found.ndim > 2 or not found.size:
            raise UsageError(
                f"model {self._file}: its first output has the shape {list(found.shape)} for one text, and is to have "
                "[1, labels]."
            )
        return [float(value) for value in found.reshape(-1)]


def _labels(config: Path, count: int) -> tuple[str, ...]:
    names: Any = {}
    if config.is_file():
        try:
            with config.open("rb") as stream:
                names = parse_json(stream.read(_MOST_CONFIG_BYTES)).get("id2label", {})
        except (OSError, ValueError, AttributeError) as error:
            raise UsageError(f"{config}: names no labels ({error}).") from error
    labels = tuple(str(names.get(str(number), number)) for number in range(count)) if isinstance(names, dict) else ()
    if len(set(labels)) < count:
        raise UsageError(f"{config}: id2label does not give each of the {count} labels a name of its own.")
    return labels


def _softmax(values: list[float]) -> list[float]:
    import numpy as np

    exponents = np.exp(np.array(values) - np.max(values))
    return [float(value) for value in exponents / exponents.sum()]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
