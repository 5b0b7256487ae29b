"""`harness data split`."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import shutil
from pathlib import Path

import click

from harness.errors import DataError
from harness.say import say
from harness.sole_writer import LOCK_FILE, partial_folder, refuse_links

MOST_LABELS = 500


@click.command()
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@click.option("--by", default="topic", show_default=True, help="Key of each record that holds the label.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option("--text-key", default="text", show_default=True, help="Key that holds the document.")
@click.option(
    "--most-labels",
    type=click.IntRange(1, MOST_LABELS),
    default=100,
    show_default=True,
    help="The most frequent labels get a folder each; documents of the others go to one called other.",
)
def split(*, inputs: tuple[str, ...], by: str, output: Path, text_key: str, most_labels: int) -> None:
    """Write documents into one folder for each label, so that each can become a channel.

    \b
    Examples:
      harness data split deduped/web --by topic --output topics
      harness data tokenize topics/history --tokenizer tokenizer.model --channel history --output data

    Lines stay as they are, in their order. Documents without a label go to the folder unlabelled. Letters and signs
    that no name of a channel has are replaced. An interrupted call leaves OUTPUT.partial behind: run it
    again.
    """
    from data_prep.text.input_files import find_inputs
    from data_prep.text.split_files import SplitJob, split_files
    from data_prep.text.write_errors import explaining_write_errors

    files = find_inputs(inputs)
    with explaining_write_errors(output, "Other folders"), partial_folder(output) as held:
        _clear(held.folder)
        job = SplitJob(files=files, folder=held.folder, by=by, text_key=text_key, most_labels=most_labels)
        result = split_files(job)
        if not result.shares:
            raise DataError(f"no document under the key {text_key!r} in the input. Check the path and --text-key.")
        held.publish(output)
    for name, share in result.shares.items():
        more = f", {len(share.labels):,} labels" if len(share.labels) > 1 else f" ({share.labels[0]})"
        shown = more if share.labels != (name,) and share.labels != ("",) else ""
        say(f"{output / name}: {share.documents:,} documents, {share.characters:,} characters{shown}")
    if result.rejected:
        say(f"{result.rejected:,} lines are not documents, and left out", err=True)


def _clear(folder: Path) -> None:
    """Remove what an interrupted call has left."""
    refuse_links(folder)
    for path in folder.iterdir():
        if path.name == LOCK_FILE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
