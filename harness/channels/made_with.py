"""Checks that the channels of a run were made with its tokenizer, by what their `source.json` records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.channels.source import SOURCE_FILE, Source, read_source
from harness.config.phase_settings import evaluated_in
from harness.config.schema import Config
from harness.errors import DataError, UsageError
from harness.tokenizers.identity import TokenizerIdentity, difference, relation_to
from harness.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenizerFindings:
    """The result of a comparison of channels with a tokenizer."""

    problems: tuple[str, ...] = ()
    """Channels that were made with another one."""
    notes: tuple[str, ...] = ()
    """Differences that are allowed."""


def source_of(path: Path) -> Source | None:
    """Return the record of what made a channel folder, or of the folder that a part lies in, also behind a link.

    Raises:
        DataError: The record is unreadable.
    """
    binary = path.with_name(f"{path.name}.bin")
    folders = (path,) if path.is_dir() else (path.parent, binary.resolve().parent)
    found = next((folder for folder in folders if (folder / SOURCE_FILE).is_file()), None)
    recorded = None if found is None else read_source(found)
    return None if recorded is None else recorded.source


def paths_in_use(config: Config) -> dict[str, Path]:
    """Return the folders or prefixes that the phases of a run train on or evaluate, by the key that names each."""
    used = (
        name
        for index, phase in enumerate(config.phases)
        for name in (*phase.blend, *(phase.evaluation.channels or ()), *evaluated_in(config, index))
    )
    paths: dict[str, Path] = {}
    for name in dict.fromkeys(used):
        channel = config.data.channels[name]
        paths[f"data.channels.{name}"] = channel.path
        if channel.validation_path is not None:
            paths[f"data.channels.{name}.validation_path"] = channel.validation_path
    return paths


def compare_channels(
    paths: Mapping[str, Path], tokenizer: Tokenizer | TokenizerIdentity | None, name: str = "data.tokenizer"
) -> TokenizerFindings:
    """Compare channels with the tokenizer of a run; without one, with each other.

    Args:
        paths: Channel folders or prefixes, by what names them. Those without a record are passed over.
        tokenizer: The run's own, opened; or the one that its checkpoint records.
        name: What names the tokenizer.
    """
    sources: dict[str, Source] = {}
    problems: list[str] = []
    for key, path in paths.items():
        try:
            if (source := source_of(path)) is not None:
                sources[key] = source
        except DataError as error:
            problems.append(f"{key}: {error}")
    recorded = {key: source.tokenizer for key, source in sources.items()}
    notes = list(_different_ends(sources))
    if tokenizer is None and recorded:
        name, tokenizer = next(iter(recorded.items()))
    for key, found in recorded.items():
        if isinstance(tokenizer, TokenizerIdentity):
            if not found.is_same_as(tokenizer):
                reason = f"{name} has {tokenizer} (if one of them grew from the other, name it as data.tokenizer)"
                problems.append(_of_another(key, paths[key], found, reason))
        elif tokenizer is not None and (relation := relation_to(found, tokenizer)) != "same":
            if relation == "grown":
                notes.append(
                    f"{key}: {paths[key]} was made with the tokenizer of {found.vocab_size:,} ids from which {name} "
                    f"grew to {tokenizer.vocab_size:,}: its ids mean the same, text is cut as before"
                )
            else:
                problems.append(_of_another(key, paths[key], found, f"{name}: {difference(found, tokenizer)}"))
    return TokenizerFindings(problems=tuple(problems), notes=tuple(notes))


def _different_ends(sources: Mapping[str, Source]) -> Iterator[str]:
    ends = {key: source.end_of_document_id for key, source in sources.items()}
    if len(set(ends.values())) > 1:
        told = ", ".join(f"{key} with {'nothing' if end is None else end}" for key, end in ends.items())
        yield f"channels end their documents differently: {told}"


def require_tokenizer(path: Path, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return notes about a channel that is read with a tokenizer.

    Raises:
        UsageError: It was made with another one.
    """
    found = compare_channels({"the channel": path}, tokenizer, "--tokenizer")
    if found.problems:
        raise UsageError(f"{found.problems[0]}.")
    return found.notes


def _of_another(key: str, path: Path, found: TokenizerIdentity, reason: str) -> str:
    return (
        f"{key}: {path} was made with another tokenizer, {found}; {reason}. Its ids would mean other text: name the "
        "tokenizer that made it, or tokenize the text again"
    )
