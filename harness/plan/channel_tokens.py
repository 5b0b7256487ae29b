"""Counts what a channel has to train on now, from its list of parts and the end of its first index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.channels.channels import PARTS_FILE, bare_part, has_list, listed_parts
from harness.channels.held_out import held_out_of
from harness.channels.index_file import document_lengths, read_index_header
from harness.channels.parts import Part
from harness.config.phase_settings import evaluated_in
from harness.config.schema import ChannelConfig, Config
from harness.errors import DataError


@dataclass(frozen=True, kw_only=True)
class TrainTokens:
    """Tokens of a channel that are not held out."""

    by_part: tuple[int, ...]

    @property
    def total(self) -> int:
        """Tokens of one epoch."""
        return sum(self.by_part)

    def num_samples(self, seq_length: int) -> int:
        """Count the samples of one epoch whose documents are laid end to end: each part loses less than one."""
        return sum(num_end_to_end(tokens, seq_length) for tokens in self.by_part)


def num_end_to_end(num_tokens: int, seq_length: int) -> int:
    """Count the samples that tokens laid end to end make; the last label needs one token more."""
    return max(0, num_tokens - 1) // seq_length


def evaluated_channels(config: Config) -> list[str]:
    """Return the channels whose held-out loss a run is to give, in any phase."""
    names: dict[str, None] = {}
    for index in range(len(config.phases)):
        names |= dict.fromkeys(evaluated_in(config, index))
    return list(names)


def held_out_share(config: Config) -> float:
    """Return the share of each channel's first part that a run holds out: none where it evaluates nothing."""
    return config.evaluation.held_out_share if evaluated_channels(config) else 0.0


def tokens_to_train_on(channel: ChannelConfig, held_out_share: float) -> TrainTokens | None:
    """Return the tokens of one epoch without the held-out ones; None if the data cannot be read (yet)."""
    path = channel.path
    try:
        parts = listed_parts(path / PARTS_FILE) if has_list(path) else (bare_part(path),)
    except (OSError, DataError):
        return None
    if not parts:
        return None
    share = 0.0 if channel.validation_path is not None else held_out_share
    return TrainTokens(by_part=tuple(_without_held_out(parts, share)))


def _without_held_out(parts: Sequence[Part], share: float) -> list[int]:
    first, *others = parts
    try:
        header = read_index_header(first.idx_path) if share else None
        held_out = (
            0
            if header is None
            else held_out_of(
                first, share, "tokens", lambda begin, end: document_lengths(first.idx_path, header, begin, end)
            ).num_tokens
        )
    except DataError:  # it is reported where the files are checked
        held_out = int(share * first.num_tokens)
    return [first.num_tokens - held_out, *(part.num_tokens for part in others)]
