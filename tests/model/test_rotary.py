"""Rotary embedding: frequencies against transformers' and against their formulas, and what a rotation must keep."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from harness.config.model import ModelConfig
from harness.config.rope_scaling import RopeScalingConfig
from harness.model.rotary import Rotation, frequencies

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HEAD_SIZE = 64


def hugging_face_frequencies(parameters: dict[str, Any], max_length: int, magnification: float = 1.0) -> torch.Tensor:
    config = LlamaConfig(
        hidden_size=4 * HEAD_SIZE,
        num_attention_heads=4,
        head_dim=HEAD_SIZE,
        max_position_embeddings=max_length,
        rope_parameters=parameters,
    )
    found, attention_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
    assert attention_factor == pytest.approx(magnification, rel=1e-12)
    return found


@pytest.mark.parametrize(("base", "factor"), [(10000.0, 4.0), (500000.0, 8.0)])
def test_linear_equals_transformers(base: float, factor: float) -> None:
    expected = hugging_face_frequencies({"rope_type": "linear", "rope_theta": base, "factor": factor}, 8192)
    found = frequencies(HEAD_SIZE, base, RopeScalingConfig(type="linear", factor=factor))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("factor", "low", "high", "original"), [(8.0, 1.0, 4.0, 8192), (32.0, 2.0, 8.0, 4096)])
def test_llama3_equals_transformers(factor: float, low: float, high: float, original: int) -> None:
    numbers: dict[str, Any] = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    numbers["original_max_position_embeddings"] = original
    expected = hugging_face_frequencies({"rope_type": "llama3", "rope_theta": 500000.0, **numbers}, 131072)
    found = frequencies(HEAD_SIZE, 500000.0, RopeScalingConfig(type="llama3", **numbers))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "numbers",
    [
        {"factor": 4.0, "original_max_position_embeddings": 32768},  # Qwen2.5, Qwen3
        {"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 1.0},  # DeepSeek V3
        {"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.707, "mscale_all_dim": 0.5},
        {"factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False},  # gpt-oss
        {"factor": 16.0, "original_max_position_embeddings": 64, "beta_fast": 4.0, "beta_slow": 2.0},
        {"factor": 2.0, "original_max_position_embeddings": 1, "beta_fast": 8.0, "beta_slow": 8.0},
        {"factor": 8.0, "original_max_position_embeddings": 8192, "attention_factor": 1.25},
        {"factor": 1.0, "original_max_position_embeddings": 8192},
    ],
    ids=str,
)
@pytest.mark.parametrize("base", [10000.0, 150000.0])
def test_yarn_equals_transformers(base: float, numbers: dict[str, Any]) -> None:
    scaling = RopeScalingConfig(type="yarn", **numbers)
    rest = {"rope_type": "yarn", "rope_theta": base, **numbers}
    expected = hugging_face_frequencies(rest, 131072, scaling.magnification)
    torch.testing.assert_close(frequencies(HEAD_SIZE, base, scaling), expected, rtol=1e-6, atol=0)


def test_yarn_makes_queries_and_keys_larger() -> None:
    x_SBND = torch.randn(6, 2, 2, 16, generator=torch.Generator().manual_seed(0))
    scaling = RopeScalingConfig(type="yarn", factor=4.0, original_max_position_embeddings=64)
    rotated = rotation(scaling)(x_SBND)
    torch.testing.assert_close(rotated.norm(dim=-1), (0.1 * math.log(4.0) + 1.0) * x_SBND.norm(dim=-1))


def test_yarn_makes_scores_of_latents_larger_by_the_square() -> None:
    assert RopeScalingConfig(type="yarn", factor=40.0).score_factor == 1.0
    deepseek = RopeScalingConfig(type="yarn", factor=40.0, mscale=0.707, mscale_all_dim=0.707)
    assert deepseek.score_factor == pytest.approx((0.1 * 0.707 * math.log(40) + 1) ** 2)
    assert deepseek.magnification == 1.0
    assert RopeScalingConfig(type="linear", factor=40.0).score_factor == 1.0


def test_ntk_raises_the_base() -> None:
    """The fastest pair keeps its angle, the slowest is stretched by the factor exactly: that defines the exponent."""
    plain = frequencies(HEAD_SIZE, 10000.0, None)
    stretched = frequencies(HEAD_SIZE, 10000.0, RopeScalingConfig(type="ntk", factor=4.0))
    base = 10000.0 * 4.0 ** (HEAD_SIZE / (HEAD_SIZE - 2))
    expected = torch.tensor([base ** (-2 * pair / HEAD_SIZE) for pair in range(HEAD_SIZE // 2)])
    torch.testing.assert_close(stretched, expected, rtol=1e-6, atol=0)
    assert stretched[0] == plain[0] == 1.0
    assert float(plain[-1] / stretched[-1]) == pytest.approx(4.0, rel=1e-6)


def rotation(scaling: RopeScalingConfig | None = None) -> Rotation:
    sizes = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "ffn_hidden_size": 8, "vocab_size": 16}
    return Rotation(ModelConfig(**sizes, rope_scaling=scaling))


def test_rotation_turns_pairs_of_halves_by_position_times_frequency() -> None:
    x_SBND = torch.randn(6, 2, 2, 16, generator=torch.Generator().manual_seed(0))
    rotated = rotation()(x_SBND)
    for position in (0, 1, 5):
        for pair in (0, 3, 7):
            angle = position * 10000.0 ** (-2 * pair / 16)
            first, second = x_SBND[position, 1, 0, pair], x_SBND[position, 1, 0, pair + 8]
            expected = first * math.cos(angle) - second * math.sin(angle)
            assert float(rotated[position, 1, 0, pair]) == pytest.approx(float(expected), abs=1e-5)


def test_scores_depend_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(1, 1, 1, 16, generator=generator).expand(9, 1, 1, 16) for _ in range(2))
    turn = rotation()
    scores = torch.einsum("ixyd,jxyd->ij", turn(query), turn(key))
    for distance in range(4):
        torch.testing.assert_close(scores.diagonal(-distance), scores[distance, 0].expand(9 - distance))


def test_rotation_keeps_the_dtype_and_computes_in_fp32() -> None:
    x_SBND = torch.randn(5, 1, 2, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    rotated = rotation()(x_SBND)
    assert rotated.dtype == torch.bfloat16
    torch.testing.assert_close(rotated, rotation()(x_SBND.float()).bfloat16())


def test_a_rotation_that_follows_another_base_is_one_made_with_it() -> None:
    def model(base: float) -> ModelConfig:
        return ModelConfig(
            num_layers=1, hidden_size=64, num_attention_heads=1, ffn_hidden_size=8, vocab_size=8, rotary_base=base
        )

    x_SBND = torch.randn(9, 2, 1, HEAD_SIZE, generator=torch.Generator().manual_seed(0))
    changed = Rotation(model(1e4))
    before = changed(x_SBND)
    changed.follow(model(1e6))
    assert torch.equal(changed(x_SBND), Rotation(model(1e6))(x_SBND))
    assert not torch.equal(changed(x_SBND), before)
