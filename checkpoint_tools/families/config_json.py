"""`config.json` to our model and back. What is not known here is refused by name: it may change the function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from checkpoint_tools.families.family import Family, Fields
from checkpoint_tools.families.registry import FAMILIES, REFUSED
from harness.config.schema import ModelConfig, RopeScalingConfig
from harness.config.validate import cross_field_problems
from harness.errors import CheckpointError

_HARMLESS = {
    "architectures",
    "model_type",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "_name_or_path",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "attention_dropout",
    "max_position_embeddings",
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
"""Keys that do not change the function at inference. `auto_map` names code, which is never run."""
_READ_HERE = {
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "layer_types",
    "attention_bias",
    "mlp_bias",
}
_DEFAULTS: Mapping[str, object] = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False}
"""Defaults of the classes of transformers for keys that `config.json` lacks."""
_DYNAMIC = "dynamic"
"""Stretches only sequences beyond `max_position_embeddings`: up to there it is nothing."""
_SCALING_KEYS = {
    "default": frozenset[str](),
    _DYNAMIC: frozenset({"factor"}),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
}


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
        f"config.json says model_type {ascii(name)[:60]}{reason}; this version of harness knows {', '.join(FAMILIES)}."
    )


def model_from(fields: Fields, family: Family) -> ModelConfig:
    """Return our model for a `config.json`.

    Raises:
        CheckpointError: A key is not known, or has a value that is not. Names every one of them.
    """
    said = {**_DEFAULTS, **family.defaults, **{key: value for key, value in fields.items() if value is not None}}
    problems = _unknown(fields, family)
    scaling = _scaling(fields, problems)
    base = _rotation(fields)
    values: dict[str, Any] = {name: said[key] for key, name in family.fields.items() if key in said}
    values |= {
        **family.has,
        "vocab_size_multiple_of": 128,
        "untie_embeddings_and_output_weights": not said["tie_word_embeddings"],
        "rotary_base": base.get("rope_theta", said["rope_theta"]) if isinstance(base, dict) else None,
        "rope_scaling": scaling,
        **_biases(fields, family, problems),
    }
    model: ModelConfig | None = None
    try:
        model = ModelConfig.model_validate(values)
        wrong = cross_field_problems({"model": model})
        problems += [f"{'.'.join(map(str, problem.location[1:]))} {problem.text}" for problem in wrong]
    except ValidationError as error:
        problems += [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    if problems or model is None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise CheckpointError(f"config.json describes a model that this version of harness does not know:\n{lines}")
    return model


def fields_for(model: ModelConfig, family: Family, extras: Fields) -> Fields:
    """Return the `config.json` of a model; `extras` are keys that do not change the function."""
    fields: Fields = {"architectures": [family.architecture], "model_type": family.model_type}
    said = {**dict(model), "num_query_groups": model.query_groups, "kv_channels": model.head_size}
    fields |= {key: said[name] for key, name in family.fields.items()}
    fields |= {key: values[0] for key, values in family.fixed.items()}
    if family.has_bias_keys:
        fields |= {"attention_bias": model.add_bias_linear, "mlp_bias": model.add_bias_linear}
    fields["tie_word_embeddings"] = not model.untie_embeddings_and_output_weights
    # The spelling of transformers 4, which 5 reads too.
    return {**fields, **rotary_fields(model), **extras}


def dynamic_scaling(fields: Fields) -> Fields | None:
    """Return the setting that stretches only sequences beyond `max_position_embeddings`, if a `config.json` has it.

    Our model has no such setting: the function is the same up to that length.
    """
    said = _rotation(fields)
    if not isinstance(said, dict) or _kind(said) != _DYNAMIC:
        return None
    return {key: value for key, value in said.items() if key != "rope_theta"}


def rotary_fields(model: ModelConfig) -> Fields:
    """Return the keys for rotary positions; the same for all models with the same frequencies."""
    scaling, base = model.rope_scaling, model.rotary_base
    if scaling is None:
        return {"rope_theta": base, "rope_scaling": None}
    if scaling.type == "ntk":
        # A fixed stretching is nothing but another base.
        size = model.head_size
        return {"rope_theta": base * scaling.factor ** (size / (size - 2)), "rope_scaling": None}
    kept = {name: getattr(scaling, name) for name in sorted(_SCALING_KEYS[scaling.type])}
    return {"rope_theta": base, "rope_scaling": {"rope_type": scaling.type, **kept}}


def _unknown(fields: Fields, family: Family) -> list[str]:
    known = _HARMLESS | _READ_HERE | set(family.fields) | set(family.fixed) | set(family.ignored)
    problems = [f"{ascii(key)[1:-1][:60]}: not known" for key in fields if key not in known]
    for key, allowed in family.fixed.items():
        said = fields.get(key, family.defaults.get(key, allowed[0]))
        if said not in allowed:
            problems.append(f"{key}: {ascii(said)[:60]}, known is {', '.join(map(str, allowed))}")
    kinds = fields.get("layer_types")
    if kinds is not None and set(kinds) != {"full_attention"}:
        problems.append(f"layer_types: {ascii(sorted(set(map(str, kinds))))[:80]}, known is full_attention")
    return problems


def _scaling(fields: Fields, problems: list[str]) -> RopeScalingConfig | None:
    said = _rotation(fields)
    if not isinstance(said, dict):
        problems.append(f"rope_scaling: {ascii(said)[:60]} is not an object")
        return None
    kind = _kind(said)
    bases = {"rope_theta": fields.get("rope_theta"), "rope_theta in rope_parameters": said.get("rope_theta")}
    if None not in bases.values() and len(set(bases.values())) > 1:
        problems.append(f"two bases: {', '.join(f'{key} {ascii(value)[:40]}' for key, value in bases.items())}")
    if kind not in _SCALING_KEYS:
        problems.append(f"rope_scaling: type {ascii(kind)[:40]}, known are {', '.join(_SCALING_KEYS)}")
        return None
    rest = {key: value for key, value in said.items() if key not in ("rope_type", "type", "rope_theta")}
    if kind == _DYNAMIC:
        rest.pop("original_max_position_embeddings", None)
    if set(rest) != _SCALING_KEYS[kind]:
        problems.append(f"rope_scaling: {kind} with {sorted(rest)}, known is {sorted(_SCALING_KEYS[kind])}")
        return None
    return RopeScalingConfig(type=kind, **rest) if kind not in ("default", _DYNAMIC) else None


def _rotation(fields: Fields) -> Any:  # noqa: ANN401 (what a file holds)
    return fields.get("rope_parameters") or fields.get("rope_scaling") or {}


def _kind(said: Fields) -> Any:  # noqa: ANN401 (what a file holds)
    return said.get("rope_type", said.get("type", "default"))


def _biases(fields: Fields, family: Family, problems: list[str]) -> dict[str, bool]:
    attention, mlp = (fields.get(key, False) for key in ("attention_bias", "mlp_bias"))
    if not family.has_bias_keys:
        return {}
    if attention != mlp:
        problems.append(f"attention_bias: {attention} with mlp_bias {mlp}; known are both or neither")
    return {"add_bias_linear": bool(attention)}
