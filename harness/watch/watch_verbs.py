"""The verbs `harness replay` and `harness watch`."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import time
from pathlib import Path

import click

from harness.say import say

_EXISTING = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("files", nargs=-1, required=True, type=_EXISTING)
@click.option("--labels", type=_EXISTING, help="CSV with curve,direction,start,end: the events that should be found.")
@click.option("--json", "as_json", is_flag=True, help="Print events, rollbacks and the pooled score as JSON.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw curves, events and verdicts to a PNG."
)
def replay(files: tuple[Path, ...], labels: Path | None, as_json: bool, plot: Path | None) -> None:
    """Run the spike detector and the policy over recorded losses.

    FILES are metrics.jsonl, CSV (step,loss[,grad_norm][,lr], also .gz), TensorBoard event files, or run directories.
    The exit code is 0 whatever the score.

    \b
    Example:
      harness replay runs/demo/metrics.jsonl
      harness replay curves/*.csv.gz --labels curves/labels.csv --json
    """
    from harness.watch.replay import run_replay

    run_replay(files, labels, as_json, plot)


@click.command()
@click.argument("run_dirs", metavar="RUN_DIR...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--once",
    is_flag=True,
    help="Look once and leave, for cron; also at several runs, or at all in a folder. The next look goes on from "
    "there. A run that another watcher watches is left to it.",
)
@click.option(
    "--no-orders",
    is_flag=True,
    help="Only look: the run gets no command, not even for evidence, and nobody an alert. What is seen is printed, and "
    "written to watch/alerts.jsonl.",
)
@click.option("--test-alert", is_flag=True, help="Send a message to every place for alerts, and leave.")
@click.option(
    "--alert-url",
    "alert_urls",
    multiple=True,
    envvar="HARNESS_ALERT_URLS",
    help="Address of apprise, or a webhook of Feishu or DingTalk. Better in the environment variable "
    "HARNESS_ALERT_URLS (several with spaces between) than on the command line, where others can see it.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    envvar="HARNESS_METRICS_PORT",
    help="Serve the last numbers to Prometheus there. For the watcher of a Slurm job: HARNESS_METRICS_PORT.",
)
@click.option(
    "--metrics-host",
    default="127.0.0.1",
    show_default=True,
    envvar="HARNESS_METRICS_HOST",
    help="Who may ask: 0.0.0.0 is everybody, unprotected.",
)
@click.option(
    "--config", "config_file", type=_EXISTING, help="Configuration of the launch. Default: config.yaml in RUN_DIR."
)
def watch(  # noqa: PLR0913 (one argument per option)
    run_dirs: tuple[Path, ...],
    once: bool,
    no_orders: bool,
    test_alert: bool,
    alert_urls: tuple[str, ...],
    metrics_port: int | None,
    metrics_host: str,
    config_file: Path | None,
) -> None:
    """Watch the run in RUN_DIR for spikes, hangs and its end.

    It alerts people of spikes, finds the documents that caused them, and rolls the run back if that is allowed, by the
    `watch` section of the run's configuration. It also says when the run stands still, is held in Slurm's queue, or has
    ended. It ends when training has ended. If it is killed and started again, it goes on where it was and gives no
    command twice.

    \b
    Examples:
      harness watch runs/tiny
      harness watch runs/tiny --once --no-orders
      harness watch runs --once
      harness watch runs/tiny --metrics-port 9400
      harness watch runs/tiny --test-alert
    """
    from harness.errors import UsageError
    from harness.run.paths import RunDir
    from harness.run_state.finding import find_runs, is_run
    from harness.watch.daemon import look_at_each, try_alerts
    from harness.watch.daemon import watch as begin
    from harness.watch.exposition import Address

    def show(text: str) -> None:
        say(f"{time.strftime('%H:%M:%S')} {text}")

    if once and (len(run_dirs) > 1 or not is_run(run_dirs[0])):
        look_at_each(find_runs(run_dirs), may_command=not no_orders, alert_urls=alert_urls, show=show)
        return
    if len(run_dirs) > 1:
        raise UsageError(f"{len(run_dirs)} runs are named; a watcher watches one, and looks at several with --once")
    run_dir = RunDir(run_dirs[0])
    if test_alert:
        try_alerts(run_dir, config_file, alert_urls, say)
        return
    begin(
        run_dir,
        once=once,
        may_command=not no_orders,
        alert_urls=alert_urls,
        show=show,
        metrics_at=None if metrics_port is None else Address(metrics_port, metrics_host),
        config_file=config_file,
    )
