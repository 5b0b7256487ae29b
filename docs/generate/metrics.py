"""The page of the metrics: every name that a run records, from the module that defines the names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType

from docs.generate.docstrings import constants_of, summary_of
from docs.generate.kinds import unit_of

_HEAD = """\
# Metrics

Every step of a run is one line of `metrics.jsonl`: a JSON object. TensorBoard shows the same numbers under the same
names.

These keys are in every line: `attempt` (how often the line of steps was rewound), `step` (from 1), `time` (seconds
since 1970), `phase`, `consumed_samples` and `consumed_tokens` (since the run began) and `data/batch_hash`. A metric is
absent where its value is not known. A value that is NaN or infinite is `null`, and the line then also has
`"nonfinite": true`. Names under `valid/` are in the lines of steps after which the run evaluated.

A rollback rewinds the line of steps: a step may have several lines, and the last one counts.
"""
_GROUPS = {
    "train": "Training loss and tokens",
    "valid": "Held-out loss",
    "experts": "Experts",
    "optim": "Optimizer",
    "data": "Data",
    "perf": "Speed and memory",
}


def metrics_page(module: ModuleType) -> str:
    """Return the page: one group for each prefix, one line for each name."""
    metrics = list(_metrics_of(module))
    unknown = {name for name, _ in metrics if name.partition("/")[0] not in _GROUPS}
    assert not unknown, f"these metrics belong to no group of the page, add one: {sorted(unknown)}"
    parts = [_HEAD]
    for prefix, title in _GROUPS.items():
        lines = [f"- **`{name}`**{_unit(name)}: {text}" for name, text in metrics if name.startswith(f"{prefix}/")]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _metrics_of(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield name and meaning of the constants, and of the functions that make a name from that of one thing."""
    for constant, text in constants_of(module).items():
        yield getattr(module, constant), text
    for name, function in inspect.getmembers(module, inspect.isfunction):
        parameters = list(inspect.signature(function).parameters)
        if name.endswith("_of") and parameters != ["name"]:
            yield function(*map(str.upper, parameters)), summary_of(function)


def _unit(name: str) -> str:
    unit = unit_of(name)
    return f" ({unit})" if unit in ("seconds", "percent", "GiB") else ""
