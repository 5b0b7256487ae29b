"""Evidence of the samples of suspicious steps: `evidence/step_0040120.jsonl`, one JSON object per sample.

```
{"step": 40118, "position": 321012, "loss": 9.81, "tokens": 4096, "channel": "code", "part": "part-00007", "epoch": 0,
 "sample": 551, "documents": [8812, 8813], "most_common_token_share": 0.02, "repeated_share": 0.0, …}
```

The highest losses come first. `loss` is the mean over the sample's tokens in nats; null if it is not finite. Where the
channel records it, `provenance` says where each of the documents came from: `"raw/vi/0.jsonl.gz:17  https://…"`. With a
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

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from harness.errors import DataError
from harness.json_text import parse_json
from harness.run.field_types import MOST_COUNT, MOST_NATS, Count, Number, Text, reason_in_words
from harness.run.files import replace_file
from harness.run.lines import lines_of, open_lines
from harness.run.paths import RunDir, step_of


def _require_possible(loss: float) -> float:
    if abs(loss) > MOST_NATS:
        raise ValueError(f"no loss is beyond {MOST_NATS:g} nats")
    return loss


_Loss = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    Field(strict=True),
    AfterValidator(_require_possible),
]


class Sample(BaseModel):
    """A sample in evidence."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    step: Count = 0
    position: Count = 0
    loss: _Loss = math.nan
    """Mean over its tokens in nats; NaN where it was not finite. Earlier versions left it out then, and documents."""
    tokens: Annotated[Number, Field(ge=0, le=MOST_COUNT)] = 0.0
    channel: Text
    part: Text
    epoch: Count = 0
    index: Count = Field(default=0, alias="sample")
    documents: tuple[Count, ...] = ()
    provenance: tuple[Text, ...] = ()
    """Source file, line, and id or URL of each of the documents; empty where that is not recorded."""
    one_token_share: Number = Field(default=0.0, alias="most_common_token_share")
    repeated_share: Number = 0.0
    newline_share: Number = 0.0
    unreadable_share: Number = 0.0


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
    samples: list[Sample] = []
    number = 0
    try:
        with open_lines(path) as file:
            for line in lines_of(file):
                number += 1
                samples.append(Sample.model_validate(parse_json(line)))
    except (OSError, ValueError) as error:
        place = f"{path}:{number}" if number else str(path)
        raise DataError(
            f"{place}: cannot be read as evidence ({reason_in_words(error)}). It has one "
            "JSON object per sample; ask for it again with `harness signal RUN_DIR evidence --steps A:B`."
        ) from None
    return samples


def evidence_files(run_dir: RunDir) -> list[tuple[int, Path]]:
    """Return the step and path of every evidence file, newest first; none if the folder cannot be read."""
    found = []
    with suppress(OSError):
        for path in run_dir.evidence_folder.glob("step_*.jsonl"):
            name, _, number = path.stem.partition(".")
            if (step := step_of(name)) is not None and (not number or number.isdecimal()):
                found.append((step, int(number or 1), path))
    return [(step, path) for step, _, path in sorted(found, reverse=True)]
