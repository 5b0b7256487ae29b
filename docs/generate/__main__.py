"""Write the pages of `docs/reference` from the code: `python -m docs.generate`, with `--check` only compare them."""
# ruff: noqa: T201 (a command line)

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import harness.errors
import harness.run.metric_names
from docs.generate.alerts import alerts_page
from docs.generate.configuration import configuration_page
from docs.generate.events import events_page
from docs.generate.exit_codes import exit_codes_page
from docs.generate.metrics import metrics_page
from harness.config.schema import Config
from harness.run.event_base import StepEvent
from harness.run.event_types import AnyEvent

REFERENCE = Path(__file__).parents[1] / "reference"
COMMAND = "python -m docs.generate"

EVENTS_HEAD = """\
# Events

`events.jsonl` in a run's directory has one JSON object a line for each event. The trainer, the watcher and the launcher
append to it. This page is made from `harness/run/event_types.py`.
"""

PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": lambda: configuration_page(Config),
    "metrics.md": lambda: metrics_page(harness.run.metric_names),
    "events.md": lambda: events_page(AnyEvent, EVENTS_HEAD, (StepEvent,)),
    "alerts.md": alerts_page,
    "exit_codes.md": lambda: exit_codes_page(harness.errors),
}
"""The text of each page, by the name of its file."""


def main(arguments: list[str], folder: Path = REFERENCE) -> int:
    """Write the pages, or compare them, and return the exit code: 1 if a page differs from the code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the pages of docs/reference from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page differs from the code")
    if not parser.parse_args(arguments).check:
        for name, page in PAGES.items():
            (folder / name).write_text(page(), encoding="utf-8")
        return 0
    differences = [line for name, page in PAGES.items() for line in difference(folder / name, page())]
    if differences:
        print("\n".join(differences))
        print(f"\ndocs/reference differs from the code. Run `{COMMAND}` and commit the result.", file=sys.stderr)
    return 1 if differences else 0


def difference(path: Path, wanted: str) -> list[str]:
    """Return the lines of a unified diff from a file to the text that it should have; none if they are equal."""
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    name = f"docs/reference/{path.name}"
    return list(
        difflib.unified_diff(found.splitlines(), wanted.splitlines(), f"{name}", f"{name} (from the code)", lineterm="")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
