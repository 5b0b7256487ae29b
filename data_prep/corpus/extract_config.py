"""The schema of the section `extract` of a source: text out of web pages and books."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.config.section import Section
from harness.limits import MOST_SECONDS


class ExtractConfig(Section):
    """Taking the text out of HTML, WARC and PDF."""

    favor: Literal["balance", "precision", "recall"] = "balance"
    """Way to go where main text and the rest of a web page are hard to tell apart: `precision` leaves out, `recall`
    keeps."""
    tables: bool = True
    """Keep the text of tables of web pages."""
    seconds_per_page: Annotated[float, Field(ge=0.1, le=MOST_SECONDS, allow_inf_nan=False)] = 20.0
    """A page that takes longer is left out; for every 100 kB it may take a second more."""
