"""The verb `harness alerts`."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.say import say


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--acknowledge",
    "keys",
    multiple=True,
    metavar="KEY",
    help="Say that somebody takes care of this alert (`all`: of every one): it is not sent again. May be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def alerts(run_dir: Path, keys: tuple[str, ...], as_json: bool) -> None:
    """Show or acknowledge the alerts of the run in RUN_DIR.

    Shows those that are open, what waits to be delivered, and whether deliveries work.

    Each alert has a key, by which it is acknowledged. All alerts so far are in watch/alerts.jsonl.

    \b
    Examples:
      harness alerts runs/tiny
      harness alerts runs/tiny --acknowledge ended
    """
    from harness.alerts.acknowledging import acknowledge
    from harness.alerts.shown import alert_lines, alerts_shown
    from harness.run.paths import RunDir

    run = RunDir(run_dir)
    run.require_launched()
    if keys:
        for key in acknowledge(run, keys):
            say(f"acknowledged: {key}")
        return
    found = alerts_shown(run)
    say(json.dumps(found, indent=2) if as_json else "\n".join(alert_lines(found)) or "no alert is open")
