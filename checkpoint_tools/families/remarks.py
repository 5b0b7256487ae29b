"""Keys of a `config.json` that do not change what the model computes."""

from __future__ import annotations

from checkpoint_tools.families.json_values import same, says_nothing

TOKEN_ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
STANDARD = frozenset(
    {
        *TOKEN_ID_KEYS,
        "model_type",
        "architectures",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "_name_or_path",
        "unk_token_id",
        "attention_dropout",
        "auto_map",
        "tokenizer_class",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "id2label",
        "label2id",
        "problem_type",
        "num_labels",
        "is_decoder",
    }
)
"""Keys that most files have: nobody needs to be told of them. `auto_map` names code, which is never run."""
_REMARKS = frozenset(
    {
        # of tools
        "attn_implementation",
        "base_model_name_or_path",
        "custom_pipelines",
        "flash_attn",
        "gradient_checkpointing",
        "is_llama_config",
        "language",
        "license",
        "max_seq_len",
        "max_seq_length",
        "max_sequence_length",
        "model_max_length",
        "model_name",
        "name_or_path",
        "neuron",
        "seq_length",
        "transformers.js_config",
        "transformers_js_config",
        "trust_remote_code",
        "use_flash_attention",
        "use_flash_attention_2",
        "use_flash_attn",
        # of transformers, for other kinds of models or for training
        "cls_token_id",
        "embd_pdrop",
        "finetuning_task",
        "hidden_dropout",
        "prefix",
        "resid_pdrop",
        "residual_dropout",
        "sep_token_id",
        "task_specific_params",
        "torchscript",
        "_commit_hash",
        "_flash_attn_2_enabled",
    }
)
_REMARK_PREFIXES = ("unsloth_", "_attn_implementation", "_unsloth")
GENERATION = frozenset(
    {
        "_from_model_config",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_ensemble_weight",
        "assistant_lookbehind",
        "bad_words_ids",
        "begin_suppress_tokens",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "constraints",
        "continuous_batching_config",
        "decoder_start_token_id",
        "disable_compile",
        "diversity_penalty",
        "do_sample",
        "dola_layers",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty",
        "epsilon_cutoff",
        "eta_cutoff",
        "exponential_decay_length_penalty",
        "force_words_ids",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "generation_kwargs",
        "guidance_scale",
        "is_assistant",
        "length_penalty",
        "low_memory",
        "max_cache_len",
        "max_length",
        "max_matching_ngram_size",
        "max_new_tokens",
        "max_time",
        "min_length",
        "min_new_tokens",
        "min_p",
        "no_repeat_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_logits",
        "output_scores",
        "penalty_alpha",
        "prefill_chunk_size",
        "prompt_lookup_num_tokens",
        "remove_invalid_values",
        "renormalize_logits",
        "repetition_penalty",
        "return_dict_in_generate",
        "return_legacy_cache",
        "sequence_bias",
        "speculation_type",
        "stop_strings",
        "suppress_tokens",
        "target_lookbehind",
        "temperature",
        "token_healing",
        "top_h",
        "top_k",
        "top_p",
        "typical_p",
        "use_mtp",
        "watermarking_config",
    }
)
"""Settings of generation, which transformers 4 kept in `config.json`. A test compares them with those of transformers.
"""
_SAYS_NONE = (
    ("partial_rotary_factor", 1.0),
    ("pretraining_tp", 1),
    ("num_experts", 0),
    ("num_local_experts", 0),
    ("n_routed_experts", 0),
    ("n_shared_experts", 0),
    ("num_nextn_predict_layers", 0),
    ("logit_scale", 1.0),
    ("embedding_multiplier", 1.0),
    ("residual_multiplier", 1.0),
    ("logits_scaling", 1.0),
)
"""Keys of other families, with the value that says that the model lacks the feature."""


def changes_nothing(key: str, value: object) -> bool:
    """Return whether a key that a family does not know leaves the function as it is, with this value.

    `null`, `false` and what is empty switch nothing on.
    """
    if says_nothing(value) or key in _REMARKS or key in GENERATION or key.startswith(_REMARK_PREFIXES):
        return True
    return any(key == name and same(value, none) for name, none in _SAYS_NONE)
