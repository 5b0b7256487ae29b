"""What a mark order asks for, and its JSON form.

```
{"kind": "mark", "checkpoints": ["step_0040000"], "health": "suspect"}
```

Only the process that trains writes manifests, so whoever else has learnt something about a checkpoint orders it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

KEYS = ("checkpoints", "health")
_NAME = re.compile(r"step_[0-9]{7,}(\.[0-9]+)?")
_MAX_CHECKPOINTS = 1000


class UnreadableMarkError(ValueError):
    """A mark order that names no checkpoint or no health; the text says what."""


@dataclass(frozen=True, kw_only=True)
class MarkRequest:
    """Enter a health into the manifests of some checkpoints. Abandoned ones are left alone."""

    checkpoints: tuple[str, ...]
    """Names of their folders."""
    health: Literal["clean", "suspect"]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"checkpoints": list(self.checkpoints), "health": self.health}


def parse_mark_request(fields: Mapping[str, object]) -> MarkRequest:
    """The request in the fields of an order.

    Raises:
        UnreadableMarkError: A field has a wrong type or value.
    """
    names, health = fields.get("checkpoints"), fields.get("health")
    if not isinstance(names, list) or not 1 <= len(names) <= _MAX_CHECKPOINTS:
        raise UnreadableMarkError(f'"checkpoints" is {names!r}; it is a list of 1 to {_MAX_CHECKPOINTS} folder names')
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UnreadableMarkError(f'"checkpoints" names {name!r}; a checkpoint is called like "step_0040000"')
    if health == "clean":
        return MarkRequest(checkpoints=tuple(names), health="clean")
    if health == "suspect":
        return MarkRequest(checkpoints=tuple(names), health="suspect")
    raise UnreadableMarkError(f'"health" is {health!r}; allowed: "clean", "suspect"')
