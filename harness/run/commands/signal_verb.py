"""The verb `harness signal`: a person gives a run a command."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import UsageError
from harness.finite_range import FiniteRange
from harness.limits import MOST_SECONDS, MOST_STEPS, MOST_TOKENS
from harness.run.commands.kinds import GIVEN_BY_PEOPLE, CommandKind
from harness.say import say

if TYPE_CHECKING:
    from harness.run.commands.requests import AnyRequest


class Pair(click.ParamType):  # type: ignore[type-arg] # generic only in the newest click
    """Two numbers, written `A:B`."""

    name = "A:B"

    def __init__(self, number: type[int] | type[float] = int) -> None:
        self._number = number

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 (click's)
        """Return the pair of numbers that a text stands for."""
        first, colon, second = str(value).partition(":")
        try:
            pair = self._number(first), self._number(second)
            if max(map(abs, pair)) > MOST_TOKENS:
                raise ValueError  # nothing here counts so far, and `int` takes any length
            return pair
        except ValueError:
            example = "116:183" if self._number is int else "0.9:0.95"
            raise click.BadParameter(f"{value!r} is not a pair of numbers A:B, such as {example}", ctx, param) from None


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("command", type=click.Choice([str(kind) for kind in GIVEN_BY_PEOPLE]))
@click.option("--reason", default="", help="Why; it is kept with the command and in the run's events.")
@click.option("--wait", is_flag=True, help="Wait until the command was carried out, and say what came of it.")
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(0, MOST_SECONDS),
    default=600.0,
    show_default=True,
    help="Seconds to wait at most.",
)
@click.option(
    "--to-step",
    type=click.IntRange(0, MOST_STEPS),
    help="rollback: to the checkpoint of this step, whatever its health.",
)
@click.option(
    "--before-step",
    type=click.IntRange(0, MOST_STEPS),
    help="rollback: to the newest clean checkpoint of an earlier step.",
)
@click.option("--skip-steps", type=Pair(), help="rollback: never train again on the samples of steps A to B.")
@click.option("--skip-samples", type=Pair(), help="rollback: nor on the samples A up to B of the run's order.")
@click.option(
    "--learning-rate-factor",
    type=FiniteRange(0, 10, min_open=True),
    help="rollback: factor of the learning rate for some steps.",
)
@click.option("--adam-betas", type=Pair(float), help="rollback: betas of Adam for some steps.")
@click.option("--for-steps", type=click.IntRange(1, MOST_STEPS), help="rollback: how many steps these two last.")
@click.option("--steps", type=Pair(), help="evidence: the steps whose samples are examined, A to B.")
def signal(run_dir: Path, command: str, reason: str, wait: bool, timeout_s: float, **fields: object) -> None:
    """Give a command to the run that trains in RUN_DIR.

    It takes effect at the end of the step. save goes on afterwards; stop leaves without saving; save-and-stop saves
    and leaves, to be resumed. `touch RUN_DIR/signals/save` does the same. rollback returns to a checkpoint without
    restarting; evidence writes down what the samples of some steps lose now.

    \b
    Examples:
      harness signal runs/tiny save --wait
      harness signal runs/tiny save-and-stop --reason "maintenance at noon"
      harness signal runs/tiny rollback --before-step 4012 --skip-steps 4000:4199 --reason "garbled part-00007"
      harness signal runs/tiny evidence --steps 4008:4012 --wait
    """
    from harness.run.commands.giving import give, wait_for
    from harness.run.paths import RunDir

    request = _request(CommandKind(command), {name: value for name, value in fields.items() if value is not None})
    file = give(RunDir(run_dir), request, reason)
    if wait:
        outcome = wait_for(RunDir(run_dir), file, timeout_s=timeout_s)
        say("\n".join(f"{name}: {value}" for name, value in outcome.items()))
    else:
        say(f"command given: {file}")


def _request(kind: CommandKind, fields: Mapping[str, Any]) -> AnyRequest:
    """Return the request that the options make.

    Raises:
        UsageError: An option belongs to another command, or together they make no sense.
    """
    from harness.run.commands.requests import UnreadableCommandError, fields_of, make_request

    allowed = fields_of(kind)
    if stray := sorted(fields.keys() - set(allowed)):
        words = f"allowed with it: {', '.join(map(_option, sorted(allowed)))}" if allowed else "it has none"
        raise UsageError(f"{_option(stray[0])} does not belong to the command {kind}; {words}")
    if kind is CommandKind.EVIDENCE and "steps" not in fields:
        raise UsageError("which steps? give --steps A:B, such as --steps 4008:4012")
    try:
        return make_request(kind, fields)
    except UnreadableCommandError as error:
        raise UsageError(str(error).replace('"', "").replace("_", "-")) from None


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"
