"""The `config.json` of published models, as far as it describes the function: read, counted, written again."""

from __future__ import annotations

from typing import Any

import pytest

from checkpoint_tools.families.config_json import admit, family_of, fields_for
from harness.plan.parameters import count_parameters

_MORE = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.0",
    "use_cache": True,
}
_LLAMA = {"model_type": "llama", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
_QWEN2 = {"model_type": "qwen2", "use_sliding_window": False, "max_window_layers": 28, "use_mrope": False}
_QWEN3 = {"model_type": "qwen3", "attention_bias": False, "use_sliding_window": False, "sliding_window": None}
_INTERNLM2 = {
    "model_type": "internlm2",
    "bias": False,
    "attn_implementation": "eager",
    "auto_map": {"AutoModel": "x.Y"},
}


def sizes(hidden: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
        **_MORE,
    }


def llama3(factor: float) -> dict[str, Any]:
    lengths = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": factor, **lengths}}


_DEEPSEEK = {
    **{"attention_bias": False, "aux_loss_alpha": 0.001, "ep_size": 1, "kv_lora_rank": 512, "moe_layer_freq": 1},
    **{"max_position_embeddings": 163840, "pretraining_tp": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64},
    **{"rms_norm_eps": 1e-06, "seq_aux": True, "tie_word_embeddings": False, "v_head_dim": 128},
}


def yarn(mscale: float) -> dict[str, Any]:
    """DeepSeek's."""
    lengths = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096}
    scaling = {"type": "yarn", **lengths, "mscale": mscale, "mscale_all_dim": mscale}
    return {"rope_theta": 10000, "rope_scaling": scaling}


PUBLISHED = {
    "Llama-2-7b": (6_738_415_616, {**_LLAMA, **sizes(4096, 11008, 32, 32, 32, 32000), "rope_scaling": None}),
    "Llama-3.1-8B": (8_030_261_248, {**_LLAMA, **sizes(4096, 14336, 32, 32, 8, 128256), **llama3(8.0)}),
    "Llama-3.2-1B": (
        1_235_814_400,
        {
            **_LLAMA,
            **sizes(2048, 8192, 16, 32, 8, 128256),
            **llama3(32.0),
            "head_dim": 64,
            "tie_word_embeddings": True,
        },
    ),
    "Mistral-7B-v0.1": (
        7_241_732_096,
        {"model_type": "mistral", **sizes(4096, 14336, 32, 32, 8, 32000), "sliding_window": 4096},
    ),
    "gpt2": (
        124_439_808,
        {
            **{"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "n_ctx": 1024},
            **{"vocab_size": 50257, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
        },
    ),
    "gpt2-xl": (
        1_557_611_200,
        {
            **{"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024},
            "vocab_size": 50257,
        },
    ),
    "gemma-2-9b": (
        9_241_705_984,
        {
            "model_type": "gemma2",
            **sizes(3584, 14336, 42, 16, 8, 256000),
            **{"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"},
            **{"query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_size": None},
        },
    ),
    "gemma-3-1b-pt": (
        999_885_952,
        {
            "model_type": "gemma3_text",
            **sizes(1152, 6912, 26, 4, 1, 262144),
            **{"head_dim": 256, "rope_local_base_freq": 10000, "rope_theta": 1000000, "sliding_window": 512},
            "hidden_act": "gelu_pytorch_tanh",
            **{"sliding_window_pattern": 6, "attn_logit_softcapping": None, "final_logit_softcapping": None},
        },
    ),
    "gpt-oss-20b": (
        20_914_757_184,
        {
            "model_type": "gpt_oss",
            **sizes(2880, 2880, 24, 64, 8, 201088),
            **{"head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4, "experts_per_token": 4},
            **{"sliding_window": 128, "swiglu_limit": 7.0, "attention_bias": True, "initial_context_length": 4096},
            "layer_types": ["sliding_attention", "full_attention"] * 12,
            "rope_theta": 150000,
            "rope_scaling": {
                **{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
                "original_max_position_embeddings": 4096,
            },
        },
    ),
    "Mistral-7B-v0.3": (
        7_248_023_552,
        {"model_type": "mistral", **sizes(4096, 14336, 32, 32, 8, 32768), "sliding_window": None, "rope_theta": 1e6},
    ),
    "Mistral-Nemo-Base-2407": (
        12_247_782_400,
        {
            "model_type": "mistral",
            **sizes(5120, 14336, 40, 32, 8, 131072),
            "head_dim": 128,
            "sliding_window": None,
            "rope_theta": 1e6,
        },
    ),
    "Qwen2.5-0.5B": (
        494_032_768,
        {**_QWEN2, **sizes(896, 4864, 24, 14, 2, 151936), "tie_word_embeddings": True, "sliding_window": 32768},
    ),
    "Qwen2.5-7B": (7_615_616_512, {**_QWEN2, **sizes(3584, 18944, 28, 28, 4, 152064), "sliding_window": 131072}),
    "Qwen3-0.6B": (
        596_049_920,
        {**_QWEN3, **sizes(1024, 3072, 28, 16, 8, 151936), "head_dim": 128, "tie_word_embeddings": True},
    ),
    "Qwen3-8B": (8_190_735_360, {**_QWEN3, **sizes(4096, 12288, 36, 32, 8, 151936), "head_dim": 128}),
    "OLMo-2-1124-7B": (
        7_298_617_344,
        {
            "model_type": "olmo2",
            **sizes(4096, 11008, 32, 32, 32, 100352),
            "attention_bias": False,
            "rms_norm_eps": 1e-6,
            "rope_theta": 500000,
            "rope_scaling": None,
        },
    ),
    "gemma-2b": (
        2_506_172_416,
        {
            "model_type": "gemma",
            **sizes(2048, 16384, 18, 8, 1, 256000),
            "attention_bias": False,
            "head_dim": 256,
            "hidden_act": "gelu",
            "hidden_activation": None,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
        },
    ),
    "internlm2_5-7b": (
        7_737_708_544,
        {
            **_INTERNLM2,
            **sizes(4096, 14336, 32, 32, 8, 92544),
            "pretraining_tp": 1,
            "rope_theta": 1000000,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
        },
    ),
    "DeepSeek-V2-Lite": (
        15_706_484_224,
        {
            **_DEEPSEEK,
            **sizes(2048, 10944, 27, 16, 16, 102400),
            **yarn(0.707),
            **{"model_type": "deepseek_v2", "q_lora_rank": None, "moe_intermediate_size": 1408},
            **{"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
            **{"n_group": 1, "topk_group": 1, "topk_method": "greedy", "scoring_func": "softmax"},
            **{"norm_topk_prob": False, "routed_scaling_factor": 1.0},
        },
    ),
    "DeepSeek-V2": (
        235_741_434_880,
        {
            **_DEEPSEEK,
            **sizes(5120, 12288, 60, 128, 128, 102400),
            **yarn(0.707),
            **{"model_type": "deepseek_v2", "q_lora_rank": 1536, "moe_intermediate_size": 1536},
            **{"n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
            **{"n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy", "scoring_func": "softmax"},
            **{"norm_topk_prob": False, "routed_scaling_factor": 16.0},
        },
    ),
    "DeepSeek-V3": (
        671_026_404_352,  # and 14,848 biases of experts
        {
            **_DEEPSEEK,
            **sizes(7168, 18432, 61, 128, 128, 129280),
            **yarn(1.0),
            **{"model_type": "deepseek_v3", "q_lora_rank": 1536, "moe_intermediate_size": 2048},
            **{"n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3},
            **{"n_group": 8, "topk_group": 4, "topk_method": "noaux_tc", "scoring_func": "sigmoid"},
            **{"norm_topk_prob": True, "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 1},
        },
    ),
    "MiniMind2": (
        104_030_976,
        {"model_type": "minimind", **sizes(768, 2048, 16, 8, 2, 6400), "rope_theta": 1e6, "flash_attn": True},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_read_and_has_as_many_parameters(name: str) -> None:
    num_parameters, fields = PUBLISHED[name]
    family = family_of(fields)
    model = admit(fields, family).model
    assert count_parameters(model).total == num_parameters
    again = admit(fields_for(model, family, {}), family).model
    assert again.head_size == model.head_size
    assert again.model_copy(update={"kv_channels": model.kv_channels}) == model
