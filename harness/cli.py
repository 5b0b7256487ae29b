"""The `harness` command: its verbs. Each imports its module only when it is called."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import difflib
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from harness.disk_errors import disk_problem
from harness.errors import EXIT_INTERNAL, EXIT_USAGE, HarnessError, UsageError
from harness.finite_range import FiniteRange
from harness.limits import MOST_RANKS, MOST_STEPS
from harness.missing_package import describe_missing
from harness.say import complain, say
from harness.standard_streams import drop_unread_output, open_standard_streams
from harness.text import is_unicode

EXIT_INTERRUPTED = 130

Function = TypeVar("Function", bound=Callable[..., Any])


class VerbGroup(click.Group):
    """A group that suggests the closest verb for a wrong one, and imports the verbs of other packages on demand."""

    elsewhere: Mapping[str, str] = {}
    """Verbs of other packages: name to `module:attribute`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help if there is no verb, and leave with an error, so that a script that forgot the verb notices."""
        if not args:
            say(ctx.get_help(), err=True)
            ctx.exit(EXIT_USAGE)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the verbs, in the order of the help."""
        return [*self.commands, *self.elsewhere]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb of that name."""
        if cmd_name not in self.elsewhere:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.elsewhere[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb at the beginning of the arguments."""
        verbs = self.list_commands(ctx)
        if args[0].startswith("-") or args[0] in verbs:
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(args[0], verbs, n=1)
        advice = f"Did you mean '{close[0]}'?" if close else f"Verbs: {', '.join(verbs)}."
        raise click.UsageError(f"There is no verb '{args[0]}'. {advice}", ctx)


class RootGroup(VerbGroup):
    """The verbs of `harness` that other packages define."""

    elsewhere: Mapping[str, str] = {
        "convert": "checkpoint_tools.convert_verbs:convert",
        "preflight": "harness.launch.launch_verbs:preflight",
        "launch": "harness.launch.launch_verbs:launch",
        "status": "harness.launch.launch_verbs:status",
        "diagnose": "harness.launch.launch_verbs:diagnose",
        "alerts": "harness.alerts.alerts_verb:alerts",
        "replay": "harness.watch.watch_verbs:replay",
        "signal": "harness.run.commands.signal_verb:signal",
        "watch": "harness.watch.watch_verbs:watch",
    }


class DataGroup(VerbGroup):
    """The verbs of `harness data`."""

    elsewhere: Mapping[str, str] = {
        "tokenize": "data_prep.verbs.data_verbs:tokenize",
        "append": "data_prep.verbs.append_verb:append",
        "verify": "data_prep.verbs.channel_verbs:verify",
        "count": "data_prep.verbs.channel_verbs:count",
        "ledger": "harness.usage.ledger_verb:ledger",
        "quarantine": "harness.usage.quarantine_verb:quarantine",
        "show": "data_prep.verbs.channel_verbs:show",
        "where": "harness.usage.steps_verbs:where",
        "sample": "data_prep.verbs.channel_verbs:sample",
        "merge": "data_prep.verbs.combine_verbs:merge",
        "mix": "data_prep.verbs.combine_verbs:mix",
        "prepare": "data_prep.verbs.prepare_verb:prepare",
        "extract": "data_prep.verbs.corpus_verbs:extract",
        "clean": "data_prep.verbs.corpus_verbs:clean",
        "dedup": "data_prep.verbs.corpus_verbs:dedup",
        "order": "data_prep.verbs.corpus_verbs:order",
        "split": "data_prep.verbs.split_verb:split",
        "train-tokenizer": "data_prep.verbs.tokenizer_verbs:train_tokenizer",
        "inspect-tokenizer": "data_prep.verbs.tokenizer_verbs:inspect_tokenizer",
        "extend-tokenizer": "data_prep.verbs.tokenizer_verbs:extend_tokenizer",
    }


class CheckpointGroup(VerbGroup):
    """The verbs of `harness checkpoint`."""

    elsewhere: Mapping[str, str] = {
        "list": "harness.run.checkpoints.checkpoint_verbs:list_checkpoints",
        "verify": "harness.run.checkpoints.checkpoint_verbs:verify",
        "inspect": "checkpoint_tools.compare_verb:inspect",
        "diff": "checkpoint_tools.compare_verb:diff",
        "pin": "harness.run.checkpoints.checkpoint_verbs:pin",
        "unpin": "harness.run.checkpoints.checkpoint_verbs:unpin",
        "sign": "harness.run.checkpoints.checkpoint_verbs:sign",
        "prune": "harness.run.checkpoints.checkpoint_verbs:prune",
    }


CONFIG = click.argument("config", type=click.Path(path_type=Path))


def set_option(function: Function) -> Function:
    """Add the option `--set KEY=VALUE`, which may be repeated."""
    words = "Override one value, for example model.num_layers=4 or phases.0.seq_length=64. May be given repeatedly."
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=words)(function)


@click.group(cls=RootGroup)
@click.version_option(package_name="harness")
def root() -> None:
    """Pretrain language models with Megatron-Core: a run is a folder, described by one YAML.

    \b
    Start here:
      harness doctor                               what this machine has
      harness plan model_configs/tiny.yaml         what would be trained, and where it fits
      harness train model_configs/tiny.yaml        train it
      harness signal runs/tiny save-and-stop       leave, to go on later
    """


@root.command()
@CONFIG
@click.option("--run-dir", type=click.Path(path_type=Path), help="Directory of the run. Default: runs/<run.name>.")
@set_option
@click.option(
    "--resume",
    type=click.Choice(["auto", "must", "never"]),
    default="auto",
    show_default=True,
    help="Go on from the newest good checkpoint if there is one (auto), or refuse without one (must), or start anew.",
)
@click.option(
    "--rollback-to", type=click.IntRange(0, MOST_STEPS), metavar="STEP", help="Return to this checkpoint first."
)
@click.option(
    "--skip-steps", metavar="A:B", help="With --rollback-to: never train again on the samples of steps A to B."
)
def train(
    config: Path,
    run_dir: Path | None,
    overrides: tuple[str, ...],
    resume: str,
    rollback_to: int | None,
    skip_steps: str | None,
) -> int:
    """Train the run that the YAML file CONFIG describes.

    Under torchrun or srun it uses their ranks; started alone it starts the workers that the layout needs.

    \b
    Examples:
      harness train model_configs/tiny.yaml
      harness train model_configs/tiny.yaml --set optimizer.learning_rate=1e-3 --run-dir runs/tiny-lr1e-3
      harness train model_configs/tiny.yaml --rollback-to 4000 --skip-steps 4100:4299
      torchrun --nproc-per-node 8 -m harness.cli train model_configs/llama3_8b.yaml
    \b
    Exit codes:
      0 finished   64 wrong configuration   65 bad data or checkpoint   70 internal error
      75 stopped before the end, start it again   76 stopped, a person must look   77 stopped by a person
    """
    from harness.launch.local import train as start

    if rollback_to is not None:
        from harness.launch.rollback_option import give_rollback
        from harness.run.commands.signal_verb import Pair

        skipped = Pair()(skip_steps) if skip_steps is not None else None
        give_rollback(config, run_dir, overrides, rollback_to, skipped)
    elif skip_steps is not None:
        raise click.UsageError("--skip-steps belongs to --rollback-to; data.skip_windows skips from the start")
    return start(config, run_dir, overrides, resume)


@root.command()
@CONFIG
@click.option(
    "--gpus", "num_gpus", type=click.IntRange(1, MOST_RANKS), help="GPUs in all. Default: as few as the layout needs."
)
@click.option("--gpu", help="Kind of GPU, for memory and speed. Default: h100.")
@click.option(
    "--mfu",
    "mfu_pct",
    type=FiniteRange(min=0, max=100, min_open=True),
    metavar="PCT",
    help="Share of the GPU's peak in percent, for the estimate of time. Default: 40.",
)
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="OUT.png", help="Also draw the phases as a PNG.")
@click.option("--trace", is_flag=True, help="Also run a step of every stage without a GPU and values, and measure it.")
def plan(  # noqa: PLR0913 (one argument per option)
    config: Path,
    num_gpus: int | None,
    gpu: str | None,
    mfu_pct: float | None,
    overrides: tuple[str, ...],
    as_json: bool,
    plot: Path | None,
    trace: bool,
) -> None:
    """Show what follows from CONFIG, and which layouts are legal.

    Parameters, layers of every stage, FLOPs, memory; of every phase steps, learning rate, batch size, tokens of each
    channel, and epochs where the data is there. Exits with 64 if a layout is not legal, or a channel has too few
    tokens for its max_epochs.

    With --trace the real model, schedule and optimizer take a step on torch's meta device, where tensors have shapes
    and no values: one rank of each pipeline stage, some seconds each. It shows the memory at the peak by the line of
    code that made it, beside the estimate, and where the host waits for the device. Needs megatron-core and no GPU.

    \b
    Examples:
      harness plan model_configs/tiny.yaml
      harness plan model_configs/llama3.2_1b.yaml --gpus 8 --trace
      harness plan model_configs/llama3_8b.yaml --gpus 64 --gpu h100 --mfu 45
      harness plan model_configs/tiny_phases.yaml --plot plan.png
      harness plan model_configs/tiny.yaml --set parallel.tensor_model_parallel_size=4 --json
    """
    from harness.config.load import load_config
    from harness.plan.plan_text import print_plan

    if trace:
        from harness.trace.trace_text import trace_for_plan

        print_plan(load_config(config, overrides), num_gpus, gpu, as_json, plot, trace_for_plan, mfu_pct)
    else:
        print_plan(load_config(config, overrides), num_gpus, gpu, as_json, plot, mfu_pct=mfu_pct)


@root.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def doctor(as_json: bool) -> int:
    """Show what this machine has, lacks, or has wrong for training.

    Exits with 64 if something is wrong, with 0 if at most something optional is missing.

    \b
    Examples:
      harness doctor
      harness doctor --json | jq .findings
    """
    from harness.doctor import doctor_text as report
    from harness.doctor.facts import gather
    from harness.doctor.findings import findings

    found = findings(gather(Path.cwd()))
    if as_json:
        say(report.as_json(found))
    elif sys.stdout.isatty():
        report.show_table(found)
    else:
        say(report.as_lines(found))
    return 0 if report.is_healthy(found) else EXIT_USAGE


@root.command()
def schema() -> None:
    """Print the JSON Schema of a configuration, for editors.

    \b
    Example:
      harness schema > config.schema.json
    """
    from harness.config.schema import Config

    say(json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False))


@root.group(cls=DataGroup)
def data() -> None:
    """Prepare data: from text to channels.

    \b
    Example:
      harness data tokenize corpus/zh/ --tokenizer tokenizer.model --channel zh --output data
    """


@root.group(cls=CheckpointGroup)
def checkpoint() -> None:
    """Manage the checkpoints of a run.

    \b
    Example:
      harness checkpoint list runs/tiny
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Errors are written to standard error."""
    try:
        _require_utf8(arguments)
        code = root.main(list(arguments), prog_name="harness", standalone_mode=False)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        advice = f" (see '{context.command_path} --help')" if context else ""
        return _complain(f"{error.format_message()}{advice}", EXIT_USAGE)
    except HarnessError as error:
        return _complain(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except ImportError as error:
        if (missing := describe_missing(error)) is None:
            traceback.print_exc()
            return EXIT_INTERNAL
        return _complain(missing, EXIT_USAGE)
    except OSError as error:
        if (problem := disk_problem(error, arguments)) is None:
            traceback.print_exc()
            return EXIT_INTERNAL
        return _complain(*problem)
    except Exception:  # noqa: BLE001 (whatever it is, it is a bug, and its exit code must say so)
        traceback.print_exc()
        return EXIT_INTERNAL
    return code if isinstance(code, int) else 0


def _require_utf8(arguments: Sequence[str]) -> None:
    """Refuse what neither messages nor records could hold.

    Raises:
        UsageError: An argument is not UTF-8.
    """
    odd = next((argument for argument in arguments if not is_unicode(argument)), None)
    if odd is not None:
        raise UsageError(f"argument {odd} is not UTF-8. Give text as UTF-8; rename a file or a folder of such a name.")


def main() -> NoReturn:
    """Run the `harness` command."""
    open_standard_streams()
    exit_code = run(sys.argv[1:])
    drop_unread_output()
    sys.exit(exit_code)


def _complain(text: str, exit_code: int) -> int:
    complain(text)
    return exit_code


if __name__ == "__main__":
    main()
