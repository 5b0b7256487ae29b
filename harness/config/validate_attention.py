"""Rules between the fields that say how tokens look at each other, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.model import ModelConfig
from harness.config.problems import Location, Problem
from harness.config.schema import PhaseConfig
from harness.config.validate_phases import changed_fields

_OF_WINDOWS = ("window_attn_skip_freq", "window_rotary_base")
_OF_ROTATION = ("rotary_base", "rotary_percent", "rope_scaling", "window_rotary_base")


def attention_problems(model: ModelConfig) -> Iterator[Problem]:
    """Yield the problems of windows and of positions."""
    yield from _window_problems(model)
    if model.position_embedding_type == "rope":
        if model.max_position_embeddings is not None:
            yield Problem(
                _at("max_position_embeddings"),
                "has no effect with position_embedding_type rope, only with learned_absolute; remove it",
            )
        return
    if model.max_position_embeddings is None:
        yield Problem(
            _at("position_embedding_type"),
            "learned_absolute needs max_position_embeddings, the longest sample; give it",
        )
    for name in changed_fields(model, _OF_ROTATION):
        yield Problem(
            _at(name), "has no effect with position_embedding_type learned_absolute, only with rope; remove it"
        )


def _window_problems(model: ModelConfig) -> Iterator[Problem]:
    freq = model.window_attn_skip_freq
    if model.window_size is None:
        for name in changed_fields(model, _OF_WINDOWS):
            yield Problem(_at(name), "has no effect without window_size; give that, or remove this")
        return
    if isinstance(freq, tuple) and len(freq) != model.num_layers:
        yield Problem(
            _at("window_attn_skip_freq"),
            f"has {len(freq)} entries for num_layers {model.num_layers}; give one for each layer",
        )
    elif not any(model.windowed_layers):
        yield Problem(
            _at("window_attn_skip_freq"), "leaves no layer with a window; leave window_size out, or change it"
        )


def position_problems(model: ModelConfig, phases: tuple[PhaseConfig, ...]) -> Iterator[Problem]:
    """Yield the problems of learned positions and the samples of phases."""
    if model.position_embedding_type == "rope":
        return
    for index, phase in enumerate(phases):
        if model.max_position_embeddings is not None and phase.seq_length > model.max_position_embeddings:
            yield Problem(
                ("phases", index, "seq_length"),
                f"must be at most model.max_position_embeddings {model.max_position_embeddings}, given "
                f"{phase.seq_length}: no later position has a vector",
            )
        for name in changed_fields(phase, ("rotary_base", "rope_scaling")):
            yield Problem(
                ("phases", index, name),
                "has no effect with model.position_embedding_type learned_absolute, only with rope; remove it",
            )


def _at(name: str) -> Location:
    return ("model", name)
