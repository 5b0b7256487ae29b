"""Writes metrics as TensorBoard event files, without torch and without tensorflow.

Only the message types and the record framing of the `tensorboard` package are used: its own file writer looks for
tensorflow and writes from a thread in which a full disk would be an unhandled exception.
"""

from __future__ import annotations

import io
import itertools
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.run.append import write_whole
from harness.run.records import StepRecord

_FILE_VERSION = "brain.Event:2"


class EventFile:
    """The sink that is one new event file in the run's TensorBoard folder."""

    name = "TensorBoard"

    def __init__(self, folder: Path, *, purge_step: int, clock: Callable[[], float]) -> None:
        """Open the file; the folder is made if missing.

        Steps from `purge_step` on that earlier launches have written are no longer shown.

        Raises:
            ImportError: The `tensorboard` package is not installed.
            OSError: The file cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._session_log, self._summary, self._frame = Event, SessionLog, Summary, RecordWriter
        self._clock = clock
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _free_path(folder, clock()).open("xb", buffering=0)
        # The purge is heeded only in a file that declared its version before it.
        self._write(Event(wall_time=clock(), step=purge_step, file_version=_FILE_VERSION))
        self.rewind(purge_step)

    def rewind(self, step: int) -> None:
        """Hide all steps from this one on that were written so far.

        Raises:
            OSError: The disk is full or gone.
        """
        start = self._session_log(status=self._session_log.START)
        self._write(self._event(wall_time=self._clock(), step=step, session_log=start))

    def step(self, record: StepRecord, *, is_repeated: bool) -> None:
        """Write one point of every metric.

        Raises:
            OSError: The disk is full or gone; the points are lost, the file stays readable.
        """
        value_type = self._summary.Value
        points = [value_type(tag=name, simple_value=value) for name, value in record.values.items()]
        self._write(self._event(wall_time=record.time, step=record.step, summary=self._summary(value=points)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Any) -> None:  # noqa: ANN401  (the package has no types)
        framed = io.BytesIO()
        self._frame(framed).write(event.SerializeToString())
        end = self._file.tell()
        try:
            write_whole(self._file, framed.getvalue())
        except OSError:
            self._file.truncate(end)  # readers stop for good at half a record
            self._file.seek(end)
            raise


def write_hyperparameters(
    folder: Path, values: Mapping[str, bool | float | str], *, run: str, clock: Callable[[], float]
) -> None:
    """Write what a launch trains with into a file of its own, for TensorBoard's HPARAMS. Call it before `EventFile`.

    TensorBoard follows the newest file only, which must be the one of the metrics. `run` names the run in the table.

    Raises:
        ImportError: The `tensorboard` package is not installed.
        OSError: The file cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo
    from tensorboard.summary.writer.record_writer import RecordWriter

    session = SessionStartInfo(group_name=run, start_time_secs=clock())
    for name, value in values.items():
        if isinstance(value, bool):
            session.hparams[name].bool_value = value
        elif isinstance(value, str):
            session.hparams[name].string_value = value
        else:
            session.hparams[name].number_value = value
    content = HParamsPluginData(session_start_info=session, version=metadata.PLUGIN_DATA_VERSION)
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    point = Summary.Value(tag=metadata.SESSION_START_INFO_TAG, metadata=SummaryMetadata(plugin_data=plugin))
    folder.mkdir(parents=True, exist_ok=True)
    with _free_path(folder, clock()).open("xb", buffering=0) as file:
        for event in (
            Event(wall_time=clock(), file_version=_FILE_VERSION),
            Event(wall_time=clock(), step=0, summary=Summary(value=[point])),
        ):
            framed = io.BytesIO()
            RecordWriter(framed).write(event.SerializeToString())
            write_whole(file, framed.getvalue())


def _free_path(folder: Path, now: float) -> Path:
    """Return a free path that TensorBoard recognizes (it contains `tfevents`) and that sorts after earlier launches."""
    stem = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
    paths = (folder / f"{stem}.{number}" for number in itertools.count())
    return next(path for path in paths if not path.exists())
