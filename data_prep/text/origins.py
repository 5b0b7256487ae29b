"""Tells where lines of text files came from: from the lines of other files, if that is recorded beside them.

Every command that writes text out of text records it (`NAME.provenance`), always back to the first file of all: the
folders in between may be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from data_prep.text.input_file import InputFile, RemoteFile, file_bytes, open_bytes
from data_prep.text.provenance_writer import ProvenanceWriter
from harness.channels.provenance import Provenance, ProvenanceFile, beside_text, open_provenance
from harness.errors import DataError

_WEB = ("http://", "https://")
"""Addresses at which nothing lies beside a file: a server may answer anything for another name."""


class Origins:
    """Tells where lines of input files came from, of one file after another."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self._files = files
        self._number = -1
        self._name = ""
        self._recorded: ProvenanceFile | None = None

    def of(self, number: int, line: int, name: str = "") -> Provenance:
        """Return where a line (from 1) of a file came from; `name` is the id or URL that its record has.

        Raises:
            DataError: What is recorded of the file is damaged, or was written of another file.
        """
        if number != self._number:
            self.close()
            self._recorded = recorded_of(self._files[number])
            self._number, self._name = number, str(self._files[number])
        if self._recorded is None:
            return Provenance(self._name, line, name)
        found = self._recorded.entry(line - 1)
        return found._replace(name=name or found.name)

    def close(self) -> None:
        """Close the file that is open."""
        if self._recorded is not None:
            self._recorded.close()
        self._recorded, self._number = None, -1


def recorded_of(file: InputFile) -> ProvenanceFile | None:
    """Open what is recorded of the lines of a file; None if nothing is.

    Raises:
        DataError: It is damaged, or was written of another file.
    """
    opened = _opened(file)
    if opened is not None:
        try:
            opened.require_owner(file_bytes(file))
        except BaseException:
            opened.close()
            raise
    return opened


def _opened(file: InputFile) -> ProvenanceFile | None:
    if isinstance(file, Path):
        return open_provenance(file.with_name(beside_text(file.name)))
    if file.address.startswith(_WEB):
        return None
    beside = RemoteFile(beside_text(file.address))
    try:
        stream = open_bytes(beside)
        try:
            return ProvenanceFile(stream, beside)
        except BaseException:
            stream.close()
            raise
    except (FileNotFoundError, PermissionError):  # which a store also says of what is not there
        return None
    except OSError as error:
        raise DataError(f"cannot read {beside}: {error.strerror or error}. Remove it to go on without.") from error


class LineRecorder:
    """Records where the lines of a text file came from while it is written."""

    def __init__(self, output: Path) -> None:
        """Begin the record of a file, and remove what is recorded of an earlier one of that name.

        Raises:
            OSError: From the disk.
        """
        self._output = output
        path = output.with_name(beside_text(output.name))
        path.unlink(missing_ok=True)
        self._writer = ProvenanceWriter(path)

    def add(self, origin: Provenance) -> None:
        """Record the next line. Its record still has its id."""
        self._writer.add(origin._replace(name="", piece=0))

    def finish(self) -> None:
        """Put the record on disk, when the text file has its name and its size.

        Raises:
            OSError: From the disk.
        """
        self._writer.finish(self._output.stat().st_size)

    def close(self) -> None:
        """Abandon the record, if it is not finished."""
        self._writer.close()


@contextmanager
def recorded_lines(output: Path, source: InputFile) -> Iterator[Callable[[int], None]]:
    """Give a function that takes, for each line of a file that is written inside, the line of its source.

    The record gets its name last, and none if the file is given up.

    Raises:
        DataError: It cannot be written, or what is recorded of the source is damaged.
    """
    with closing(Origins([source])) as origins, recorded(output) as record:
        yield lambda line: record(origins.of(0, line))


@contextmanager
def recorded(output: Path) -> Iterator[Callable[[Provenance], None]]:
    """Give a function that takes where each line of a file came from that is written inside.

    The record gets its name last, and none if the file is given up.

    Raises:
        DataError: It cannot be written.
    """
    with as_data_error(output), closing(LineRecorder(output)) as recorder:
        yield recorder.add
        recorder.finish()


@contextmanager
def as_data_error(output: Path) -> Iterator[None]:
    """Turn what the disk refuses while a record is written into an error for people.

    Raises:
        DataError: The disk refuses.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{beside_text(str(output))}: cannot be written ({error}). Finished files are untouched: make room, then "
            "run the command again."
        ) from error
