"""The terminal for tables and bars. Importing rich takes a tenth of a second, so this is imported where it is used."""

from __future__ import annotations

from typing import Any

from rich.console import Console  # noqa: TID251 (the one place)
from rich.text import Text

from harness.text import printable


class Screen(Console):
    """A console of rich. Texts are escaped as `say` does it before rich reads its markup in them."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 (rich's own options)
        """Return a text as rich shows it."""
        return super().render_str(printable(text), **options)
