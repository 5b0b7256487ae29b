"""Extraction as a stage of a corpus: the text of web pages and books becomes lines of JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from data_prep.corpus.config import SourceConfig
from data_prep.corpus.extract_config import ExtractConfig
from data_prep.corpus.jobs import Job
from data_prep.corpus.outcome import write_report
from data_prep.corpus.pipelines import LARGEST_PRIORITY, Reading
from data_prep.corpus.stages import Stage
from data_prep.corpus.steps import files_of_task
from data_prep.text.file_hashes import hash_of_file
from data_prep.text.file_kinds import DROPPED
from data_prep.text.input_file import InputFile, file_bytes
from data_prep.text.origins import recorded
from data_prep.text.pages.bundles import Bundle, bundles_of
from data_prep.text.pages.child import PageReader
from data_prep.text.pages.read_pages import Page, read_pages
from data_prep.text.text_files import FileReport, written_whole
from harness.channels.provenance import Provenance
from harness.errors import UsageError
from harness.text import one_line

MEMORY_BYTES = 1 << 30
"""That a page may take. trafilatura needs about forty times the size of a page."""
PACKAGES = ("trafilatura", "warcio", "pypdfium2")
_MOST_NAME = 2000


class ExtractPages(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Writes the text of the bundles of a task, the list of what gave none, and their reports."""

    type = "EXTRAC"
    name = "pages"

    def __init__(self, bundles: Sequence[Bundle], folder: Path, text_key: str, config: ExtractConfig) -> None:
        super().__init__()
        self.bundles = bundles
        self.folder = folder
        self.text_key = text_key
        self.config = config

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterator[object]:
        """See datatrove's `PipelineStep`."""
        with PageReader(MEMORY_BYTES, self.config.seconds_per_page) as reader:
            for number in files_of_task(len(self.bundles), rank, world_size):
                self._write(self.bundles[number], reader)
        return iter(())

    def _write(self, bundle: Bundle, reader: PageReader) -> None:
        output, reasons = self.folder / bundle.name, Counter[str]()
        kept = characters = 0
        pages = ((file, page) for file in bundle.files for page in read_pages(file))
        listing = written_whole(output.with_name(output.name + DROPPED))
        with recorded(output) as record, listing as listed, written_whole(output) as stream:
            for file, page in pages:
                found = self._found(page, reader)
                if (reason := found.pop("rejected", None)) is not None:
                    reasons[reason.partition(":")[0]] += 1
                    entry = {"line": page.number, "reason": one_line(reason), "page": page.name[:_MOST_NAME]}
                    listed.write(_line(entry))
                    continue
                text = found.pop("text")
                kept, characters = kept + 1, characters + len(text)
                record(Provenance(str(file), page.number))
                about = {name: value[:_MOST_NAME] for name, value in (found | page.known).items() if value}
                stream.write(_line({self.text_key: text} | about))
        more = f" and {len(bundle.files) - 1} more" if len(bundle.files) > 1 else ""
        report = FileReport(
            file=output.name,
            input=f"{bundle.files[0]}{more}",
            input_bytes=bundle.size,
            documents=kept + reasons.total(),
            kept=kept,
            characters=characters,
            kept_characters=characters,
            dropped=dict(sorted(reasons.items())),
            written={output.name: output.stat().st_size},
            hashes={output.name: hash_of_file(output)},
        )
        write_report(self.folder, report)

    def _found(self, page: Page, reader: PageReader) -> dict[str, str]:
        if page.rejected is not None:
            return {"rejected": page.rejected}
        asked = {"kind": page.kind, "favor": self.config.favor, "tables": self.config.tables}
        return dict(reader.read(asked, page.content))


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def extract_job(source: SourceConfig, files: list[InputFile], output: Path, tasks: int | None = None) -> Job:
    """Take the text out of a source of pages.

    Raises:
        UsageError: A package is missing.
    """
    missing = next((package for package in PACKAGES if find_spec(package) is None), None)
    if missing is not None:
        raise UsageError(
            f"extract: taking the text out of pages needs the Python package {missing}, which is not installed. "
            "Install the project with its `data-web` extra."
        )
    config = source.extract or ExtractConfig()
    sizes = [file_bytes(file) for file in files]
    bundles = bundles_of(files, sizes)
    reading = Reading(
        files=files,
        names=[bundle.name for bundle in bundles],
        folder=output,
        text_key=source.text_key,
        tasks=min(tasks or len(bundles), len(bundles), LARGEST_PRIORITY),
        sizes=sizes,
    )
    work = ExtractPages(bundles, output, source.text_key, config)
    shares = (files_of_task(len(bundles), task, reading.tasks) for task in range(reading.tasks))
    per_task = tuple(sum(bundles[number].size for number in share) for share in shares)
    return Job(
        title=f"extract {output.name}",
        output=output,
        reading=reading,
        phases=(lambda: [Stage("extract", (work,), reading.tasks, per_task)],),
        num_readings=1,
        folders=(output,),
        steps=("extract",),
        settings={"extract": config.model_dump()},
    )
