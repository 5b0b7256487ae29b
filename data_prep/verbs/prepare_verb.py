"""`harness data prepare`."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True, help="Corpus file.")
@click.option("--source", "sources", multiple=True, help="Only this source. Repeatable.")
@click.option(
    "--until",
    type=click.Choice(["extract", "clean", "dedup", "order", "tokenize", "mix"]),
    default="mix",
    show_default=True,
    help="The last step.",
)
@click.option(
    "--executor",
    type=click.Choice(["local", "slurm", "ray"]),
    help="Where to run, in place of the setting in --config.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done and why, and change nothing.")
@click.option("--wait", is_flag=True, help="On Slurm: stay until all steps of all sources are done.")
@click.option(
    "--accept-loss", "accepts_loss", is_flag=True, help="Go on although a rule drops more than half of a source."
)
@click.option(
    "--replace-channels",
    "replaces_channels",
    is_flag=True,
    help="A channel that was made of something else is made anew, and the old one removed. No run may need it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables; the blend is left out.")
def prepare(
    *,
    config: Path,
    until: Literal["extract", "clean", "dedup", "order", "tokenize", "mix"],
    as_json: bool,
    dry_run: bool,
    sources: tuple[str, ...],
    **wanted: Any,  # noqa: ANN401 - fields of `Wanted`
) -> None:
    """Make the channels of a corpus file from its raw files: extract (pages), clean, dedup, order, tokenize, mix.

    A source is extracted, and put in an order, only where the file asks for it.

    \b
    Examples:
      harness data prepare --config corpus.yaml --dry-run
      harness data prepare --config corpus.yaml
      harness data prepare --config corpus.yaml --source zh --until dedup
      harness data prepare --config corpus.yaml --executor slurm --wait

    What is up to date is left alone. What was made of other files, settings or rules is made anew, and then what was
    made of that, unless the same came out; nothing else. The old result is kept aside until the new one is whole. Run
    the same command again after an interruption, or to see how far Slurm is. Files that have come in addition are
    cleaned alone, and added to the channel if what was in it is as it was. A channel is never replaced without
    --replace-channels (exit code 64).
    """
    from data_prep.prepare.run_prepare import Wanted, run_prepare

    last = "tokenize" if until == "mix" else until
    is_whole = run_prepare(config, Wanted(sources=sources, until=last, as_json=as_json, dry_run=dry_run, **wanted))
    if is_whole and until == "mix" and not sources and not as_json:
        _mix(config)


def _mix(config: Path) -> None:
    from data_prep.corpus.config import load_corpus
    from data_prep.verbs.combine_verbs import mix

    corpus = load_corpus(config)
    if corpus.mix is not None and corpus.tokenize is not None:
        mix.main(["--config", str(config)], standalone_mode=False)
