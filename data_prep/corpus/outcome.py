"""Records the outcome of every document of a file: kept ones go to a file of the same name, dropped ones to a list.

The steps of a pipeline share one object: the reader opens and closes a file, filters drop, the writer keeps. A file,
its list and its report appear whole or not at all. A task that was interrupted is simply repeated.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from data_prep.text.file_hashes import hash_of_file
from data_prep.text.file_kinds import DROPPED
from data_prep.text.input_file import InputFile, file_bytes
from data_prep.text.origins import recorded_lines
from data_prep.text.own_json import read_own
from data_prep.text.read_documents import Record, Rejection, with_text
from data_prep.text.text_files import FileReport, report_of, unreadable, written_whole
from data_prep.text.whole_json import BYTE_ORDER_MARK
from harness.run.files import replace_file

REPORT = ".report"
NO_LANGUAGE = "unknown"
"""In the place of a language that was not found."""
BEGIN_SHOWN = 80
"""Characters of a dropped document in the list of them."""


@dataclass
class Outcome:
    """Keeps and drops the documents of the files that one task reads."""

    files: Sequence[InputFile]
    names: Sequence[str]
    """Name of the output of each file."""
    folder: Path
    text_key: str
    lost: str = "dropped"
    """Reason given for a document that vanished without being dropped by name."""
    _open_line: int | None = field(default=None, init=False)
    _begin: str = field(default="", init=False)
    _kept: IO[bytes] | None = field(default=None, init=False)
    _dropped: IO[bytes] | None = field(default=None, init=False)
    _record: Callable[[int], None] | None = field(default=None, init=False)
    """Records from which line of the input the next line of the output is."""
    _counts: dict[str, int] = field(default_factory=dict, init=False)
    _reasons: Counter[str] = field(default_factory=Counter, init=False)
    _languages: Counter[str] = field(default_factory=Counter, init=False)
    _dropped_by_language: Counter[str] = field(default_factory=Counter, init=False)
    _unknown: Counter[str] = field(default_factory=Counter, init=False)
    _language: str | None = field(default=None, init=False)
    """Language of the open document, where it was asked for."""

    @contextmanager
    def file(self, number: int) -> Iterator[None]:
        """Open the outputs of a file; they get their names, and the file its report, if all went well."""
        output = self.folder / self.names[number]
        self._counts = {"documents": 0, "kept": 0, "characters": 0, "kept_characters": 0}
        self._reasons, self._languages = Counter(), Counter()
        self._dropped_by_language, self._unknown = Counter(), Counter()
        try:
            with recorded_lines(output, self.files[number]) as self._record:
                listing = written_whole(output.with_name(output.name + DROPPED))
                with written_whole(output) as self._kept, listing as self._dropped:
                    yield
        finally:
            # Open files cannot be sent to another process.
            self._kept = self._dropped = self._record = None
        report = FileReport(
            file=output.name,
            input=str(self.files[number]),
            input_bytes=file_bytes(self.files[number]),
            dropped=dict(sorted(self._reasons.items())),
            written={output.name: output.stat().st_size},
            hashes={output.name: hash_of_file(output)},
            languages=dict(sorted(self._languages.items())),
            dropped_by_language=dict(sorted(self._dropped_by_language.items())),
            unknown=dict(sorted(self._unknown.items())),
            **self._counts,
        )
        write_report(self.folder, report)

    def read(self, record: Record) -> bool:
        """Count a line, and return whether it is a document. If not, it is dropped."""
        self._counts["documents"] += 1
        if isinstance(record.content, Rejection):
            kind = "empty" if record.content.is_empty else "not a document"
            self._list(record.line, f"{kind}: {record.content.reason}")
            return False
        self._counts["characters"] += len(record.content)
        self._open_line, self._language = record.line, None
        self._begin = record.content[:BEGIN_SHOWN]
        return True

    def note_language(self, language: str | None, unknown_to: Sequence[str]) -> None:
        """Note the language of the document that was read last, and the rules that do not know it."""
        self._language = language or NO_LANGUAGE
        self._languages[self._language] += 1
        self._unknown.update(f"{self._language}/{rule}" for rule in unknown_to)

    def note_unknown(self, rule: str) -> None:
        """Note that a rule was not applied to the document that was read last."""
        self._unknown[f"{self._language or NO_LANGUAGE}/{rule}"] += 1

    def drop(self, reason: str) -> None:
        """List the document that was read last, with the reason for dropping it."""
        if self._open_line is None:
            raise AssertionError("a document was dropped twice")
        self._list(self._open_line, reason, self._begin)
        self._open_line = None

    def settle(self) -> None:
        """Record the outcome of the last document: kept, dropped or lost. Called before the next one is read."""
        if self._open_line is not None:
            self.drop(self.lost)

    def keep(self, raw: bytes, text: str, is_changed: bool, added: Mapping[str, object] | None = None) -> None:
        """Write a document: the line itself, or with its new text in place of the old one, and with `added` keys."""
        if self._kept is None or self._record is None or self._open_line is None:
            raise AssertionError("a document was kept outside its file, or after it was dropped")
        self._record(self._open_line)
        self._open_line = None
        self._counts["kept"] += 1
        self._counts["kept_characters"] += len(text)
        self._kept.write(_line(raw, text, self.text_key, is_changed, added or {}))

    def _list(self, line: int, reason: str, begin: str | None = None) -> None:
        if self._dropped is None:
            raise AssertionError("a document was dropped outside its file")
        name = reason.partition(":")[0]
        self._reasons[name] += 1
        entry: dict[str, object] = {"line": line, "reason": reason}
        if begin is not None:
            entry["begin"] = begin
            if self._language is not None:
                self._dropped_by_language[f"{self._language}/{name}"] += 1
                entry["language"] = self._language
        self._dropped.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def write_report(folder: Path, report: FileReport) -> None:
    """Write the report on a file into the folder of its output."""
    content = json.dumps(asdict(report), ensure_ascii=False)
    replace_file(folder / (report.file + REPORT), content.encode() + b"\n")


def read_reports(folder: Path, names: Sequence[str]) -> list[FileReport]:
    """Return the reports on the files of a finished folder.

    Raises:
        DataError: One is missing or unreadable.
    """
    return [_read_report(folder / (name + REPORT)) for name in names]


def _read_report(file: Path) -> FileReport:
    try:
        return report_of(read_own(file))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise unreadable(file, error) from error


def _line(raw: bytes, text: str, text_key: str, is_changed: bool, added: Mapping[str, object]) -> bytes:
    if not is_changed and not added:
        return raw if raw.endswith(b"\n") else raw + b"\n"
    record: dict[str, Any] = json.loads(raw.removeprefix(BYTE_ORDER_MARK))  # noqa: TID251 (a record of the user, taken as it is)
    record = with_text(record, text_key, text) if is_changed else record
    return json.dumps(record | dict(added), ensure_ascii=False).encode() + b"\n"
