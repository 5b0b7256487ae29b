"""The `harness data` commands that drop documents before they are tokenized: clean, dedup."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_prep.clean_rules import Preset
    from data_prep.text_files import FileReport

INPUTS = click.argument("inputs", metavar="IN...", nargs=-1, required=True)
OUTPUT = click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
TEXT_KEY = click.option("--text-key", default="text", show_default=True, help="Key that holds the document.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@click.command()
@INPUTS
@OUTPUT
@click.option("--preset", type=click.Choice(["prose", "code", "light"]), default="prose", show_default=True)
@click.option("--spare-markup/--no-spare-markup", default=True, show_default=True, help="Spare code, Markdown, LaTeX.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Files cleaned at once.")
@TEXT_KEY
@JSON
def clean(  # noqa: PLR0913 - one argument per option
    *,
    inputs: tuple[str, ...],
    output: Path,
    preset: Preset,
    spare_markup: bool,
    workers: int,
    text_key: str,
    as_json: bool,
) -> None:
    """Drop documents that are not worth training on, by rules, and count what each rule drops.

    \b
    Examples:
      harness data clean raw/zh --output cleaned/zh
      harness data clean raw/code --preset code --workers 8 --output cleaned/code

    prose: for web text, English or Chinese. code: for source files. light: only what is broken, for books. Every file
    is written under its own name, kept lines unchanged; NAME.dropped says which lines went and why.
    Run the same command again after an interruption: files that are done are not done again.
    """
    from rich.console import Console

    from data_prep.clean import CleanJob, clean_files
    from data_prep.input_files import file_bytes, find_inputs
    from harness.progress import shown

    files = find_inputs(inputs)
    job = CleanJob(
        inputs=files,
        folder=output,
        preset=preset,
        text_key=text_key,
        spare_markup=spare_markup,
        num_workers=workers,
    )
    with shown(f"clean {output.name}", sum(map(file_bytes, files)), Console(stderr=True)) as progress:
        reports = clean_files(job, progress)
    _print_reports(output, reports, as_json)


@click.command()
@INPUTS
@OUTPUT
@click.option("--method", type=click.Choice(["minhash", "exact"]), default="minhash", show_default=True)
@click.option(
    "--threshold", type=click.FloatRange(0.3, 0.99), default=0.8, show_default=True, help="Jaccard similarity."
)
@TEXT_KEY
@JSON
def dedup(  # noqa: PLR0913 - one argument per option
    *,
    inputs: tuple[str, ...],
    output: Path,
    method: Literal["exact", "minhash"],
    threshold: float,
    text_key: str,
    as_json: bool,
) -> None:
    """Keep the first of every group of equal or nearly equal documents.

    \b
    Examples:
      harness data dedup cleaned/zh --output deduped/zh
      harness data dedup cleaned/code --method exact --output deduped/code

    The threshold is the similarity at which half of the pairs are found. Give all files that shall have no copies of
    each other in one call, the best first.
    """
    from rich.console import Console

    from data_prep.dedup import DedupJob, dedup_files
    from data_prep.input_files import file_bytes, find_inputs
    from harness.progress import shown

    files = find_inputs(inputs)
    job = DedupJob(inputs=files, folder=output, method=method, threshold=threshold, text_key=text_key)
    total = 2 * sum(map(file_bytes, files))
    with shown(f"dedup {output.name}", total, Console(stderr=True)) as progress:
        reports = dedup_files(job, progress)
    _print_reports(output, reports, as_json)


def _print_reports(folder: Path, reports: Sequence[FileReport], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(report) for report in reports], ensure_ascii=False, indent=1))
        return
    documents, kept = sum(report.documents for report in reports), sum(report.kept for report in reports)
    characters = sum(report.characters for report in reports)
    kept_characters = sum(report.kept_characters for report in reports)
    click.echo(
        f"{folder}: kept {kept:,} of {documents:,} documents ({_percent(kept, documents)}), "
        f"{kept_characters:,} of {characters:,} characters ({_percent(kept_characters, characters)})"
    )
    dropped: dict[str, int] = {}
    for report in reports:
        for reason, count in report.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    for reason, count in sorted(dropped.items(), key=lambda entry: -entry[1]):
        click.echo(f"  {reason}: {count:,} ({_percent(count, documents)})")


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "0.00%"
