"""The verbs `harness launch`, `harness status`, `harness diagnose` and `harness preflight`."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.limits import MOST_NODES, MOST_ON_A_NODE
from harness.say import say

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("config", type=_PATH)
@click.option("--nodes", type=click.IntRange(1, MOST_NODES), help="Nodes (launch.nodes).")
@click.option(
    "--gpus-per-node",
    type=click.IntRange(0, MOST_ON_A_NODE),
    help="GPUs on every node, 0 for CPUs (launch.gpus_per_node).",
)
@click.option("--time", "time_limit", help="Time limit of one launch, such as 24:00:00 (launch.time_limit).")
@click.option("--partition", help="Partition (launch.partition).")
@click.option("--account", help="Account that is charged (launch.account).")
@click.option("--dependency", metavar="TYPE:JOB", help="Start after another job, such as afterany:4711.")
@click.option("--run-dir", type=_PATH, help="Directory of the run. Default: runs/<run.name>.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one value. May be repeated.")
@click.option("--dry-run", is_flag=True, help="Print what was checked and found good, and the command; queue nothing.")
@click.option("--test-alert", is_flag=True, help="First send a message to every place for alerts, which must take it.")
def launch(
    config: Path,
    run_dir: Path | None,
    overrides: tuple[str, ...],
    dependency: str | None,
    dry_run: bool,
    test_alert: bool,
    **settings: int | str | None,
) -> None:
    """Queue the run of CONFIG with Slurm, to the end of all steps.

    The job is requeued by itself until the run is done. Everything that can be checked here is checked first. After
    time limits, preemption, dead nodes and failures the job is requeued and resumes at the last checkpoint; it stops
    when the run is finished, when a person stops it, or when nothing new is saved any more. Defaults are in the
    section `launch` of CONFIG.

    \b
    Examples:
      harness launch model_configs/llama3_8b.yaml --nodes 16
      harness launch model_configs/llama3_8b.yaml --nodes 16 --time 2-00:00:00 --partition long --dry-run
      harness launch model_configs/llama3_8b.yaml --nodes 16 --test-alert
    """
    from harness.launch.submission import SOURCE, Options
    from harness.launch.submission import launch as queue

    given = [f"launch.{name}={json.dumps(value)}" for name, value in settings.items() if value is not None]
    options = Options(run_dir=run_dir, dependency=dependency, dry_run=dry_run, test_alert=test_alert)
    queue(config, (*overrides, *given), options, say, SOURCE / "slurm")


@click.command()
@click.argument("config", type=_PATH)
@click.option("--nodes", type=click.IntRange(1, MOST_NODES), help="Nodes (launch.nodes).")
@click.option("--run-dir", type=_PATH, help="Directory of the run. Default: runs/<run.name>.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one value. May be repeated.")
def preflight(config: Path, nodes: int | None, run_dir: Path | None, overrides: tuple[str, ...]) -> None:
    """Check CONFIG as `harness launch` does, and queue nothing.

    Layout, tokenizer, parts of the channels, free space, lead time, waiting commands. Exits with 64 if something is
    wrong. The nodes themselves are checked in the first minute of the job (launch.check_nodes).

    \b
    Example:
      harness preflight model_configs/llama3_8b.yaml --nodes 16
    """
    from harness.launch.submission import Options
    from harness.launch.submission import preflight as look

    given = () if nodes is None else (f"launch.nodes={nodes}",)
    request = look(config, (*overrides, *given), Options(run_dir=run_dir), say)
    say(f"ready to launch: {request.nodes} nodes, {request.world_size} ranks, in {request.run_dir.root}")


@click.command()
@click.argument("run_dirs", metavar="RUN_DIR...", type=_PATH, nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def status(run_dirs: tuple[Path, ...], as_json: bool) -> None:
    """Show where the run in RUN_DIR is; of several runs a table.

    State and its reason, first cause of a failure, step, age of the last step, speed, time left, job, watcher, open
    alerts, last events. It reads files, and asks Slurm only about a job that gives no sign of life.

    \b
    Examples:
      harness status runs/tiny
      harness status runs/tiny --json | jq .time_left_s
      harness status runs
    """
    import json

    from harness.launch.runs import runs_text, statuses_of
    from harness.launch.status import status_of, status_text, status_to_json
    from harness.run.paths import RunDir
    from harness.run_state.finding import is_run

    if len(run_dirs) == 1 and is_run(run_dirs[0]):
        found = status_of(RunDir(run_dirs[0]))
        say(json.dumps(status_to_json(found), indent=2) if as_json else status_text(found))
        return
    runs = statuses_of(run_dirs)
    say(json.dumps([status_to_json(run) for run in runs], indent=2) if as_json else runs_text(runs))


@click.command()
@click.argument("run_dir", type=_PATH)
@click.option("--stacks", is_flag=True, help="First have the stacks of all ranks written down (needs py-spy there).")
def diagnose(run_dir: Path, stacks: bool) -> None:
    """Show which ranks delay the run in RUN_DIR.

    Prints their hosts and processes, their step and activity, and since when; slow devices and file systems; and, if
    stacks and last collectives were written down, the ranks that have not joined a collective in which others wait.

    \b
    Examples:
      harness diagnose runs/tiny
      harness diagnose runs/tiny --stacks
    """
    from harness.launch.diagnosis import ask_for_stacks, diagnosis_text
    from harness.run.paths import RunDir

    if stacks:
        ask_for_stacks(RunDir(run_dir), lambda text: say(text, err=True))
    say(diagnosis_text(RunDir(run_dir)))
