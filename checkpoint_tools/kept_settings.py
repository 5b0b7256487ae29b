"""The settings of an exported model that do not change what it computes: from the model with which training began.

They are read from the checkpoint alone (`harness.run.checkpoints.for_export`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from checkpoint_tools.families.config_json import plain_fields
from checkpoint_tools.families.family import Fields
from checkpoint_tools.families.registry import FAMILIES
from checkpoint_tools.families.rotation import dynamic_scaling, rotary_fields
from checkpoint_tools.original_settings import original_settings
from checkpoint_tools.our_tensors import OurTensors, model_of
from harness.errors import CheckpointError
from harness.json_text import parse_json
from harness.run.checkpoints.for_export import (
    CONFIG,
    GENERATION_CONFIG,
    ORIGIN_FOLDER,
    Belongings,
    in_folder,
    longest_seq_length,
)

_LONGEST = "max_position_embeddings"


@dataclass(frozen=True, kw_only=True)
class KeptSettings:
    """Settings for `config.json` and `generation_config.json`."""

    config: Fields
    generation_config: bytes | None
    """As it came; None if training did not begin from a model that had one that can be read."""
    generation: Fields
    """Settings of generation that stood in the original `config.json` alone."""
    has_origin: bool
    """True if training began from a Hugging Face model."""
    warnings: tuple[str, ...] = ()
    """Facts that are not known, and the values that are written in their place."""


def kept_settings(ours: OurTensors, belongings: Belongings) -> KeptSettings:
    """Return the settings of a checkpoint.

    Raises:
        CheckpointError: The original `config.json` in it cannot be read.
    """
    files = in_folder(belongings, ORIGIN_FOLDER)
    origin = plain_fields(_object(files[CONFIG], ours)) if CONFIG in files else {}
    original = original_settings(origin, files.get(GENERATION_CONFIG), ours.model.vocab_size)
    config = dict(original.config)
    trained, promised = longest_seq_length(ours.manifest), origin.get(_LONGEST)
    if origin and promised is None:
        promised = _default_length(origin)
    longest = max(trained or 0, promised if isinstance(promised, int) else 0)
    if longest and ours.model.max_position_embeddings is None:  # a learned position has its own key
        config[_LONGEST] = longest
    dynamic = dynamic_scaling(origin)
    if dynamic is not None and longest == promised and _rotates_as_before(ours):
        config["rope_scaling"] = dynamic
    return KeptSettings(
        config=config,
        generation_config=original.generation_config,
        generation=original.generation,
        has_origin=CONFIG in files,
        warnings=(*original.warnings, *_warnings(ours, trained, longest, bool(belongings))),
    )


def _default_length(origin: Fields) -> int | None:
    """Return the length of a model whose `config.json` names none: the default of its class in transformers."""
    family = origin.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        return None
    try:
        known = importlib.import_module("transformers").AutoConfig.for_model(family)
    except (ImportError, ValueError):
        return None
    return getattr(known, _LONGEST, None)


def _warnings(ours: OurTensors, trained: int | None, longest: int, has_belongings: bool) -> tuple[str, ...]:
    if ours.manifest.longest_seq_length is not None:
        return ()
    found = []
    if trained is None:
        found.append(
            "its manifest, of an earlier version, does not say how long the sequences were that it was trained on: "
            f"{_LONGEST} is {f'that of the model it began from, {longest}' if longest else 'not written'}"
        )
    if not has_belongings:
        found.append(
            f"{ours.path} was saved by an earlier version, which kept nothing of a Hugging Face model in it, and there "
            f"is no source/ in its run: if it began from one, compare {_LONGEST} and the special ids with that model's"
        )
    return tuple(found)


def _object(content: bytes, ours: OurTensors) -> Fields:
    try:
        fields = parse_json(content)
    except ValueError as error:
        raise CheckpointError(f"{ORIGIN_FOLDER}/{CONFIG} of {ours.path} is no JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{ORIGIN_FOLDER}/{CONFIG} of {ours.path} is no JSON object.")
    return fields


def _rotates_as_before(ours: OurTensors) -> bool:
    """Return whether no phase has changed the rotary positions of the model, which are those of the original one."""
    original = model_of(ours.manifest.model_copy(update={"rotation": None}), ours.path)
    return rotary_fields(original) == rotary_fields(ours.model)
