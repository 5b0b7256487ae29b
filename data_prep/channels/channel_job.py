"""Says what to make of which files: the input, the output and the settings of a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_prep.channels.input_records import record_inputs
from data_prep.channels.long_documents import LongDocuments
from data_prep.text.input_file import InputFile
from harness.channels.source import Inputs

REJECTED_FILE = "rejected.jsonl"


@dataclass(frozen=True, kw_only=True)
class ChannelJob:
    """Input, output and settings of one channel to tokenize."""

    inputs: Sequence[InputFile]
    """Files in the order of the documents."""
    folder: Path
    """The channel folder; it is made if missing."""
    text_key: str = "text"
    id_key: str | None = None
    """Key of a record's id or URL, for the provenance of the documents; None for the usual keys."""
    tokens_per_part: int = 1_000_000_000
    """A part ends with the document that reaches this many tokens."""
    append_end_of_document: bool = True
    end_of_document_id: int | None = None
    """Id of the symbol to append in place of the tokenizer's own."""
    begin_of_document_id: int | None = None
    """Id of the symbol to put before every document; None for none."""
    max_document_tokens: int | None = None
    """Tokens of the longest document, the end-of-document token included."""
    long_documents: LongDocuments = "keep"
    """Treatment of longer documents."""
    max_rejected_share: float = 0.01
    """Share of rejected lines above which the input is refused."""
    max_lost_share: float = 0.01
    """Share of characters that do not come back, or of unknown tokens, above which the input is refused."""
    is_append: bool = False
    """True if the files are added to a finished channel."""

    @cached_property
    def recorded_inputs(self) -> Inputs:
        """The files as `source.json` records them."""
        return record_inputs(self.inputs)
