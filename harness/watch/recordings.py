"""Reads recorded losses for the detector, from `metrics.jsonl`, CSV (also gzipped) and TensorBoard event files.

A CSV has a header with `step` and `loss`, and may have `grad_norm`, `lr`, `loss/<channel>` and `tokens/<channel>`. The
names of `harness.run.metric_names` and Megatron-LM's TensorBoard tags are understood too. In a CSV without a loss over
all channels, every other column is the loss of a channel.
"""

from __future__ import annotations

import csv
import io
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import DataError
from harness.json_text import JsonError, parse_json
from harness.packed_stream import Gunzip, PackedStream
from harness.run import metric_names as names
from harness.run.field_types import MOST_COUNT, MOST_NATS, is_count, reason_in_words
from harness.run.lines import MOST_LINE_BYTES, lines_of, open_lines
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
_OF_RUNS = {names.BATCH_HASH, "consumed_samples", "consumed_tokens"}
"""Keys of the records of a run, which other programs do not write."""
_EVENT_FILE_MARK = "tfevents"
_LEAST_TOKENS = 1e-6
"""Numbers of tokens that are not above this count as unknown."""
_UNPACKED_BYTES, _UNPACKED_RATIO = 256 * 1024**2, 200
"""A packed file that unpacks to more than this, and this many times its size, is not a recording: metrics are packed to
a tenth, and a gzip file made to fill a disk to a thousandth."""
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, csv.Error)


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
        loss=math.nan if is_lost else None if (loss := values.get(names.LM_LOSS)) is None else _nats(loss),
        channels={channel: _nats(values[name]) for channel, name in per_channel if name == names.lm_loss_of(channel)},
        tokens={
            channel: values[name]
            for channel, name in per_channel
            if name == names.tokens_of(channel) and _is_known(values[name])
        },
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


class _Unpacked:
    """A packed file whose lines are read, as long as it is not there to fill a disk."""

    def __init__(self, file: BinaryIO, most_bytes: int) -> None:
        self._file = file
        self._left = most_bytes

    def readline(self, size: int, /) -> bytes:
        """Return bytes up to the end of the line, at most `size`.

        Raises:
            ValueError: The file unpacks to more than a recording does.
        """
        line = self._file.readline(size)
        self._left -= len(line)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_UNPACKED_RATIO} times its size")
        return line


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, packed or not. Raises one of `UNREADABLE` where it cannot be read."""
    with open_lines(path) as file:
        if path.suffix != ".gz":
            yield from lines_of(file)
            return
        most_bytes = max(_UNPACKED_BYTES, _UNPACKED_RATIO * os.fstat(file.fileno()).st_size)
        with io.BufferedReader(PackedStream(file, Gunzip, has_padding=True)) as packed:
            yield from lines_of(_Unpacked(packed, most_bytes))


def _nats(loss: float) -> float:
    """Return a loss; infinite if no model can have it, so that it counts as not finite."""
    return loss if not abs(loss) > MOST_NATS else math.copysign(math.inf, loss)


def _is_known(tokens: float) -> bool:
    return _LEAST_TOKENS < tokens <= MOST_COUNT


@lru_cache(maxsize=10_000)
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
        rows = csv.reader(text_lines(path))
        header = next(rows, [])
        yield from _records_of_rows(rows, _columns(path, header), path)
    except UNREADABLE as error:
        raise DataError(
            f"{path}: cannot be read as CSV: {reason_in_words(error)}. "
            "Give a text file, or a gzipped one ending in .gz."
        ) from error


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, packed or not. Raises one of `UNREADABLE` where it cannot be read."""
    for number, line in enumerate(_lines(path), start=1):
        if not line:
            raise ValueError(f"line {number} is longer than {MOST_LINE_BYTES >> 20} MiB")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8")


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
            step = int(fields["step"])
            if not is_count(step):
                raise ValueError(f"a step is a number from 0 to {MOST_COUNT:,}")  # noqa: TRY301 (told below)
            yield LossRecord(**fields | {"step": step})
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
            fields[place.field] = _nats(number) if place.field == "loss" else number
        elif place.field == "channels":
            fields["channels"][place.channel] = _nats(number)
        elif _is_known(number):
            fields["tokens"][place.channel] = number
    return fields


def _read_jsonl(path: Path) -> Iterator[LossRecord]:
    """Yield the records of a `metrics.jsonl`, or of another program's file of that kind, also those of repeated steps.

    Lines that cannot be read are passed over: their writer may have died.
    """
    try:
        for line in _lines(path):
            if (of_run := from_json_line(line)) is not None:
                yield loss_record(of_run)
                continue
            with suppress(JsonError):
                fields = parse_json(line)
                if isinstance(fields, dict) and (record := _record_of(fields)):
                    yield record
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as lines of JSON: {error}. Give a metrics.jsonl.") from error


def _record_of(fields: dict[str, object]) -> LossRecord | None:
    """Return the record of named numbers, or None without a step or a loss. A null is a number that was not finite.

    A line that is a damaged one of a run is none: what is left of it would be half a record.
    """
    if not _OF_RUNS.isdisjoint(fields):
        return None
    numbers = []
    for name, value in fields.items():
        if (place := _place_of(name)) is not None:
            if value is not None and type(value) not in (int, float):
                return None
            numbers.append((place, math.nan if value is None else float(value)))  # type: ignore[arg-type]
    found = _by_field(numbers)
    places = [found.get("step", math.nan), found.get("attempt", 0.0)]
    if not all(0 <= place <= MOST_COUNT for place in places) or (found["loss"] is None and not found["channels"]):
        return None
    phase = fields.get("phase")
    step, attempt = map(int, places)
    return LossRecord(**found | {"step": step, "attempt": attempt}, phase=phase if isinstance(phase, str) else None)


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
