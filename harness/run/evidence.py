"""Evidence of the samples of suspicious steps: `evidence/step_0040120.jsonl`, one JSON object per sample.

```
{"step": 40118, "position": 321012, "loss": 9.81, "tokens": 4096, "channel": "code", "part": "part-00007", "epoch": 0,
 "sample": 551, "documents": [8812, 8813], "most_common_token_share": 0.02, "repeated_share": 0.0, …}
```

The highest losses come first. `loss` is the mean over the sample's tokens in nats; null if it is not finite. With a
tokenizer there are also `newline_share`, `unreadable_share`, `compression_ratio` and the beginning of the `text`.
Evidence is never overwritten: a later file of the same step is `step_0040120.2.jsonl`. After a step whose losses are
finite and whose gradient is not, the file has no samples, but `{"rank": 3, "finite_gradient": false}` for each rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from harness.errors import DataError
from harness.run.files import replace_file
from harness.run.paths import RunDir, step_of


class Sample(BaseModel):
    """A sample in evidence."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    step: int = 0
    position: int = 0
    loss: Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)] = math.nan
    """Mean over its tokens in nats; NaN where it was not finite. Earlier versions left it out then, and documents."""
    tokens: float = 0.0
    channel: str
    part: str
    epoch: int = 0
    index: int = Field(default=0, alias="sample")
    documents: tuple[int, ...] = ()
    one_token_share: float = Field(default=0.0, alias="most_common_token_share")
    repeated_share: float = 0.0
    newline_share: float = 0.0
    unreadable_share: float = 0.0


def write_evidence(run_dir: RunDir, step: int, lines: Iterable[Mapping[str, object]]) -> Path:
    """Write evidence up to a step to a new file, and return its path.

    Raises:
        OSError: From the disk.
    """
    first = run_dir.evidence(step)
    names = (first if number == 1 else first.with_name(f"{first.stem}.{number}.jsonl") for number in count(1))
    path = next(name for name in names if not name.exists())
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines))
    return path


def read_evidence(path: Path) -> list[Sample]:
    """Return the samples in an evidence file, in its order.

    Raises:
        DataError: The file is missing or does not hold evidence of the samples of steps.
    """
    try:
        return [Sample.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise DataError(
            f"{path}: cannot be read as evidence ({reason}). It has one JSON object per sample; ask for it again with "
            "`harness signal RUN_DIR evidence --steps A:B`."
        ) from error


def evidence_files(run_dir: RunDir) -> list[tuple[int, Path]]:
    """Return the step and path of every evidence file, newest first; none if the folder cannot be read."""
    found = []
    with suppress(OSError):
        for path in run_dir.evidence_folder.glob("step_*.jsonl"):
            name, _, number = path.stem.partition(".")
            if (step := step_of(name)) is not None and (not number or number.isdecimal()):
                found.append((step, int(number or 1), path))
    return [(step, path) for step, _, path in sorted(found, reverse=True)]
