"""The settings of modules that predict further tokens: a sentence for what does not fit, with its place."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config.model import ModelConfig
from harness.config.schema import PhaseConfig, PrecisionConfig
from harness.config.validate_further_tokens import further_token_phase_problems, further_token_problems

SIZES: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "ffn_hidden_size": 16,
    "vocab_size": 64,
}
MODULES = {**SIZES, "mtp_num_layers": 2}
BF16 = PrecisionConfig()


def phase(**changes: Any) -> PhaseConfig:
    values = {"name": "main", "train_steps": 1, "seq_length": 32, "global_batch_size": 2, "blend": {"zh": 1}}
    return PhaseConfig.model_validate(values | changes)


def test_what_fits_is_taken() -> None:
    model = ModelConfig(**MODULES)
    assert list(further_token_problems(model, BF16)) == []
    assert list(further_token_phase_problems(model, (phase(seq_length=3),))) == []
    none = ModelConfig(**SIZES)
    assert list(further_token_problems(none, PrecisionConfig(fp8="hybrid"))) == []
    assert list(further_token_phase_problems(none, (phase(seq_length=1),))) == []


@pytest.mark.parametrize(
    ("changes", "fp8", "place", "text"),
    [
        (
            {"mtp_num_layers": None, "mtp_loss_scaling_factor": 0.3},
            None,
            "mtp_loss_scaling_factor",
            "has no effect without mtp_num_layers; give that, or remove this",
        ),
        (
            {"position_embedding_type": "learned_absolute", "max_position_embeddings": 64},
            None,
            "mtp_num_layers",
            "cannot be combined with position_embedding_type learned_absolute, whose vectors are on the first pipeline "
            "stage only; take rope, or leave it out",
        ),
        ({}, "hybrid", "mtp_num_layers", "cannot be combined with precision.fp8; leave one of them out"),
    ],
)
def test_what_does_not_fit_the_model_is_said(changes: dict[str, Any], fp8: Any, place: str, text: str) -> None:
    (problem,) = further_token_problems(ModelConfig(**{**MODULES, **changes}), PrecisionConfig(fp8=fp8))
    assert (problem.location, problem.text) == (("model", place), text)


def test_what_does_not_fit_phases_is_said() -> None:
    phases = (phase(), phase(seq_length=2))
    (problem,) = further_token_phase_problems(ModelConfig(**MODULES), phases)
    assert problem.location == ("phases", 1, "seq_length")
    assert problem.text == (
        "must be greater than model.mtp_num_layers 2, given 2: the last module would have no token to predict"
    )


def test_a_module_is_like_the_last_layer() -> None:
    model = ModelConfig(
        **{**MODULES, "num_moe_experts": 4, "moe_layer_freq": [0, 1, 0, 1]}, window_size=8, window_attn_skip_freq=2
    )
    assert model.routed_layers == (False, True, False, True, True, True)
    assert [model.has_window(layer) for layer in range(6)] == [True, False, True, False, False, False]
    assert ModelConfig(**SIZES).routed_layers == (False,) * 4
