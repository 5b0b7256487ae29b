"""The `harness data` command that adds words to a tokenizer: extend-tokenizer."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import UsageError

if TYPE_CHECKING:
    from data_prep.tokenizers.extend_tokenizer import ExtensionReport


@click.command("extend-tokenizer")
@click.argument("tokenizer", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="[CHANNEL=]IN...", nargs=-1, required=True)
@click.option("--words", type=click.Path(path_type=Path), required=True, help="File with a word per line.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Same ending as TOKENIZER.")
@click.option("--sample-characters", type=click.IntRange(min=1), default=2_000_000, show_default=True)
@click.option("--text-key", default="text", show_default=True, help="Key that holds the document.")
def extend_tokenizer(
    *, tokenizer: Path, inputs: tuple[str, ...], words: Path, output: Path, sample_characters: int, text_key: str
) -> None:
    """Add words to a tokenizer, behind its own ids, and say what that changes.

    \b
    Example:
      harness data extend-tokenizer tokenizer.json zh=corpus/zh en=corpus/en --words terms.txt --output extended.json

    IN is text like what the model was trained on: words of it that are encoded in other ids afterwards are listed,
    because the model does not know them so. Extending a vocabulary usually costs more than it gains; look at the tokens
    saved before you pay with new embeddings.
    """
    from data_prep.text.named_inputs import draw_samples, named_inputs
    from data_prep.tokenizers.extend_tokenizer import extend, report_on_extension
    from data_prep.verbs.tokenizer_verbs import read_words
    from harness.data.tokenizers.tokenizer import open_tokenizer
    from harness.run.files import replace_file

    original = open_tokenizer(tokenizer)
    if output.suffix != original.path.suffix:
        raise UsageError(f"--output {output}: the name must end in {original.path.suffix}, as {original.path} does.")
    if output.exists():
        raise UsageError(f"--output {output} exists. It stays as it is: choose another name, or delete it.")
    added = read_words(words)
    samples = draw_samples(named_inputs(inputs), {}, text_key, sample_characters)
    content = extend(original, added)
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, content)
    extended = open_tokenizer(output)
    click.echo(
        f"{output}: {extended.vocab_size:,} ids: the {original.vocab_size:,} of {original.path}, {len(added):,} words, "
        f"{extended.vocab_size - original.vocab_size - len(added):,} spare ids"
    )
    for name, documents in samples.items():
        _print_report(name, report_on_extension(documents, extended, original, added))


def _print_report(name: str, report: ExtensionReport) -> None:
    from data_prep.tokenizers.extend_tokenizer import EXAMPLES_SHOWN

    saved = 1 - report.tokens_after / max(1, report.tokens_before)
    click.echo(f"{name}: {report.tokens_before:,} tokens before, {report.tokens_after:,} after ({saved:.2%} fewer)")
    if report.changed:
        examples = " ".join(repr(word) for word in report.changed[:EXAMPLES_SHOWN])
        click.echo(
            f"  WARNING: {len(report.changed):,} of {report.words:,} words that were not added are encoded in other "
            f"ids: a model that was trained with the original learnt other ids for them. For example {examples}"
        )
    else:
        click.echo(f"  all {report.words:,} words that were not added are encoded in the same ids")
