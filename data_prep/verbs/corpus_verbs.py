"""The `harness data` commands for documents before they are tokenized: extract, clean, dedup, order."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from data_prep.verbs.judging_options import JUDGING, judging_settings
from harness.errors import UsageError
from harness.finite_range import FiniteRange
from harness.limits import MOST_SECONDS, MOST_SEED, MOST_THREADS

if TYPE_CHECKING:
    from pydantic import ValidationError

    from data_prep.corpus.config import CleanConfig, DedupConfig, DedupMethod, OrderConfig
    from data_prep.corpus.extract_config import ExtractConfig
    from data_prep.corpus.run_corpus import Verb
    from data_prep.text.clean_rules import Preset
    from harness.config.section import Section

WORKERS = click.option(
    "--workers", type=click.IntRange(1, MOST_THREADS), default=1, show_default=True, help="Files at once."
)
OF_EVERY_VERB = (
    click.argument("inputs", metavar="[IN]...", nargs=-1),
    click.option("--output", type=click.Path(path_type=Path), help="Folder for the files of IN."),
    click.option("--text-key", default="text", show_default=True, help="Key that holds the document."),
    click.option("--config", type=click.Path(path_type=Path), help="Corpus file, in place of IN."),
    click.option("--source", "sources", multiple=True, help="Only this source of --config. Repeatable."),
    click.option(
        "--executor",
        type=click.Choice(["local", "slurm", "ray"]),
        help="Where to run, in place of the setting in --config.",
    ),
    click.option("--wait", is_flag=True, help="On Slurm: stay until all jobs have ended."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
)


def verb(settings_of: Callable[..., Section]) -> Callable[..., None]:
    """Make a verb of a function that returns the settings of its step: add the options that all have, and run it."""
    name = cast("Verb", settings_of.__name__)

    @wraps(settings_of)
    def called(  # noqa: PLR0913 - one argument per option
        *,
        inputs: tuple[str, ...],
        output: Path | None,
        text_key: str,
        config: Path | None,
        sources: tuple[str, ...],
        executor: Literal["local", "slurm", "ray"] | None,
        wait: bool,
        as_json: bool,
        workers: int = 1,
        language_model: Path | None = None,
        accept_loss: bool = False,
        **settings: object,
    ) -> None:
        from pydantic import ValidationError

        from data_prep.corpus.config import SourceConfig
        from data_prep.corpus.run_corpus import Manner, one_source, run_corpus

        manner = Manner(as_json=as_json, wait=wait, accepts_loss=accept_loss)
        _check_inputs(inputs, output, config)
        if config is not None:
            run_corpus(name, config, sources=sources, executor=executor, manner=manner)
            return
        try:
            given = {"input": inputs, "text_key": text_key, name: settings_of(**settings)}
            source = SourceConfig.model_validate(given)
        except ValidationError as error:
            raise UsageError(_wrong_options(error)) from error
        one_source(name, source, output or Path(), workers=workers, language_model=language_model, manner=manner)

    for option in reversed(OF_EVERY_VERB):
        called = option(called)
    return called


@click.command()
@verb
@click.option(
    "--favor",
    type=click.Choice(["balance", "precision", "recall"]),
    default="balance",
    show_default=True,
    help="Where main text is hard to tell from the rest: precision leaves out, recall keeps.",
)
@click.option("--tables/--no-tables", default=True, show_default=True, help="Keep the text of tables of web pages.")
@click.option(
    "--seconds-per-page",
    type=FiniteRange(0.1, MOST_SECONDS),
    default=20,
    show_default=True,
    help="Limit of a page, and a second more for every 100 kB.",
)
@WORKERS
def extract(
    *, favor: Literal["balance", "precision", "recall"], tables: bool, seconds_per_page: float
) -> ExtractConfig:
    """Take the text out of web pages and books: HTML, WARC and PDF become lines of JSON.

    \b
    Examples:
      harness data extract raw/pages --output extracted/pages
      harness data extract crawl/*.warc.gz --favor precision --workers 8 --output extracted/crawl
      harness data extract --config corpus.yaml --executor slurm

    Main text of web pages by trafilatura, all text of PDF by PDFium. Each line has text, and what is known of url,
    id, title, date, language and time of the crawl. NAME.dropped lists what gave no text, with the reason: no page
    (an image, an error of the server), nothing in it, damaged, too large, too slow. A page is read in a child process
    within 1 GiB of memory; one that goes over a limit costs no other. Run the same command again after an interruption.
    """
    from data_prep.corpus.extract_config import ExtractConfig

    return ExtractConfig(favor=favor, tables=tables, seconds_per_page=seconds_per_page)


@click.command()
@verb
@click.option("--preset", type=click.Choice(["prose", "code", "light"]), default="prose", show_default=True)
@click.option("--spare-markup/--no-spare-markup", default=True, show_default=True, help="Spare code, Markdown, LaTeX.")
@click.option("--assume-language", metavar="CODE", help="Language of all documents (ilo); found for each if left out.")
@click.option("--language", "languages", multiple=True, help="Keep documents in this language (en, id). Repeatable.")
@click.option(
    "--language-model",
    type=click.Path(path_type=Path),
    help="fastText model for languages (lid.176.bin), in place of the packaged one.",
)
@click.option("--accept-loss", is_flag=True, help="Go on although a rule drops more than half of a source or language.")
@click.option(
    "--private-data", type=click.Choice(["replace", "keep"]), help="Default: replaced if the preset is prose."
)
@JUDGING
@WORKERS
def clean(
    *,
    preset: Preset,
    spare_markup: bool,
    assume_language: str | None,
    languages: tuple[str, ...],
    private_data: Literal["replace", "keep"] | None,
    **judging: Any,  # noqa: ANN401 - options of `JUDGING`
) -> CleanConfig:
    """Drop documents that are not worth training on, by rules, and count what each rule drops.

    \b
    Examples:
      harness data clean raw/zh --output cleaned/zh
      harness data clean raw/code --preset code --workers 8 --output cleaned/code
      harness data clean --config corpus.yaml --executor slurm

    prose: for web text, in any language; a rule that knows nothing of a language, or whose words do not fit what is
    taken for it, is not applied, and that is told. code: for source files. light: only what is broken, for books. Every
    file is written under its own name; lines without private data stay as they are; NAME.dropped says which lines went
    and why. --quality-model scores every document, and --banned-words looks for the words of your lists (both by
    language: --quality-threshold id=0.3). Where a rule drops more than half of a source, or of a language in it, the
    command stops with examples. Run the same command again after an interruption, or to see how far Slurm is: finished
    work is not repeated.
    """
    from data_prep.corpus.config import CleanConfig

    return CleanConfig(
        preset=preset,
        spare_markup=spare_markup,
        assume_language=assume_language,
        languages=languages or None,
        replace_private_data={None: None, "replace": True, "keep": False}[private_data],
        **judging_settings(**judging),
    )


@click.command()
@verb
@click.option(
    "--method",
    "methods",
    type=click.Choice(["exact", "minhash", "sentence"]),
    multiple=True,
    default=("minhash",),
    show_default=True,
    help="Repeatable: one after the other.",
)
@click.option("--threshold", type=FiniteRange(0.3, 0.99), default=0.8, show_default=True, help="Jaccard similarity.")
@click.option("--keep", metavar="SIZE", help="Leave at most 60% or 500B characters; picks the threshold.")
@WORKERS
def dedup(*, methods: tuple[DedupMethod, ...], threshold: float, keep: str | None) -> DedupConfig:
    """Keep the first of every group of equal or nearly equal documents.

    \b
    Examples:
      harness data dedup cleaned/zh --output deduped/zh
      harness data dedup cleaned/en --keep 60% --output deduped/en
      harness data dedup cleaned/code --method exact --output deduped/code
      harness data dedup --config corpus.yaml --executor slurm

    exact: equal texts. minhash: near copies; the threshold is the similarity at which half of the pairs are found.
    sentence: of a run of three sentences that occurs again only one stays. Give all files that must not hold copies of
    each other in one call, the best first.
    """
    from data_prep.corpus.config import DedupConfig

    return DedupConfig(methods=methods, threshold=threshold, keep=keep)


@click.command()
@verb
@click.option("--by", type=click.Choice(["score", "label", "similar", "shuffle"]), default="shuffle", show_default=True)
@click.option("--score-key", default="score", show_default=True, help="Key of each record that holds the number.")
@click.option("--label-key", default="topic", show_default=True, help="Key of each record that holds the label.")
@click.option("--descending", is_flag=True, help="The largest score first.")
@click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True)
def order(
    *, by: Literal["score", "label", "similar", "shuffle"], score_key: str, label_key: str, descending: bool, seed: int
) -> OrderConfig:
    """Write documents in another order: by a score or a label, like ones next to each other, or shuffled.

    \b
    Examples:
      harness data order deduped/zh --by similar --output ordered/zh
      harness data order deduped/en --by score --score-key difficulty --output ordered/en
      harness data order --config corpus.yaml --executor slurm

    tokenize keeps the order of documents. score: a curriculum, from the least to the largest number under a key of each
    record. label: equal labels next to each other, in the order of the alphabet. similar: clusters of TF-IDF vectors,
    from near to near. Memory grows with the number of documents, not with their length; the disk needs room for the
    text twice.
    """
    from data_prep.corpus.config import OrderConfig

    return OrderConfig(by=by, score_key=score_key, label_key=label_key, descending=descending, seed=seed)


def _wrong_options(error: ValidationError) -> str:
    """Return what is wrong with options, as the model of their values says it."""
    found = error.errors(include_url=False)
    return " ".join(
        f"--{str(each['loc'][-1] if each['loc'] else '').replace('_', '-')} {each['input']!r}: {each['msg']}."
        for each in found
    )


def _check_inputs(inputs: tuple[str, ...], output: Path | None, config: Path | None) -> None:
    if config is None and not (inputs and output):
        raise UsageError("give IN and --output, or --config with a corpus file.")
    if config is not None and (inputs or output):
        raise UsageError("IN and --output are for one source without a corpus file: leave them out, or --config.")
