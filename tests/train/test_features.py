"""Every feature of a model trains, and two tensor-parallel ranks train it as one does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import worlds
from pool import Pool
from small_run import Grid, Steps, TakeSteps, launch, small_config, steps_taker

from harness.run.paths import RunDir

NUM_STEPS = 3
SMALL: dict[str, Any] = {"model.num_layers": 2, "phases.schedule": {"warmup_steps": 1}, "optimizer.learning_rate": 2e-3}
TP2 = Grid(tp=2)


@pytest.fixture(scope="module")
def take_steps(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TakeSteps:
    return steps_taker(pool, corpus, tmp_path_factory.mktemp("features"), SMALL, NUM_STEPS)


def assert_same(found: Steps, expected: Steps, rel: float = 1e-5) -> None:
    assert len(found) == NUM_STEPS
    assert [number for step in found for number in step] == pytest.approx(
        [number for step in expected for number in step], rel=rel
    )


LEARNED_POSITIONS: dict[str, Any] = {
    "model.position_embedding_type": "learned_absolute",
    "model.max_position_embeddings": 64,
}
FEATURES: dict[str, dict[str, Any]] = {
    "layer-norm-gelu-biases": {
        "model.normalization": "LayerNorm",
        "model.activation": "gelu",
        "model.add_bias_linear": True,
    },
    "geglu-untied": {"model.activation": "geglu", "model.untie_embeddings_and_output_weights": True},
    "tanh-gated": {"model.activation": "geglu_tanh"},
    "tanh": {"model.activation": "gelu_tanh"},
    "squared-relu": {"model.activation": "squared_relu"},
    "query-key-norm": {"model.qk_layernorm": True},
    "half-of-a-head-rotated": {"model.rotary_percent": 0.5},
    "query-key-layer-norm-biases": {
        "model.qk_layernorm": True,
        "model.add_qkv_bias": True,
        "model.normalization": "LayerNorm",
    },
    "query-key-norm-over-the-width": {"model.qk_layernorm": True, "model.qk_layernorm_over": "width"},
    "norms-behind": {"model.norm_placement": "behind"},
    "norms-around-zero-centred": {"model.norm_placement": "around", "model.layernorm_zero_centered_gamma": True},
    "zero-centred-layer-norm": {"model.normalization": "LayerNorm", "model.layernorm_zero_centered_gamma": True},
    "norms-behind-zero-centred-over-the-width": {
        "model.norm_placement": "behind",
        "model.layernorm_zero_centered_gamma": True,
        "model.qk_layernorm": True,
        "model.qk_layernorm_over": "width",
    },
    "scaled-embedding": {"model.scale_embedding": True},
    "heads-of-their-own-size": {"model.kv_channels": 24},
    "z-loss": {"model.z_loss_coefficient": 0.01},
    "rope-scaling": {"model.rope_scaling": {"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}},
    "yarn": {"model.rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    "clamped": {"model.activation": "clamped_swiglu"},
    "windows": {"model.window_size": 8},
    "windows-in-every-second-layer-with-a-base-of-their-own": {
        "model.window_size": 8,
        "model.window_attn_skip_freq": 2,
        "model.window_rotary_base": 100.0,
    },
    "sinks": {"model.softmax_type": "learnable"},
    "off-by-one": {"model.softmax_type": "off-by-one"},
    "sinks-windows-documents-apart": {
        "model.softmax_type": "learnable",
        "model.window_size": 8,
        "data.reset_at_document_borders": True,
    },
    "scores-capped-and-scaled": {"model.attn_logit_softcapping": 0.1, "model.softmax_scale": 0.5},
    "logits-capped": {"model.final_logit_softcapping": 1.0},
    "learned-positions": LEARNED_POSITIONS,
    "learned-positions-documents-apart": LEARNED_POSITIONS | {"data.reset_at_document_borders": True},
    "documents-apart": {"data.reset_at_document_borders": True},
    "first-tokens-of-documents-masked": {"data.eod_mask_loss": True},
    "no-clipping": {"optimizer.clip_grad": 0.0},
}


@pytest.mark.parametrize("changes", FEATURES.values(), ids=FEATURES)
def test_feature_trains_alike_on_two_tensor_parallel_ranks(changes: dict[str, Any], take_steps: TakeSteps) -> None:
    one, two = take_steps(Grid(), changes), take_steps(TP2, changes)
    assert_same(two, one)
    assert one[-1][0] < one[0][0]


@pytest.mark.parametrize("name", [name for name in FEATURES if name != "no-clipping"])
def test_feature_makes_a_difference(name: str, take_steps: TakeSteps) -> None:
    """So that agreement above is not that of two runs without it."""
    plain, featured = take_steps(Grid(), {}), take_steps(Grid(), FEATURES[name])
    assert featured[-1] != pytest.approx(plain[-1], rel=1e-5)


def test_one_key_value_head_trains_alike_on_a_pipeline(take_steps: TakeSteps) -> None:
    """Multi-query attention; tensor parallelism cannot cut its one head, and the plan says so."""
    changes = {"model.num_query_groups": 1}
    assert_same(take_steps(Grid(pp=2), changes), take_steps(Grid(), changes))


def test_stages_without_tokens_keep_documents_apart(take_steps: TakeSteps) -> None:
    changes = {"data.reset_at_document_borders": True, "model.num_layers": 4}
    assert_same(take_steps(Grid(pp=4), changes), take_steps(Grid(), changes))


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("grid", [Grid(), Grid(tp=2, sequence_parallel=True)], ids=["one-rank", "sequence-parallel"])
def test_recomputing_changes_nothing(recompute: str, grid: Grid, take_steps: TakeSteps) -> None:
    assert take_steps(grid, {"parallel.recompute": recompute}) == take_steps(grid, {})


def test_recomputing_keeps_documents_apart(take_steps: TakeSteps) -> None:
    apart = {"data.reset_at_document_borders": True}
    assert take_steps(Grid(), apart | {"parallel.recompute": "full"}) == take_steps(Grid(), apart)


@pytest.mark.parametrize("grid", [Grid(), TP2, Grid(pp=2), Grid(dp=2)], ids=["one-rank", "tp2", "pp2", "dp2"])
def test_bf16_stays_close_to_fp32(grid: Grid, take_steps: TakeSteps) -> None:
    """bf16 has 8 bits: single tokens are off by a percent, means over a batch by far less."""
    found, exact = take_steps(grid, {"precision.dtype": "bf16"}), take_steps(Grid(), {})
    assert all(math.isfinite(loss) and math.isfinite(norm) for loss, norm in found)
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in exact], rel=1e-3)
    assert [norm for _, norm in found] == pytest.approx([norm for _, norm in exact], rel=2e-2)
    assert found != exact


@pytest.mark.parametrize("grid", [Grid(), TP2, Grid(pp=2)], ids=["one-rank", "tp2", "pp2"])
def test_learned_positions_in_bf16_stay_close_to_fp32(grid: Grid, take_steps: TakeSteps) -> None:
    """LayerNorm takes numbers of its weights' format only, so the positions must have that of the embedding."""
    changes = {**LEARNED_POSITIONS, "model.normalization": "LayerNorm"}
    found, exact = take_steps(grid, {**changes, "precision.dtype": "bf16"}), take_steps(Grid(), changes)
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in exact], rel=1e-3)
    assert found != exact


def test_clipping_binds(take_steps: TakeSteps) -> None:
    """The reported norm is that before clipping; what is learnt is not."""
    free, clipped = take_steps(Grid(), {"optimizer.clip_grad": 0.0}), take_steps(Grid(), {"optimizer.clip_grad": 1e-6})
    assert clipped[0] == free[0]
    assert clipped[2][0] != free[2][0]


@pytest.mark.parametrize("multiple", [1, 8, 600])
def test_padding_the_vocabulary_changes_no_number(multiple: int, take_steps: TakeSteps) -> None:
    """1,000 tokens as 1,000, 1,000 and 1,200 rows, against 1,024: sums are cut elsewhere, that is all."""
    for untied in (False, True):
        changes = {"model.untie_embeddings_and_output_weights": untied}
        padded = changes | {"model.vocab_size_multiple_of": multiple}
        assert_same(take_steps(Grid(), padded), take_steps(Grid(), changes), rel=1e-6)


def test_padded_rows_stay_zero(pool: Pool, base_run: Path) -> None:
    """After 50 steps with weight decay: weights, master weights and both moments of rows beyond the vocabulary."""
    tensors = pool.run(worlds.checkpoint_tensors, 1, RunDir(base_run).checkpoint(50))[0]
    embeddings = {name: array for name, array in tensors.items() if name.endswith("embedding.word_embeddings.weight")}
    assert len(embeddings) == 4
    for array in embeddings.values():
        assert array.shape == (1024, 64)
        assert not array[1000:].any()
        assert array[:1000].any()


def test_padded_rows_stay_zero_when_cut(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    """The second of two ranks holds all padding; the output layer is a parameter of its own, saved in bf16."""
    changes = {"model.untie_embeddings_and_output_weights": True, "run.stop_at_step": 2, "precision.dtype": "bf16"}
    launch(pool, small_config(corpus, TP2, SMALL | changes), tmp_path)
    tensors = pool.run(worlds.checkpoint_tensors, 1, RunDir(tmp_path).checkpoint(2))[0]
    outputs = {name: array for name, array in tensors.items() if name.endswith("output_layer.weight")}
    assert len(outputs) == 4
    assert not any(array[1000:].any() for array in outputs.values())
    assert all(array[:1000].any() for array in outputs.values())
