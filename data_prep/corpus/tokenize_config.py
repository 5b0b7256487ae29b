"""The schema of the section `tokenize` of a corpus file: the options of `harness data tokenize`, of the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from harness.config.section import FilePath, Section, Tokens
from harness.limits import MOST_TEXT, MOST_TOKENS

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
SymbolName = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(min_length=1, max_length=MOST_TEXT),
]
"""A symbol by its spelling or its id."""


class TokenizeOptions(Section):
    """Making tokens of documents."""

    tokens_per_part: Tokens = 1_000_000_000
    """A part ends with the document that reaches this."""
    append_eod: bool = True
    """Put a symbol behind every document."""
    end_of_document: SymbolName | None = None
    """That symbol, by its spelling or its id; the one that the tokenizer names, or a usual one, if left out."""
    begin_of_document: SymbolName | None = None
    """A symbol before every document; `none` for none, without a warning."""
    max_document_tokens: Annotated[int, Field(ge=2, le=MOST_TOKENS)] | None = None
    """Longest document, the symbols around it included."""
    long_documents: Literal["split", "drop", "keep"] | None = None
    """Longer documents are cut (if left out), or left out."""
    encoder: Literal["auto", "reference", "fastokens", "gigatoken"] = "auto"
    """Library that encodes."""
    max_rejected_share: Share = 0.01
    """Give up if more than this share of the lines are not documents."""
    max_lost_share: Share = 0.01
    """Give up if more than this share of the characters or of the tokens is lost."""


class TokenizeConfig(TokenizeOptions):
    """The channels that are made of the sources."""

    tokenizer: FilePath
    """Its file, of any kind and name, or its folder."""
    output: FilePath = Path("data")
    """Folder of the channels: a source becomes `output/<source>`."""

    def options_of(self, own: TokenizeOptions | None) -> TokenizeConfig:
        """Return them with the options that a source has of its own."""
        given = {name: getattr(own, name) for name in own.model_fields_set} if own else {}
        return self.model_copy(update=given)
