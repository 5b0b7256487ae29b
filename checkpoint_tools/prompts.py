"""The prompts of a proof: fixed tokens, and the positions at which both models take them to stand.

One prompt stands at positions 0, 1, 2 … as a text does. The other one leaves gaps: it begins at 0 and ends at the last
position that the model is meant for. A rotary position acts through its angle alone, so that 96 tokens far apart are
rotated exactly as those of a long text are, in every layer, at the cost of 96 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from checkpoint_tools.families.family import Fields
from checkpoint_tools.families.rotation import dynamic_scaling
from harness.config.model import ModelConfig
from harness.errors import CheckpointError

PROMPT_TOKENS = 96
_TOGETHER = 16
"""Tokens without gaps at either end of the prompt with gaps."""
_LEAST_LENGTH = 2 * _TOGETHER
"""Shorter texts would hardly show a rotation: one position alone shows none."""
_DEFAULT_LENGTH = 2048
"""The shortest default of the classes of transformers for `max_position_embeddings`."""
_MAX_LENGTH = 131_072
"""Further positions are left out: there the rounding of an angle in fp32 alone would be seen in the logits."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Token ids and their positions, `[B, S]` integers both; each prompt goes through a model alone."""

    tokens_BS: torch.Tensor
    positions_BS: torch.Tensor


def make_prompts(vocab_size: int, length: int) -> Prompts:
    """Return prompts whose ids look like noise and use the whole vocabulary, for a model of texts of a length."""
    size = min(PROMPT_TOKENS, length)
    numbers = torch.arange(2 * size, dtype=torch.int64)
    tokens = numbers * 2654435761 % 4294967291 % vocab_size
    return Prompts(
        tokens_BS=tokens.reshape(2, size), positions_BS=torch.stack((torch.arange(size), _with_gaps(size, length)))
    )


def longest_text(fields: Fields, model: ModelConfig) -> int:
    """Return the length up to which both models are compared: the whole context, at least twice what it grew from.

    Raises:
        CheckpointError: A dynamic scaling leaves no text that it does not stretch.
    """
    if model.max_position_embeddings is not None:
        return model.max_position_embeddings
    scaling = model.rope_scaling
    stretched = 2 * scaling.original_max_position_embeddings if scaling and scaling.type in ("llama3", "yarn") else 0
    length = int(fields.get("max_position_embeddings", _DEFAULT_LENGTH))
    if dynamic_scaling(fields) is None:
        length = max(length, _LEAST_LENGTH)
    elif length == 1:
        raise CheckpointError(
            "config.json says max_position_embeddings 1 with a dynamic rope_scaling: it stretches every text of two "
            "tokens or more, so no rotation can be proven."
        )
    return min(max(length, stretched), _MAX_LENGTH)


def _with_gaps(size: int, length: int) -> torch.Tensor:
    """Return `size` growing positions from 0 to `length` - 1."""
    ends = min(_TOGETHER, size // 2)
    between = torch.linspace(ends, length - ends - 1, size - 2 * ends, dtype=torch.float64).round().long()
    return torch.cat((torch.arange(ends), between, torch.arange(length - ends, length)))
