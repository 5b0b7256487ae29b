"""Fields that several events have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from harness.run.field_types import Count, Text

CommandName = Annotated[
    Text,
    Field(alias="order", description="Name of the command's file in `signals/`, or of the operating system's signal."),
]
Reason = Annotated[Text, Field(description="Why, in words.")]
Channel = Annotated[Text, Field(description="Name of the channel.")]
Channels = Annotated[tuple[Text, ...], Field(description="Names of the channels.")]
Documents = Annotated[Mapping[Text, tuple[Count, ...]], Field(description="Numbers of documents by `channel/part`.")]
ExitCode = Annotated[int, Field(strict=True, ge=-255, le=255, description="Exit code; see the page on exit codes.")]


class NamedDocuments(BaseModel):
    """Documents of a part that stand out."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    channel: Channel
    part: Text
    """Name of the part."""
    documents: tuple[Count, ...]
    """Their numbers in the part."""
    provenance: tuple[Text, ...] = ()
    """Source file, line, and id or URL of the first of them; empty where that is not recorded."""
