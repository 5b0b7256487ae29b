"""Reads recorded losses for the detector, from `metrics.jsonl`, CSV (also gzipped) and TensorBoard event files.

A CSV has a header with `step` and `loss`, and may have `grad_norm`, `lr`, `loss/<channel>` and `tokens/<channel>`. The
names of `harness.run.metric_names` and Megatron-LM's TensorBoard tags are understood too. In a CSV without a loss over
all channels, every other column is the loss of a channel.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from harness.errors import DataError
from harness.json_text import parse_json
from harness.run import metric_names as names
from harness.run.records import StepRecord, from_json_line
from harness.watch.detector import LossRecord
from harness.watch.event_file import read_scalars

_FIELDS = {
    "step": "step",
    "attempt": "attempt",
    names.LM_LOSS: "loss",
    "loss": "loss",
    "lm loss": "loss",
    names.GRAD_NORM: "grad_norm",
    "grad_norm": "grad_norm",
    "grad-norm": "grad_norm",
    names.LEARNING_RATE: "learning_rate",
    "lr": "learning_rate",
    "learning-rate": "learning_rate",
}
"""Field of `LossRecord` for each name of a column or a tag."""
_CHANNEL_PREFIXES = {
    names.lm_loss_of(""): "channels",
    "loss/": "channels",
    names.tokens_of(""): "tokens",
    "tokens/": "tokens",
}
_EVENT_FILE_MARK = "tfevents"


@dataclass(frozen=True)
class Place:
    """A field of `LossRecord`, and the channel if the field is per channel."""

    field: str
    channel: str | None = None


def curve_name(path: Path) -> str:
    """Return the file name up to the first dot; for a run's folder that of the folder."""
    return path.name.split(".", 1)[0]


def read_recording(path: Path) -> Iterator[LossRecord]:
    """Yield the records of a file, or of a run's folder, in the order in which they were written.

    Raises:
        DataError: The file is of no known kind, or has unexpected content.
    """
    if path.is_dir():
        return read_recording(_inside(path))
    if _EVENT_FILE_MARK in path.name:
        return _read_event_file(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return _read_csv(path)
    if name.endswith(".jsonl"):
        return _read_jsonl(path)
    raise DataError(
        f"{path}: not a recording of losses. Allowed are metrics.jsonl, .csv, .csv.gz, TensorBoard event files "
        f"(events.out.tfevents…) and run directories; rename the file if it is one of these."
    )


def loss_record(record: StepRecord) -> LossRecord:
    """Return the detector's input for a record of a run."""
    values = record.values
    is_lost = values.get(names.SKIPPED) == 1.0  # the loss itself is finite if only the gradient was not
    per_channel = [(channel, name) for name in values if (channel := names.channel_of(name)) is not None]
    return LossRecord(
        step=record.step,
        loss=math.nan if is_lost else values.get(names.LM_LOSS),
        channels={channel: values[name] for channel, name in per_channel if name == names.lm_loss_of(channel)},
        tokens={channel: values[name] for channel, name in per_channel if name == names.tokens_of(channel)},
        grad_norm=values.get(names.GRAD_NORM),
        learning_rate=values.get(names.LEARNING_RATE),
        phase=record.phase,
        attempt=record.attempt,
    )


def _inside(folder: Path) -> Path:
    """Return the recording in a folder: `metrics.jsonl`, or the only event file."""
    if (folder / "metrics.jsonl").is_file():
        return folder / "metrics.jsonl"
    event_files = sorted(path for path in folder.iterdir() if _EVENT_FILE_MARK in path.name)
    if len(event_files) == 1:
        return event_files[0]
    raise DataError(
        f"{folder}: found no metrics.jsonl and {len(event_files)} TensorBoard event files in this folder. "
        f"Give a run directory, a folder with one event file, or the files themselves."
    )


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


@cache
def _place_of(name: str) -> Place | None:
    """Return the place of a column or a tag, or None if the detector does not use it."""
    if name in _FIELDS:
        return Place(_FIELDS[name])
    for prefix, field in _CHANNEL_PREFIXES.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            return Place(field, name.removeprefix(prefix))
    return None


def _read_csv(path: Path) -> Iterator[LossRecord]:
    try:
        with _open_text(path) as file:
            rows = csv.reader(file)
            header = next(rows, [])
            yield from _records_of_rows(rows, _columns(path, header), path)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read as CSV: {error}. Give a text file, or a gzipped one ending in .gz."
        ) from error


def _columns(path: Path, header: list[str]) -> dict[int, Place]:
    """Return the place of each column of a CSV, by index."""
    columns = {index: place for index, name in enumerate(header) if (place := _place_of(name.strip()))}
    fields = {place.field for place in columns.values()}
    if "loss" not in fields and "channels" not in fields:
        columns |= {i: Place("channels", name.strip()) for i, name in enumerate(header) if i not in columns}
        fields |= {place.field for place in columns.values()}
    if not {"step"} < fields or not fields & {"loss", "channels"}:
        raise DataError(
            f"{path}: the first line has the columns {', '.join(header) or '(none)'}. A recording needs at least "
            f"step,loss; allowed besides are grad_norm, lr, loss/<channel> and tokens/<channel>. Rename the columns."
        )
    return columns


def _records_of_rows(rows: Iterable[list[str]], columns: dict[int, Place], path: Path) -> Iterator[LossRecord]:
    used = [(index, place) for index, place in columns.items() if place.field != "attempt"]
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        try:
            cells = ((place, row[index]) for index, place in used)
            fields = _by_field((place, float(cell)) for place, cell in cells if cell or place.field == "step")
            yield LossRecord(**fields | {"step": int(fields["step"])})
        except (ValueError, IndexError, OverflowError) as error:
            raise DataError(
                f"{path}:{number}: {','.join(row)!r} is not a row of numbers ({error}). Allowed are numbers, "
                f"nan, inf and empty cells, as many as there are columns. Correct or remove the line."
            ) from error


def _by_field(numbers: Iterable[tuple[Place, float]]) -> dict[str, Any]:
    """Return fields of a `LossRecord`. A number of tokens that is not positive and finite counts as unknown."""
    fields: dict[str, Any] = {"loss": None, "channels": {}, "tokens": {}}
    for place, number in numbers:
        if place.channel is None:
            fields[place.field] = number
        elif place.field == "channels" or 0.0 < number < math.inf:
            fields[place.field][place.channel] = number
    return fields


def _read_jsonl(path: Path) -> Iterator[LossRecord]:
    """Yield the records of a `metrics.jsonl`, or of another program's file of that kind, also those of repeated steps.

    Lines that cannot be read are passed over: their writer may have died.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for line in lines:
                if (of_run := from_json_line(line)) is not None:
                    yield loss_record(of_run)
                    continue
                with suppress(ValueError):
                    fields = parse_json(line)
                    if isinstance(fields, dict) and (record := _record_of(fields)):
                        yield record
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as lines of JSON: {error}. Give a metrics.jsonl.") from error


def _record_of(fields: dict[str, object]) -> LossRecord | None:
    """Return the record of named numbers, or None without a step or a loss. A null is a number that was not finite."""
    numbers = []
    for name, value in fields.items():
        if (place := _place_of(name)) is not None and (value is None or isinstance(value, int | float)):
            numbers.append((place, math.nan if value is None else float(value)))
    found = _by_field(numbers)
    if not math.isfinite(found.get("step", math.nan)) or (found["loss"] is None and not found["channels"]):
        return None
    phase = fields.get("phase")
    whole = {"step": int(found["step"]), "attempt": int(found.get("attempt", 0))}
    return LossRecord(**found | whole, phase=phase if isinstance(phase, str) else None)


def _read_event_file(path: Path) -> Iterator[LossRecord]:
    """Yield the records of an event file. The scalars of one step follow each other, in any order."""
    fields: dict[str, object] = {}
    try:
        for scalar in read_scalars(path):
            if fields and fields["step"] != scalar.step:
                if record := _record_of(fields):
                    yield record
                fields = {}
            fields["step"] = scalar.step
            fields[scalar.tag] = scalar.value
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as a TensorBoard event file: {error}. Give the file as it was written."
        ) from error
    if fields and (record := _record_of(fields)):
        yield record
