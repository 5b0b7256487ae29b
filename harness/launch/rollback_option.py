"""`harness train --rollback-to`: gives the command to roll back just before the start that carries it out."""

from __future__ import annotations

from pathlib import Path

from harness.config.load import load_config
from harness.errors import UsageError
from harness.launch.workers import write_to_stderr
from harness.parallel.environment import read_ranks
from harness.run.commands.giving import give_once, require_possible
from harness.run.commands.kinds import CommandKind
from harness.run.commands.requests import UnreadableCommandError, make_request
from harness.run.lock import owner_of
from harness.run.paths import RunDir


def give_rollback(
    config_path: Path,
    run_dir: Path | None,
    overrides: tuple[str, ...],
    to_step: int,
    skip_steps: tuple[int, int] | None,
) -> None:
    """Put the command into the run's mailbox, once: a job that is queued again does not roll back again.

    Raises:
        UsageError: There is no such run, somebody trains in it, or the command makes no sense.
    """
    ranks = read_ranks()
    if ranks is not None and ranks.rank != 0:
        return
    run = RunDir(run_dir) if run_dir is not None else RunDir.of_run(load_config(config_path, overrides).run.name)
    if not run.config.is_file():
        raise UsageError(f"--rollback-to: nothing was trained in {run.root} yet, so there is nothing to return to")
    if (owner := owner_of(run)) is not None:
        raise UsageError(
            f"--rollback-to: {owner} trains in {run.root}. It can roll back without a restart: "
            f"`harness signal {run.root} rollback --to-step {to_step}`"
        )
    try:
        request = make_request(CommandKind.ROLLBACK, {"to_step": to_step, "skip_steps": skip_steps})
    except UnreadableCommandError as error:
        raise UsageError(f"--rollback-to: {error}") from None
    require_possible(run, request)
    skipped = f"-skip-{skip_steps[0]}-{skip_steps[1]}" if skip_steps else ""
    if not give_once(run, f"rollback-to-{to_step:07d}{skipped}", request, "harness train --rollback-to"):
        write_to_stderr(f"the rollback to step {to_step} was commanded before; it is not carried out twice")
