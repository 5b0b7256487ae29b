"""The `harness data` commands for tokenizers: train-tokenizer, inspect-tokenizer, extend-tokenizer."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import DataError, UsageError
from harness.finite_range import FiniteRange
from harness.limits import MOST_COUNT, MOST_SPARE_IDS, MOST_THREADS, MOST_VOCABULARY
from harness.say import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_prep.tokenizers.extend_tokenizer import ExtensionReport
    from data_prep.tokenizers.tokenizer_report import ComparisonReport, TextReport, VocabularyReport
    from harness.tokenizers.tokenizer import Tokenizer

TEXT_KEY = click.option("--text-key", default="text", show_default=True, help="Key that holds the document.")
SHARE = click.option("--share", "shares", multiple=True, metavar="CHANNEL=WEIGHT", help="Default: 1 for each.")


@click.command("train-tokenizer")
@click.argument("inputs", metavar="[CHANNEL=]IN...", nargs=-1, required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="NAME.model or NAME.json.")
@click.option(
    "--vocab-size", type=click.IntRange(1, MOST_VOCABULARY), required=True, help="All ids; rounded up to 128s."
)
@SHARE
@click.option("--sample-characters", type=click.IntRange(1, MOST_COUNT), default=100_000_000, show_default=True)
@click.option(
    "--spare-ids",
    type=click.IntRange(0, MOST_SPARE_IDS),
    default=1000,
    show_default=True,
    help="Control symbols for later.",
)
@click.option("--user-words", type=click.Path(path_type=Path), help="File with a word per line: one token each.")
@click.option("--forbidden-words", type=click.Path(path_type=Path), help="File with a word per line: in no token.")
@click.option("--character-coverage", type=FiniteRange(0.5, 1), default=0.9995, show_default=True)
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), default=1, show_default=True)
@TEXT_KEY
def train_tokenizer(  # noqa: PLR0913 - one argument per option
    *,
    inputs: tuple[str, ...],
    output: Path,
    vocab_size: int,
    shares: tuple[str, ...],
    sample_characters: int,
    spare_ids: int,
    user_words: Path | None,
    forbidden_words: Path | None,
    character_coverage: float,
    threads: int,
    text_key: str,
) -> None:
    """Train a tokenizer on a sample of channels, and report on it.

    \b
    Example:
      harness data train-tokenizer zh=corpus/zh en=corpus/en code=corpus/code \\
          --share zh=4 --share en=4 --share code=2 --vocab-size 64000 --output tokenizer.model

    A name ending in .model makes SentencePiece BPE with byte fallback, .json byte-level BPE. Digits are split, text
    comes back byte for byte, the number of ids is a multiple of 128.
    """
    from data_prep.text.named_inputs import draw_samples, named_inputs, read_weight
    from data_prep.tokenizers.train_tokenizer import TrainerSettings, train
    from harness.tokenizers.tokenizer import open_tokenizer

    if output.suffix not in (".model", ".json"):
        raise UsageError(f"--output {output}: the name must end in .model (SentencePiece) or .json (byte-level BPE).")
    _require_new(output)
    settings = TrainerSettings(
        kind="sentencepiece" if output.suffix == ".model" else "byte-level",
        vocab_size=vocab_size,
        num_spare_ids=spare_ids,
        user_words=_read_words(user_words),
        forbidden_words=_read_words(forbidden_words),
        character_coverage=character_coverage,
        num_threads=threads,
    )
    samples = draw_samples(named_inputs(inputs), dict(map(read_weight, shares)), text_key, sample_characters)
    for name, documents in samples.items():
        say(f"sample of {name}: {len(documents):,} documents, {sum(map(len, documents)):,} characters", err=True)
    content = train((text for documents in samples.values() for text in documents), settings)
    _create(output, content)
    say(f"{output}: {len(content):,} bytes")
    _report(open_tokenizer(output), None, samples, as_json=False)


@click.command("inspect-tokenizer")
@click.argument("tokenizer", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="[CHANNEL=]IN...", nargs=-1, required=True)
@click.option("--against", type=click.Path(path_type=Path), help="Another tokenizer, to compare with.")
@SHARE
@click.option("--sample-characters", type=click.IntRange(1, MOST_COUNT), default=2_000_000, show_default=True)
@TEXT_KEY
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def inspect_tokenizer(  # noqa: PLR0913 - one argument per option
    *,
    tokenizer: Path,
    inputs: tuple[str, ...],
    against: Path | None,
    shares: tuple[str, ...],
    sample_characters: int,
    text_key: str,
    as_json: bool,
) -> None:
    """Report on a tokenizer: characters per token of each channel, odd tokens, the way back to the text.

    \b
    Examples:
      harness data inspect-tokenizer tokenizer.model zh=corpus/zh en=corpus/en
      harness data inspect-tokenizer extended.json zh=corpus/zh --against tokenizer.json

    Lost are characters that do not come back from the tokens, unknown are tokens that stand for no text.

    With --against, two tokenizers are compared on the same text: how many tokens each needs, and whether words are
    encoded in other ids (which breaks a model that has learnt the old ones).
    """
    from data_prep.text.named_inputs import draw_samples, named_inputs, read_weight
    from harness.tokenizers.tokenizer import open_tokenizer

    opened = open_tokenizer(tokenizer, needs_end=False)
    other = open_tokenizer(against, needs_end=False) if against else None
    samples = draw_samples(named_inputs(inputs), dict(map(read_weight, shares)), text_key, sample_characters)
    _report(opened, other, samples, as_json)


@click.command("extend-tokenizer")
@click.argument("tokenizer", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="[CHANNEL=]IN...", nargs=-1, required=True)
@click.option("--words", type=click.Path(path_type=Path), help="File with a word per line.")
@click.option(
    "--find", type=click.IntRange(1, MOST_VOCABULARY), metavar="N", help="Find the N words of each IN that save most."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="NAME.json or NAME.model, as TOKENIZER.")
@click.option("--sample-characters", type=click.IntRange(1, MOST_COUNT), default=2_000_000, show_default=True)
@TEXT_KEY
def extend_tokenizer(  # noqa: PLR0913 - one argument per option
    *,
    tokenizer: Path,
    inputs: tuple[str, ...],
    words: Path | None,
    find: int | None,
    output: Path,
    sample_characters: int,
    text_key: str,
) -> None:
    """Add words to a tokenizer, behind its own ids, and say what that changes.

    \b
    Examples:
      harness data extend-tokenizer tokenizer.json zh=corpus/zh en=corpus/en --words terms.txt --output extended.json
      harness data extend-tokenizer tokenizer.json th=corpus/th km=corpus/km --find 500 --output extended.json

    IN is text like what the model was trained on, and will be: words of it that are encoded in other ids afterwards are
    listed, because the model does not know them so. With --find, those words of each IN are added that save the most
    tokens. Extending a vocabulary usually costs more than it gains; look at the tokens saved before you pay with new
    embeddings.
    """
    from data_prep.text.named_inputs import draw_samples, named_inputs
    from data_prep.tokenizers.extend_tokenizer import extend, report_on_extension, require_better
    from data_prep.tokenizers.saving_words import saving_words
    from harness.tokenizers.document_symbols import SETTINGS_FILE
    from harness.tokenizers.tokenizer import open_tokenizer

    original = open_tokenizer(tokenizer, needs_end=False)
    ending = ".json" if original.kind == "hugging-face" else ".model"
    if output.suffix != ending:
        raise UsageError(f"--output {output}: the name must end in {ending}, because {original.path} is of that kind.")
    _require_new(output)
    if words is None and find is None:
        raise UsageError("there are no words to add. Give a file with --words, or --find N.")
    given = _read_words(words)
    samples = draw_samples(named_inputs(inputs), {}, text_key, sample_characters)
    found = (word for each in samples.values() for word in saving_words(each, original, find or 0))
    added = tuple(dict.fromkeys([*given, *found]))
    content = extend(original, added)
    settings = original.path.with_name(SETTINGS_FILE)
    beside = settings.read_bytes() if settings.is_file() else None  # which names the symbol that ends a document
    extended = _try(output.name, content, beside)  # nothing is written that has not been tried
    reports = {name: report_on_extension(each, extended, original, added) for name, each in samples.items()}
    require_better(reports, extended, original)
    _create(output, content)
    copied = output.with_name(SETTINGS_FILE)
    if beside is not None and not os.path.lexists(copied):
        _create(copied, beside)
        say(f"{copied}: as beside {original.path}")
    _print_added(output, added, extended, original)
    for name, report in reports.items():
        _print_extension(name, report)


def _try(name: str, content: bytes, settings: bytes | None) -> Tokenizer:
    """Return the tokenizer of a file that is not written yet."""
    from harness.tokenizers.document_symbols import SETTINGS_FILE
    from harness.tokenizers.tokenizer import open_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(content)
        if settings is not None:
            file.with_name(SETTINGS_FILE).write_bytes(settings)
        return open_tokenizer(file, needs_end=False)


def _print_added(output: Path, words: Sequence[str], extended: Tokenizer, original: Tokenizer) -> None:
    """Say what the new ids are for, and which words did not become one token."""
    from data_prep.tokenizers.extend_tokenizer import EXAMPLES_SHOWN, single

    new = set(range(original.vocab_size, extended.vocab_size))
    pieces = extended.pieces()
    spare = sum(pieces[number].is_control for number in new)
    say(
        f"{output}: {extended.vocab_size:,} ids: the {original.vocab_size:,} of {original.path}, {len(new) - spare:,} "
        f"for {len(words):,} words (behind a space, without one, and on the way to them), {spare:,} spare ids"
    )
    known, now = (set(single(tokenizer, words)) for tokenizer in (original, extended))
    for what, found in (
        ("are single tokens already", [word for word in words if word in known]),
        ("are not single tokens, because the tokenizer cuts inside them first", [w for w in words if w not in now]),
    ):
        if found:
            say(f"  {len(found):,} of the words {what}: {' '.join(map(repr, found[:EXAMPLES_SHOWN]))}")


def _require_new(output: Path) -> None:
    if os.path.lexists(output):
        raise UsageError(_exists(output))


def _exists(output: Path) -> str:
    return f"--output {output} exists. It stays as it is: choose another name, or delete it."


def _create(output: Path, content: bytes) -> None:
    """Write a file that is not there yet.

    Raises:
        UsageError: It came while this command worked.
        DataError: The disk refused.
    """
    from harness.run.files import create_file

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        create_file(output, content)
    except FileExistsError as error:
        raise UsageError(_exists(output)) from error
    except OSError as error:
        raise DataError(
            f"{output}: cannot be written ({error.strerror or error}). Make room, or name another."
        ) from error


def _read_words(file: Path | None) -> tuple[str, ...]:
    """Return the distinct lines of a file that are not blank; empty without a file.

    Raises:
        UsageError: It cannot be read.
    """
    if file is None:
        return ()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({error}). Give a UTF-8 file with one word per line.") from error
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _report(tokenizer: Tokenizer, other: Tokenizer | None, samples: dict[str, list[str]], as_json: bool) -> None:
    from data_prep.tokenizers.tokenizer_report import compare, report_on_text, report_on_vocabulary

    vocabulary = report_on_vocabulary(tokenizer)
    texts = [report_on_text(name, documents, tokenizer) for name, documents in samples.items()]
    comparisons = {name: compare(documents, tokenizer, other) for name, documents in samples.items()} if other else {}
    if as_json:
        found = {name: asdict(comparison) for name, comparison in comparisons.items()}
        content = {"vocabulary": asdict(vocabulary), "text": [asdict(text) for text in texts], "against": found}
        say(json.dumps(content, indent=1, ensure_ascii=False))
        return
    _print_text(texts)
    _print_vocabulary(vocabulary)
    for name, comparison in comparisons.items():
        _print_comparison(name, comparison)


def _print_text(texts: Sequence[TextReport]) -> None:
    from rich.table import Table

    from harness.screen import Screen

    table = Table(
        "channel",
        "characters",
        "tokens",
        "characters/token",
        "bytes/token",
        "byte pieces",
        "ids used",
        "changed",
        "lost",
        "unknown",
    )
    for text in texts:
        table.add_row(
            text.name,
            f"{text.characters:,}",
            f"{text.tokens:,}",
            f"{text.characters_per_token:.2f}",
            f"{text.bytes_per_token:.2f}",
            f"{text.byte_pieces_share:.2%}",
            f"{text.distinct_ids_share:.1%}",
            f"{text.changed_documents:,} of {text.documents:,}",
            f"{text.lost_share:.2%}",
            f"{text.unknown_tokens:,}",
        )
    Screen(width=None if sys.stdout.isatty() else 120).print(table)


def _print_vocabulary(vocabulary: VocabularyReport) -> None:
    multiple = "a multiple of 128" if vocabulary.is_multiple_of_128 else "NOT a multiple of 128"
    digits = "digits are split" if vocabulary.splits_digits else "digits are NOT split"
    say(
        f"{vocabulary.vocab_size:,} ids ({multiple}), {vocabulary.control_symbols:,} control symbols, {digits}, "
        f"end of document {'not known' if vocabulary.end_of_document_id is None else vocabulary.end_of_document_id}"
    )
    say("longest tokens: " + " ".join(repr(text) for text in vocabulary.longest))
    for text, reason in vocabulary.suspicious:
        say(f"  suspicious: {text!r}: {reason}")


def _print_comparison(name: str, comparison: ComparisonReport) -> None:
    say(f"{name}: {comparison.tokens_ratio:.3f} tokens for each token of the other")
    if comparison.changed_words:
        examples = " ".join(repr(word) for word in comparison.examples)
        say(
            f"  WARNING: {comparison.changed_words:,} of {comparison.words:,} words are encoded in other ids: a model "
            f"that was trained with the other tokenizer learnt other ids for them. For example {examples}"
        )
    else:
        say(f"  all {comparison.words:,} words are encoded in the same ids")


def _print_extension(name: str, report: ExtensionReport) -> None:
    from data_prep.tokenizers.extend_tokenizer import EXAMPLES_SHOWN

    saved = 1 - report.tokens_after / max(1, report.tokens_before)
    say(f"{name}: {report.tokens_before:,} tokens before, {report.tokens_after:,} after ({saved:.2%} fewer)")
    if report.changed:
        examples = " ".join(repr(word) for word in report.changed[:EXAMPLES_SHOWN])
        say(
            f"  WARNING: {len(report.changed):,} of {report.words:,} words that were not added are encoded in other "
            f"ids: a model that was trained with the original learnt other ids for them. For example {examples}"
        )
    else:
        say(f"  all {report.words:,} words that were not added are encoded in the same ids")
