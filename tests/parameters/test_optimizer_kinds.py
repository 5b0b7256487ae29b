"""What a kind of optimizer keeps, and how large it is."""

from __future__ import annotations

from harness.config.schema import OptimizerConfig
from harness.parameters.optimizers import ADAMW


def test_adamw_keeps_two_moments_and_takes_two_betas() -> None:
    settings = OptimizerConfig(learning_rate=1.0, adam_beta1=0.8, adam_beta2=0.7)
    assert settings.kind is ADAMW
    assert ADAMW.states == ("exp_avg", "exp_avg_sq")
    assert ADAMW.group_options(settings) == {"betas": (0.8, 0.7)}


def test_bf16_weights_have_masters_and_fp32_weights_are_theirs() -> None:
    assert (ADAMW.state_bytes("bf16"), ADAMW.state_bytes("fp32")) == (12, 8)
    assert (ADAMW.checkpoint_bytes("bf16"), ADAMW.checkpoint_bytes("fp32")) == (14, 16)
