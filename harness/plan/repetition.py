"""Says when text is repeated too often to teach much.

By Muennighoff et al., "Scaling Data-Constrained Language Models" (2023), up to about 4 passes over the same text are
nearly as good as new text, and beyond about 16 almost nothing is gained.
"""

from __future__ import annotations

FEW_EPOCHS = 4
"""Passes up to which repeated text is nearly as good as new text."""
MANY_EPOCHS = 16
"""Passes beyond which repeated text teaches next to nothing."""
ROUNDING = 1.005
"""Factor up to which a number of passes is not more than another one: lengths are rounded up to whole steps."""


def repetition_text(channel: str, tokens: float, available: int, epochs: float) -> str | None:
    """Return a warning about a channel that would be passed through too often; None if it would not.

    Args:
        channel: Name of the channel.
        tokens: Tokens that are asked of it.
        available: Tokens that it has now.
        epochs: Passes through it.
    """
    if (worth := worth_text(epochs)) is None:
        return None
    return (
        f"channel {channel} would be passed through {times_text(epochs)} times: {tokens:,.0f} tokens are asked, and as "
        f"of now {available:,} are there. {worth}: add parts, lower its weight, or set max_epochs"
    )


def worth_text(epochs: float) -> str | None:
    """Return what so many passes are worth, in words; None if they are nearly as good as new text."""
    if epochs > MANY_EPOCHS:
        return f"Beyond about {MANY_EPOCHS} passes repeated text teaches next to nothing"
    if epochs > FEW_EPOCHS * ROUNDING:
        return f"Up to about {FEW_EPOCHS} passes are nearly as good as new text, further ones less and less"
    return None


def times_text(epochs: float) -> str:
    """Return a number of passes as text: `5.0`, `2,975`."""
    return f"{epochs:,.0f}" if epochs >= 10 else f"{epochs:.1f}"
