"""`config.json` to our model and back. What is not known here is refused by name: it may change the function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from checkpoint_tools.families.family import Family, Fields
from checkpoint_tools.families.json_values import LAYERS, TOKEN_IDS, TRUTH, Kind, number, same, shown, whole
from checkpoint_tools.families.local_rotation import LOCAL_BASE_KEY, with_both_rotations, with_one_rotation
from checkpoint_tools.families.registry import FAMILIES, REFUSED
from checkpoint_tools.families.remarks import STANDARD, TOKEN_ID_KEYS, changes_nothing
from checkpoint_tools.families.rotary_share import SHARE_KEY, rotary_share, with_rotary_share, without_rotary_share
from checkpoint_tools.families.rotation import KEYS as ROTARY_KEYS
from checkpoint_tools.families.rotation import Rotation, read_rotation, rotary_fields
from checkpoint_tools.families.windows import FULL, SLIDING
from harness.config.model import ModelConfig
from harness.config.problems import dotted
from harness.config.validate import cross_field_problems
from harness.errors import CheckpointError

_BIASES = ("attention_bias", "mlp_bias")
MAX_WIDTH = 2**24
"""The largest vocabulary, and the largest width of a layer."""
_WIDTH, _HEADS = whole(MAX_WIDTH), whole(2**16)
_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("vocab_size", "n_embd", "n_inner"), _WIDTH),
    **dict.fromkeys(("n_layer", "n_head"), whole(10_000)),
    "n_positions": whole(2**24),
    "layer_norm_epsilon": number(1e-30, 1.0),
    "hidden_size": _WIDTH,
    "intermediate_size": _WIDTH,
    "num_hidden_layers": whole(10_000),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"), _HEADS),
    **dict.fromkeys(("n_group", "topk_group"), _HEADS),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), _WIDTH),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "qk_head_dim", "v_head_dim"), _HEADS),
    **dict.fromkeys(("first_k_dense_replace", "n_shared_experts", "num_nextn_predict_layers"), whole(10_000, least=0)),
    "routed_scaling_factor": number(1e-6, 1e6),
    "use_qk_norm": TRUTH,
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), _WIDTH),
    "sliding_window": whole(2**31 - 1, least=0),
    "query_pre_attn_scalar": whole(2**31 - 1),
    **dict.fromkeys(("max_window_layers", "sliding_window_pattern"), whole(10_000, least=0)),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), number(1e-3, 1e9)),
    LOCAL_BASE_KEY: number(1.0, 1e18),
    "use_sliding_window": TRUTH,
    "decoder_sparse_step": whole(10_000),
    "mlp_only_layers": LAYERS,
    "norm_topk_prob": TRUTH,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS,
    "head_dim": _HEADS,
    "rms_norm_eps": number(1e-30, 1.0),
    "initializer_range": number(1e-30, 1.0),
    "tie_word_embeddings": TRUTH,
    "max_position_embeddings": whole(2**31 - 1),
    **dict.fromkeys(_BIASES, TRUTH),
    **dict.fromkeys(TOKEN_ID_KEYS, TOKEN_IDS),
}
"""The values that each key may have. The bounds only keep nonsense out; no model comes near them."""
_DEFAULTS: Mapping[str, object] = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False}
"""Defaults of the classes of transformers for keys that `config.json` lacks."""
_GROUPS = "num_key_value_heads"
"""Here null is no missing key: it means as many as there are heads."""
_SAYS_NONE = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping")
"""Here null is no missing key either: it switches off what the default would switch on."""
_REASONS = {
    "quantization_config": "its weights are quantized. If they are fp8 in blocks, as DeepSeek publishes V3, make them "
    "plain first: harness convert dequantize"
}
"""Keys that are not known for a reason of their own."""
_NOT_KNOWN = "not known, so it may change what the model computes. If it is only a remark, delete it from config.json"


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """A `config.json` that was understood."""

    model: ModelConfig
    fields: Fields
    """The keys that say what the model computes, as transformers 5 takes them; null only where it says something."""
    passed_over: tuple[str, ...]
    """Keys that change nothing and that most files lack."""


def family_of(fields: Fields) -> Family:
    """Return the family of a `config.json`.

    Raises:
        CheckpointError: It is of a family that is not known here.
    """
    name = fields.get("model_type")
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    reason = f" ({REFUSED[name]})" if isinstance(name, str) and name in REFUSED else ""
    raise CheckpointError(
        f"config.json says model_type {shown(name)}{reason}; this version of harness knows {', '.join(FAMILIES)}."
    )


def admit(fields: Fields, family: Family) -> Admitted:
    """Return what a `config.json` says.

    Raises:
        CheckpointError: A key is not known, or has a value that is not. Names every one of them.
    """
    problems: list[str] = []
    share = rotary_share(fields) if family.rotary_share is not None else None
    rotary_keys = fields if share is None else without_rotary_share(fields)
    if family.rotates_apart_in_windows:
        fields = rotary_keys = with_one_rotation(rotary_keys, problems)
    rotation = read_rotation(rotary_keys)
    plain = _plain(fields, family, problems)
    _check_fixed(fields, family, problems)
    _check_layer_types(fields, plain, family, problems)
    passed_over = [*_passed_over(fields, family, problems), *rotation.passed_over]
    values = _values(plain, rotation, family, problems)
    if share is not None:
        values["rotary_percent"] = share.read(family.rotary_share, problems)
    if rotation.loses_temperature and family.has.get("multi_latent_attention"):
        problems.append("mscale_all_dim: known is one that stands beside mscale, and without attention_factor")
    _require_none([*problems, *rotation.problems])
    model = _model(values, family)
    rotary = rotation.as_fields() if share is None else with_rotary_share(rotation.as_fields(), model.rotary_percent)
    if family.rotates_apart_in_windows:
        rotary = with_both_rotations(rotary, plain.pop(LOCAL_BASE_KEY, family.defaults[LOCAL_BASE_KEY]))
    return Admitted(
        model=model,
        fields={**{key: plain[key] for key in plain if key not in TOKEN_ID_KEYS}, **rotary},
        passed_over=tuple(sorted(passed_over)),
    )


def plain_fields(fields: Fields) -> Fields:
    """Return a `config.json` in which whole numbers that are spelled as `8192.0` are whole; the rest as it is."""
    plain = {key: kind.plain(fields[key]) for key, kind in _KINDS.items() if key in fields}
    return {**fields, **{key: value for key, value in plain.items() if value is not None}}


def fields_for(model: ModelConfig, family: Family, extras: Fields) -> Fields:
    """Return the `config.json` of a model; `extras` are keys that do not change the function."""
    fields: Fields = {"architectures": [family.architecture], "model_type": family.model_type}
    said = {**dict(model), "num_query_groups": model.query_groups, "kv_channels": model.head_size}
    said["moe_ffn_hidden_size"] = model.expert_width
    fields |= {key: said[name] for key, name in family.fields.items()}
    for derived in family.derived:
        fields |= derived.write(model)
    fields |= {key: values[0] for key, values in family.fixed.items()}
    if family.has_bias_keys:
        fields |= dict.fromkeys(_BIASES, model.add_bias_linear)
    fields["tie_word_embeddings"] = not model.untie_embeddings_and_output_weights
    # The spelling of transformers 4, which 5 reads too.
    rotary = rotary_fields(model) if model.position_embedding_type == "rope" else {}
    if family.rotary_share is not None:
        rotary |= {SHARE_KEY: model.rotary_percent}
    return {**fields, **rotary, **extras}


def _read_keys(family: Family) -> set[str]:
    """Return the keys whose values are taken from a file."""
    return {
        *family.fields,
        *(key for derived in family.derived for key in derived.keys),
        "tie_word_embeddings",
        "max_position_embeddings",
        *TOKEN_ID_KEYS,
        *((family.further_layers,) if family.further_layers else ()),
        *(_BIASES if family.has_bias_keys else ()),
    }


def _plain(fields: Fields, family: Family, problems: list[str]) -> Fields:
    """Return the plain values of the keys that are read, without those that are missing, null or wrong."""
    plain: Fields = {}
    for key in sorted(_read_keys(family) & set(fields)):
        value = fields[key]
        if value is None:
            if key in _SAYS_NONE or key in family.nullable:
                plain[key] = None
            continue
        try:
            plain[key] = _KINDS[key].read(key, value) if key in _KINDS else value
        except CheckpointError as error:
            problems.append(str(error))
    if _GROUPS in fields and fields[_GROUPS] is None and "num_attention_heads" in plain:
        plain[_GROUPS] = plain["num_attention_heads"]
    for key, allowed in family.fixed.items():
        if key in fields and (fields[key] is not None or None in allowed):
            # `1.0` is allowed where 1 is, but transformers wants the one that is known.
            plain[key] = next((one for one in allowed if same(fields[key], one)), fields[key])
    return plain


def _check_fixed(fields: Fields, family: Family, problems: list[str]) -> None:
    for key, allowed in family.fixed.items():
        missing = family.defaults.get(key, allowed[0])
        is_missing = key not in fields or (fields[key] is None and None not in allowed)
        said = missing if is_missing else fields[key]
        if not any(same(said, one) for one in allowed):
            why = "missing, so that transformers takes its default, " if is_missing else ""
            known = ", ".join(one if isinstance(one, str) else shown(one) for one in allowed)
            problems.append(f"{key}: {why}{shown(said)}, known is {known}")


def _check_layer_types(fields: Fields, plain: Fields, family: Family, problems: list[str]) -> None:
    kinds = fields.get("layer_types")
    has_windows = any("layer_types" in derived.keys for derived in family.derived)
    known = (FULL, SLIDING) if has_windows else (FULL,)
    if kinds is None:
        return
    if not isinstance(kinds, list):
        problems.append(f"layer_types: {shown(kinds)} is not a list")
    elif other := [kind for kind in kinds if kind not in known]:
        told = f"known are {' and '.join(known)}" if has_windows else f"known is {FULL}"
        problems.append(f"layer_types: {shown(other[0])} in it, {told}")
    elif len(kinds) != plain.get("num_hidden_layers", len(kinds)):
        problems.append(f"layer_types: {len(kinds)} layers, but num_hidden_layers is {plain['num_hidden_layers']}")


def _passed_over(fields: Fields, family: Family, problems: list[str]) -> list[str]:
    """Return the keys that change nothing; those that might are noted."""
    rotary = (SHARE_KEY,) if family.rotary_share is not None else ()
    known = {*_read_keys(family), *rotary, *family.fixed, *family.ignored, *ROTARY_KEYS, *STANDARD, "layer_types"}
    unknown = {key: value for key, value in fields.items() if key not in known}
    problems += [
        f"{ascii(key)[1:-1][:60]}: {_REASONS.get(key, _NOT_KNOWN)}"
        for key, value in unknown.items()
        if not changes_nothing(key, value)
    ]
    return [ascii(key)[1:-1][:60] for key, value in unknown.items() if changes_nothing(key, value)]


def _values(plain: Fields, rotation: Rotation, family: Family, problems: list[str]) -> dict[str, Any]:
    """Return the fields of our model; what is missing is noted."""
    said = {**_DEFAULTS, **family.defaults, **plain}
    noted = {problem.split(":")[0] for problem in problems}
    needed = [key for key, name in family.fields.items() if ModelConfig.model_fields[name].is_required()]
    problems += [f"{key}: missing, or null" for key in needed if key not in said and key not in noted]
    derived = _derived(said, family, noted, problems)
    attention, mlp = (bool(plain.get(key, False)) for key in _BIASES)
    if family.has_bias_keys and attention != mlp:
        problems.append(f"attention_bias: {shown(attention)} with mlp_bias {shown(mlp)}; known are both or neither")
    return {
        **{name: said[key] for key, name in family.fields.items() if key in said},
        **derived,
        **family.has,
        "vocab_size_multiple_of": 128,
        "untie_embeddings_and_output_weights": not said["tie_word_embeddings"],
        "rotary_base": said["rope_theta"] if rotation.base is None else rotation.base,
        "rope_scaling": rotation.as_model_field(),
        **({"add_bias_linear": attention} if family.has_bias_keys else {}),
    }


def _derived(said: Fields, family: Family, noted: set[str], problems: list[str]) -> dict[str, Any]:
    """Return the fields of our model that are derived; what is wrong with their keys is noted, once."""
    values: dict[str, Any] = {}
    for derived in family.derived:
        if noted.isdisjoint(derived.keys):
            try:
                values |= derived.read(said)
            except CheckpointError as error:
                problems.append(str(error))
    return values


def _model(values: dict[str, Any], family: Family) -> ModelConfig:
    theirs = {name: key for key, name in family.fields.items()}
    theirs |= {name: derived.keys[0] for derived in family.derived for name in derived.fields}
    try:
        model = ModelConfig.model_validate(values)
    except ValidationError as error:
        _require_none(
            [
                f"{theirs.get(str(e['loc'][0]), e['loc'][0])}: {e['msg']}, given {shown(e['input'])}"
                for e in error.errors()
            ]
        )
        raise
    wrong = cross_field_problems({"model": model})
    _require_none(
        [f"{theirs.get(str(p.location[1]), p.location[1])}: {dotted(p.location[1:])} {p.text}" for p in wrong]
    )
    return model


def _require_none(problems: list[str]) -> None:
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise CheckpointError(f"config.json describes a model that this version of harness does not know:\n{lines}")
