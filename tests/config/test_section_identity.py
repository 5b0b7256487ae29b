from __future__ import annotations

from typing import Any

import pytest

from harness.config.identity import filled_in, identity_of
from harness.config.model import ModelConfig
from harness.config.rope_scaling import RopeScalingConfig
from harness.config.section import Section
from harness.run.checkpoints.compare import differences

MODEL = ModelConfig(num_layers=2, hidden_size=8, num_attention_heads=2, ffn_hidden_size=16, vocab_size=64)
SCALING = RopeScalingConfig(type="llama3", factor=2.0)
REQUIRED = {"num_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "ffn_hidden_size": 16, "vocab_size": 64}
ABSENT_MEANS: dict[type[Section], dict[str, Any]] = {
    ModelConfig: {
        "num_query_groups": None,
        "kv_channels": None,
        "multi_latent_attention": False,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_head_dim": 128,
        "qk_pos_emb_head_dim": 64,
        "v_head_dim": 128,
        "vocab_size_multiple_of": 128,
        "scale_embedding": False,
        "normalization": "RMSNorm",
        "norm_epsilon": 1e-5,
        "norm_placement": "before",
        "layernorm_zero_centered_gamma": False,
        "activation": "swiglu",
        "untie_embeddings_and_output_weights": True,
        "add_bias_linear": False,
        "add_qkv_bias": False,
        "qk_layernorm": False,
        "qk_layernorm_over": "head",
        "final_logit_softcapping": None,
        "softmax_scale": None,
        "attn_logit_softcapping": None,
        "softmax_type": "vanilla",
        "window_size": None,
        "window_attn_skip_freq": None,
        "window_rotary_base": None,
        "position_embedding_type": "rope",
        "max_position_embeddings": None,
        "rotary_base": 10000.0,
        "rotary_percent": 1.0,
        "rope_scaling": None,
        "num_moe_experts": None,
        "moe_layer_freq": 1,
        "moe_ffn_hidden_size": None,
        "moe_router_topk": 2,
        "moe_router_score_function": "sigmoid",
        "moe_router_pre_softmax": False,
        "moe_router_num_groups": None,
        "moe_router_group_topk": None,
        "moe_router_group_scores": None,
        "moe_router_topk_scaling_factor": 1.0,
        "moe_router_enable_expert_bias": True,
        "moe_router_bias_update_rate": 0.001,
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
        "moe_z_loss_coeff": 0.0,
        "moe_shared_expert_intermediate_size": None,
        "moe_shared_expert_gate": False,
        "moe_token_dispatcher_type": "alltoall",
        "init_method_std": 0.02,
        "z_loss_coefficient": 0.0,
    },
    RopeScalingConfig: {
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.0,
        "attention_factor": None,
        "truncate": True,
    },
}
"""What an absent field means, for good: the default of each at the time when it came. A new field gets its line here,
and no line ever changes, or else checkpoints that leave the field out would mean another model than they did."""


@pytest.mark.parametrize("schema", ABSENT_MEANS)
def test_defaults_in_an_identity_never_change(schema: type[Section]) -> None:
    assert filled_in({}, schema) == ABSENT_MEANS[schema]


def test_every_section_of_the_model_has_its_defaults_written_down() -> None:
    class Everything(Section):
        model: ModelConfig

    found: set[type[Section]] = set()
    waiting: list[object] = [field.annotation for field in Everything.model_fields.values()]
    for annotation in waiting:  # grows while it is walked
        if isinstance(annotation, type) and issubclass(annotation, Section):
            found.add(annotation)
            waiting.extend(field.annotation for field in annotation.model_fields.values())
        else:
            waiting.extend(getattr(annotation, "__args__", ()))
    assert found == set(ABSENT_MEANS)


def test_what_is_at_its_default_is_left_out() -> None:
    assert identity_of(MODEL) == REQUIRED
    changed = MODEL.model_copy(update={"qk_layernorm": True, "rope_scaling": SCALING})
    assert identity_of(changed) == REQUIRED | {
        "qk_layernorm": True,
        "rope_scaling": {"type": "llama3", "factor": 2.0},
    }


@pytest.mark.parametrize(
    "model", [MODEL, MODEL.model_copy(update={"rope_scaling": SCALING, "activation": "gelu", "kv_channels": 4})]
)
def test_nothing_is_lost_and_what_is_written_out_stays(model: ModelConfig) -> None:
    full = model.model_dump(mode="json")
    assert filled_in(identity_of(model), ModelConfig) == full
    assert list(filled_in(identity_of(model), ModelConfig)) == list(full)
    assert filled_in(full, ModelConfig) == full
    assert ModelConfig.model_validate(identity_of(model)) == model


class LaterScaling(RopeScalingConfig):
    softness: float = 0.5


class Experts(Section):
    number: int = 1
    chosen: int = 1


class LaterModel(ModelConfig):
    """That of a version to come: an option, one within a section, and a section."""

    rope_scaling: LaterScaling | None = None
    embedding_multiplier: float | None = None
    experts: Experts = Experts()


def lines(old: dict[str, object], new: dict[str, object]) -> list[str]:
    return differences(filled_in(old, LaterModel), filled_in(new, LaterModel))


@pytest.mark.parametrize("is_full", [True, False])
def test_a_checkpoint_from_before_an_option_is_of_the_model_that_does_not_use_it(is_full: bool) -> None:
    before = MODEL.model_copy(update={"rope_scaling": SCALING})
    old = before.model_dump(mode="json") if is_full else identity_of(before)
    plain = LaterModel(**REQUIRED, rope_scaling=LaterScaling(type="llama3", factor=2.0))
    assert lines(old, identity_of(plain)) == lines(identity_of(plain), old) == []
    used = plain.model_copy(
        update={
            "rope_scaling": LaterScaling(type="llama3", factor=2.0, softness=0.25),
            "embedding_multiplier": 0.1,
            "experts": Experts(number=8),
        }
    )
    assert lines(old, identity_of(used)) == [
        "rope_scaling.softness: checkpoint 0.5, now 0.25",
        "embedding_multiplier: checkpoint null, now 0.1",
        "experts.number: checkpoint 1, now 8",
    ]
    assert lines(identity_of(used), old) == [
        "rope_scaling.softness: checkpoint 0.25, now 0.5",
        "embedding_multiplier: checkpoint 0.1, now null",
        "experts.number: checkpoint 8, now 1",
    ]


def test_a_version_that_does_not_know_a_used_option_refuses_it() -> None:
    used, unused = LaterModel(**REQUIRED, embedding_multiplier=0.1), LaterModel(**REQUIRED)
    now = filled_in(identity_of(MODEL), ModelConfig)
    assert differences(filled_in(identity_of(unused), ModelConfig), now) == []
    assert differences(filled_in(identity_of(used), ModelConfig), now) == [
        "embedding_multiplier: checkpoint 0.1, now absent"
    ]


def test_a_required_field_is_never_made_up() -> None:
    torn = {name: value for name, value in REQUIRED.items() if name != "num_layers"}
    assert differences(filled_in(torn, ModelConfig), filled_in(REQUIRED, ModelConfig)) == [
        "num_layers: checkpoint absent, now 2"
    ]
