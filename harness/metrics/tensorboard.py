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
from io import FileIO
from pathlib import Path
from typing import Any

from harness.run.append import FileSeen, write_whole
from harness.run.records import StepRecord

_FILE_VERSION = "brain.Event:2"


class EventFile:
    """The sink that is one new event file in the run's TensorBoard folder."""

    name = "TensorBoard"

    def __init__(
        self,
        folder: Path,
        *,
        purge_step: int,
        clock: Callable[[], float],
        tell_loss: Callable[[str, str], None] = lambda name, found: None,
    ) -> None:
        """Open the file; the folder is made if missing.

        Steps from `purge_step` on that earlier launches have written are no longer shown. `tell_loss` gets the name of
        this sink, and what happened to its file, if somebody removes it; a new file is then begun.

        Raises:
            ImportError: The `tensorboard` package is not installed.
            OSError: The file cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._session_log, self._summary, self._frame = Event, SessionLog, Summary, RecordWriter
        self._clock = clock
        self._folder = folder
        self._tell_loss = tell_loss
        self._file, self._seen = self._opened(purge_step)
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
        if (loss := self._seen.loss()) is not None:
            lost, (self._file, self._seen) = self._file, self._opened(record.step)
            lost.close()
            self._tell_loss(self.name, loss)
        value_type = self._summary.Value
        points = [value_type(tag=name, simple_value=value) for name, value in record.values.items()]
        self._write(self._event(wall_time=record.time, step=record.step, summary=self._summary(value=points)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _opened(self, step: int) -> tuple[FileIO, FileSeen]:
        """Open a new file, which begins with this step."""
        self._folder.mkdir(exist_ok=True)
        path = _free_path(self._folder, self._clock())
        file = path.open("xb", buffering=0)
        # A purge is heeded only in a file that declared its version before it.
        self._write_to(file, self._event(wall_time=self._clock(), step=step, file_version=_FILE_VERSION))
        seen = FileSeen(path)
        seen.look()
        return file, seen

    def _write(self, event: Any) -> None:  # noqa: ANN401  (the package has no types)
        self._write_to(self._file, event)
        self._seen.look()

    def _write_to(self, file: FileIO, event: Any) -> None:  # noqa: ANN401
        framed = io.BytesIO()
        self._frame(framed).write(event.SerializeToString())
        end = file.tell()
        try:
            write_whole(file, framed.getvalue())
        except OSError:
            file.truncate(end)  # readers stop for good at half a record
            file.seek(end)
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
