"""Small random Hugging Face models, made by transformers itself: odd sizes, and every weight drawn (norms, too)."""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch
from safetensors.torch import load_file, save_file

from data_prep.channels.indexed_writer import PartWriter, token_dtype

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 2,
}


VOCAB_SIZE = 420
SENTENCES = [f"the quick brown fox {n} jumps over the lazy dog, 你好世界 number {n * 7}" for n in range(300)]


class Variant(NamedTuple):
    """A family with some of its features."""

    name: str
    model_type: str
    changes: dict[str, Any]

    def __str__(self) -> str:
        return self.name


TIED = {"tie_word_embeddings": True}
GLM = {"n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOWS = {"use_sliding_window": True, "sliding_window": 5}
GEMMA_2 = {
    **{"head_dim": 24, "sliding_window": 5, "query_pre_attn_scalar": 30, "num_hidden_layers": 3},
    **{"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
}
GEMMA_3 = {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 12, **TIED}
OF_GPT_2 = ("vocab_size", "bos_token_id", "eos_token_id")
"""Sizes that have the same names there."""
GPT_2 = {"n_embd": 48, "n_head": 4, "n_layer": 3, "n_positions": 128}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5, "head_dim": 24}
DEEPSEEK = {
    **{"num_key_value_heads": 4, "rms_norm_eps": 1e-6, "kv_lora_rank": 12, "qk_nope_head_dim": 10},
    **{"qk_rope_head_dim": 6, "v_head_dim": 14, "n_routed_experts": 8, "num_experts_per_tok": 3},
    **{"moe_intermediate_size": 16, "n_shared_experts": 1, "first_k_dense_replace": 1},
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def yarn(**numbers: float) -> dict[str, Any]:
    """The setting of a model whose context was stretched from 64 tokens."""
    lengths = {"original_max_position_embeddings": 64}
    return {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **lengths, **numbers}}


VARIANTS = (
    Variant("llama-gqa", "llama", {}),
    Variant("llama-mha-tied", "llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    Variant("llama-mqa-head24", "llama", {"num_key_value_heads": 1, "head_dim": 24}),
    Variant("llama-biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    Variant(
        "llama-3.1",
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    Variant("llama-linear", "llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    Variant("llama-dynamic", "llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    Variant("llama-yarn", "llama", yarn(factor=4.0)),
    Variant("qwen3-yarn", "qwen3", {"head_dim": 24, **yarn(factor=40.0, mscale=0.707, mscale_all_dim=0.5)}),
    Variant("mistral", "mistral", {"sliding_window": None, "head_dim": 24}),
    Variant("mistral-mqa-tied", "mistral", {"sliding_window": None, "num_key_value_heads": 1, **TIED}),
    Variant("mistral-mha", "mistral", {"sliding_window": None, "num_key_value_heads": 4, "vocab_size": 257}),
    Variant("mistral-window", "mistral", {"sliding_window": 5}),
    Variant("qwen2-tied", "qwen2", TIED),
    Variant("qwen2-mqa-head24", "qwen2", {"num_key_value_heads": 1, "head_dim": 24}),
    Variant("qwen2-mha", "qwen2", {"num_key_value_heads": 4, "vocab_size": 97}),
    Variant("qwen3-mqa-head24", "qwen3", {"head_dim": 24, "num_key_value_heads": 1}),
    Variant("qwen3-gqa-tied", "qwen3", {"head_dim": 24, **TIED}),
    Variant("qwen2-windows", "qwen2", {**WINDOWS, "max_window_layers": 1}),
    Variant("qwen3-windows", "qwen3", {**WINDOWS, "head_dim": 12, "layer_types": [SLIDING, FULL]}),
    Variant("olmo2", "olmo2", {}),
    Variant("olmo2-mqa-tied", "olmo2", {"num_key_value_heads": 1, **TIED}),
    Variant("olmo2-mha", "olmo2", {"num_key_value_heads": 4, "vocab_size": 97}),
    Variant("gemma", "gemma", {"head_dim": 24, **TIED}),
    Variant("gemma-mqa-untied", "gemma", {"head_dim": 12, "num_key_value_heads": 1}),
    Variant("gpt-2", "gpt2", {**GPT_2, **TIED}),
    Variant("gpt-2-untied", "gpt2", {**GPT_2, "n_inner": 40}),
    Variant("gemma-2", "gemma2", GEMMA_2),
    Variant("gemma-2-no-caps", "gemma2", {**GEMMA_2, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    Variant("gemma-3", "gemma3_text", {**GEMMA_3, "num_hidden_layers": 7}),
    Variant(
        "gemma-3-stretched",
        "gemma3_text",
        {
            **GEMMA_3,
            "layer_types": [FULL, SLIDING],
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e4},
                SLIDING: {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
    Variant("gpt-oss", "gpt_oss", GPT_OSS),
    Variant("gpt-oss-mqa", "gpt_oss", {**GPT_OSS, "num_key_value_heads": 1, "num_local_experts": 5, "head_dim": 12}),
    Variant("mixtral", "mixtral", {"num_local_experts": 4, "sliding_window": None}),
    Variant("mixtral-mha-tied", "mixtral", {"num_local_experts": 3, "num_key_value_heads": 4, **TIED}),
    Variant("mixtral-window", "mixtral", {"num_local_experts": 3, "sliding_window": 5}),
    Variant("qwen2-moe", "qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 24, "mlp_only_layers": [0]}),
    Variant(
        "qwen2-moe-normalized",
        "qwen2_moe",
        {**EXPERTS, "shared_expert_intermediate_size": 20, "norm_topk_prob": True, "num_key_value_heads": 4},
    ),
    Variant("qwen2-moe-windows", "qwen2_moe", {**EXPERTS, **WINDOWS, "num_hidden_layers": 3, "max_window_layers": 9}),
    Variant("qwen3-moe-windows", "qwen3_moe", {**EXPERTS, **WINDOWS, "head_dim": 12}),
    Variant("qwen3-moe", "qwen3_moe", {**EXPERTS, "head_dim": 24, "norm_topk_prob": True}),
    Variant(
        "qwen3-moe-every-second",
        "qwen3_moe",
        {**EXPERTS, "head_dim": 12, "decoder_sparse_step": 2, "num_hidden_layers": 4, **TIED},
    ),
    Variant("olmoe", "olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    Variant(
        "olmoe-mqa",
        "olmoe",
        {"num_experts": 5, "num_experts_per_tok": 3, "num_key_value_heads": 1, "norm_topk_prob": True},
    ),
    Variant("glm-4-moe", "glm4_moe", {**GLM, "head_dim": 24}),
    Variant(
        "glm-4-moe-groups-norms-biases",
        "glm4_moe",
        {
            **GLM,
            **{"n_routed_experts": 8, "n_group": 4, "topk_group": 1, "n_shared_experts": 2, "use_qk_norm": True},
            **{"attention_bias": True, "routed_scaling_factor": 2.5, "num_hidden_layers": 3, "head_dim": 16},
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        },
    ),
    Variant("deepseek-v2-lite", "deepseek_v2", {**DEEPSEEK, "q_lora_rank": None, "n_shared_experts": 2}),
    Variant(
        "deepseek-v2-groups",
        "deepseek_v2",
        {
            **DEEPSEEK,
            **{"q_lora_rank": 20, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
            **{"routed_scaling_factor": 16.0, **yarn(factor=40.0, mscale=0.707, mscale_all_dim=0.5)},
        },
    ),
    Variant(
        "deepseek-v3",
        "deepseek_v3",
        {
            **DEEPSEEK,
            **{"q_lora_rank": 20, "n_group": 4, "topk_group": 2, "num_hidden_layers": 3},
            **yarn(factor=40.0, mscale=1.0, mscale_all_dim=1.0),
        },
    ),
    Variant(
        "deepseek-v3-no-latent-of-queries",
        "deepseek_v3",
        {**DEEPSEEK, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "v_head_dim": 20, **TIED},
    ),
    Variant("qwen3-mha", "qwen3", {"head_dim": 12, "num_key_value_heads": 4}),
)
"""Query groups 1, 2 and as many as heads; own head sizes; tied; biases; vocabularies that nothing divides."""


def write_model(folder: Path, variant: Variant, *, dtype: torch.dtype = torch.float32, shard_size: str = "1GB") -> Path:
    """A random model of a variant, as `save_pretrained` writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = importlib.import_module("transformers")
        sizes = {key: SIZES[key] for key in OF_GPT_2} if variant.model_type == "gpt2" else SIZES
        config = transformers.AutoConfig.for_model(variant.model_type, **{**sizes, **variant.changes})
        model = transformers.AutoModelForCausalLM.from_config(config)
        draw_weights(dict(model.named_parameters()))
        draw_weights({name: buffer for name, buffer in model.named_buffers() if name.endswith("_bias")})
        model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def draw_weights(weights: dict[str, torch.Tensor]) -> None:
    """Fills weights: matrices so that a signal neither dies nor grows, norms around one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in sorted(weights.items()):
            weight.normal_(0.0, 0.2, generator=generator)
            if "norm" in name:
                weight += 1.0


def spell_as_transformers_4(folder: Path) -> Path:
    """Rewrites a model's config.json as transformers 4 wrote it."""
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    rotary = fields.pop("rope_parameters")
    fields["rope_theta"] = rotary.pop("rope_theta")
    fields["rope_scaling"] = rotary if rotary["rope_type"] != "default" else None
    fields["torch_dtype"] = fields.pop("dtype")
    path.write_text(json.dumps(fields))
    return folder


def write_internlm2(folder: Path, **changes: Any) -> Path:
    """A random model in InternLM2's published layout, which transformers does not know."""
    sizes = {key: value for key, value in {**SIZES, **changes}.items() if key != "bos_token_id"}
    width, inner, head = sizes["hidden_size"], sizes["intermediate_size"], 12
    heads, groups = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    shapes = {
        "model.tok_embeddings.weight": (sizes["vocab_size"], width),
        "model.norm.weight": (width,),
        "output.weight": (sizes["vocab_size"], width),
    }
    for layer in range(sizes["num_hidden_layers"]):
        stem = f"model.layers.{layer}"
        shapes |= {
            f"{stem}.attention_norm.weight": (width,),
            f"{stem}.ffn_norm.weight": (width,),
            f"{stem}.attention.wqkv.weight": ((heads + 2 * groups) * head, width),
            f"{stem}.attention.wo.weight": (width, heads * head),
            f"{stem}.feed_forward.w1.weight": (inner, width),
            f"{stem}.feed_forward.w3.weight": (inner, width),
            f"{stem}.feed_forward.w2.weight": (width, inner),
        }
    if sizes["tie_word_embeddings"]:
        del shapes["output.weight"]
    weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    draw_weights(weights)
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    own = {
        "model_type": "internlm2",
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
        "hidden_act": "silu",
        "bias": False,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "pretraining_tp": 1,
        "attn_implementation": "eager",
    }
    (folder / "config.json").write_text(json.dumps({**own, **sizes}))
    # Whoever runs code of the folder will hear of it.
    (folder / "modeling_internlm2.py").write_text("raise SystemExit('code of a model folder was run')\n")
    return folder


def write_minimind(folder: Path) -> Path:
    """A random MiniMind2: Llama's tensors under a `model_type` that transformers does not know."""
    write_model(folder, Variant("minimind", "llama", {"tie_word_embeddings": True}))
    fields = json.loads((folder / "config.json").read_text())
    kept = {key: fields[key] for key in SIZES if key in fields and key != "tie_word_embeddings"}
    own = {
        "model_type": "minimind",
        "rope_theta": 10000.0,
        "use_moe": False,
        "flash_attn": True,
        "dropout": 0.0,
        "n_routed_experts": 4,
        "hidden_act": "silu",
        "inference_rope_scaling": False,
    }
    (folder / "config.json").write_text(json.dumps({**kept, **own}))
    return folder


def write_minimind_moe(folder: Path, *, normalized: bool) -> Path:
    """A random MiniMind2 with experts, by the names of its own code."""
    write_model(folder, Variant("minimind", "llama", {"tie_word_embeddings": True}))
    weights = {name: tensor for name, tensor in weights_of(folder).items() if ".mlp." not in name}
    width, inner, stem = SIZES["hidden_size"], SIZES["intermediate_size"], "model.layers.{}.mlp"
    for layer in range(SIZES["num_hidden_layers"]):
        at = stem.format(layer)
        for block in (*(f"experts.{number}" for number in range(3)), "shared_experts.0"):
            weights |= {f"{at}.{block}.{name}_proj.weight": torch.empty(inner, width) for name in ("gate", "up")}
            weights[f"{at}.{block}.down_proj.weight"] = torch.empty(width, inner)
        weights[f"{at}.gate.weight"] = torch.empty(3, width)
    draw_weights(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((folder / "config.json").read_text())
    kept = {key: fields[key] for key in SIZES if key in fields and key != "tie_word_embeddings"}
    own: dict[str, Any] = {"model_type": "minimind", "rope_theta": 1e6, "use_moe": True, "scoring_func": "softmax"}
    own |= {"num_experts_per_tok": 2, "n_routed_experts": 3, "n_shared_experts": 1, "norm_topk_prob": normalized}
    (folder / "config.json").write_text(json.dumps({**kept, **own, "aux_loss_alpha": 0.01, "seq_aux": True}))
    return folder


def write_quantized(folder: Path) -> Path:
    """A matrix in fp8 with a scale for each block, as DeepSeek publishes them, and a norm."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tensors = {
        "a.weight": torch.arange(-8.0, 7.0).view(3, 5).to(torch.float8_e4m3fn),
        "a.weight_scale_inv": torch.tensor([[0.5, 2.0, 1.0], [4.0, 1.0, 0.25]]),
        "norm.weight": torch.ones(5, dtype=torch.bfloat16),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    quantization = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [2, 2]}
    fields = {"model_type": "deepseek_v3", "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model's folder."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = weights_of(one), weights_of(other)
    assert set(a) == set(b)
    assert [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])] == []


def byte_level(num_ids: int = VOCAB_SIZE) -> tokenizers.Tokenizer:
    """A byte-level tokenizer with `<unk>`, `<s>`, `</s>` in front."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=num_ids,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    """A small byte-level tokenizer whose documents end with id 2, as the models say."""
    byte_level().save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_channel(folder: Path, vocab_size: int) -> Path:
    """A channel in which every number is the one before plus seven."""
    folder.mkdir()
    writer = PartWriter(folder, 0, token_dtype(vocab_size))
    for start in range(200):
        writer.add_document([(start + 7 * k) % vocab_size for k in range(40)])
    writer.finish()
    return folder
