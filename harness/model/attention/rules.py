"""Rules by which the tokens of a layer look at each other, beside causality and documents."""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.model import ModelConfig


@dataclass(frozen=True)
class Rules:
    """Rules of one layer."""

    scale: float | None = None
    """Factor of the scores. Default: one over the square root of the head size."""
    window: int | None = None
    """Tokens that a token sees: itself, and those right before it. Default: all before it."""
    cap: float | None = None
    """Bound that scores approach: cap · tanh(score / cap). Default: none."""

    def for_length(self, length: int) -> Rules:
        """Return the same rules for sequences of this length, without a window that reaches over all of them."""
        return self if self.window is None or self.window < length else Rules(self.scale, None, self.cap)


def rules_of(model: ModelConfig, layer: int, scale: float | None = None) -> Rules:
    """Return the rules of a layer, counted from 0. A scale of Megatron's holds where the model gives none."""
    return Rules(
        scale=model.softmax_scale or scale,
        window=model.window_size if model.windowed_layers[layer] else None,
        cap=model.attn_logit_softcapping,
    )
