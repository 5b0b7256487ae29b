"""The command `harness replay`."""

from __future__ import annotations

from pathlib import Path

import click

_EXISTING = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("files", nargs=-1, required=True, type=_EXISTING)
@click.option("--labels", type=_EXISTING, help="CSV with curve,direction,start,end: the events that should be found.")
@click.option("--json", "as_json", is_flag=True, help="Print events, rollbacks and the pooled score as JSON.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw curves, events and verdicts to a PNG."
)
def replay(files: tuple[Path, ...], labels: Path | None, as_json: bool, plot: Path | None) -> None:
    r"""Run the spike detector and the rollback policy over recorded losses.

    FILES are metrics.jsonl, CSV (step,loss[,grad_norm][,lr], also .gz), TensorBoard event files, or run directories.
    The exit code is 0 whatever the score.

    \b
    Example:
      harness replay runs/demo/metrics.jsonl
      harness replay curves/*.csv.gz --labels curves/labels.csv --json
    """
    from harness.watch.replay import run_replay

    run_replay(files, labels, as_json, plot)
