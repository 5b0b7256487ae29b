"""What a kind of optimizer keeps, and how large it is."""

from __future__ import annotations

from harness.config.schema import OptimizerConfig
from harness.parameters.optimizers import ADAMW, KINDS, MUON, NumberFormat

FORMATS: tuple[NumberFormat, ...] = ("bf16", "fp32")


def test_adamw_keeps_two_moments_and_takes_two_betas() -> None:
    settings = OptimizerConfig(learning_rate=1.0, adam_beta1=0.8, adam_beta2=0.7)
    assert settings.traits is ADAMW
    assert ADAMW.states_of(is_matrix=False) == ADAMW.states_of(is_matrix=True) == ("exp_avg", "exp_avg_sq")
    assert ADAMW.group_options(settings) == {"betas": (0.8, 0.7)}
    assert not ADAMW.orthogonalizes


def test_muon_keeps_one_average_of_a_matrix_and_is_adamw_for_the_rest() -> None:
    settings = OptimizerConfig(learning_rate=1.0, kind="muon", adam_beta1=0.8, adam_beta2=0.7)
    assert settings.traits is MUON
    assert MUON.orthogonalizes
    assert MUON.states_of(is_matrix=False) == ADAMW.states
    assert MUON.states_of(is_matrix=True) == ("exp_avg",)
    assert MUON.group_options(settings) == {"betas": (0.8, 0.7)}
    assert set(KINDS) == {"adamw", "muon"}


def test_bf16_weights_have_masters_and_fp32_weights_are_theirs() -> None:
    for is_matrix in (False, True):
        assert [ADAMW.state_bytes(dtype, is_matrix=is_matrix) for dtype in FORMATS] == [12, 8]
        assert [ADAMW.checkpoint_bytes(dtype, is_matrix=is_matrix) for dtype in FORMATS] == [14, 16]
    assert [MUON.state_bytes(dtype, is_matrix=True) for dtype in FORMATS] == [8, 4]
    assert [MUON.checkpoint_bytes(dtype, is_matrix=True) for dtype in FORMATS] == [10, 12]
    assert MUON.state_bytes("bf16", is_matrix=False) == 12
