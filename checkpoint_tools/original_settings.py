"""The settings of a Hugging Face model that change nothing of its function: those that an export may have again.

Wrong ones (`"attention_dropout": "0.1"`, a padding token beyond the vocabulary) would leave an export that transformers
cannot load. They are left out, and told.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint_tools.families.family import Fields
from checkpoint_tools.families.json_values import TOKEN_IDS, TRUTH, number, shown
from checkpoint_tools.families.remarks import GENERATION
from checkpoint_tools.transformers_model import generation_problem
from harness.json_text import parse_json
from harness.run.checkpoints.for_export import CONFIG, GENERATION_CONFIG
from harness.text import listed

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_NOT_OF_THE_MODEL = ("_from_model_config",)
"""A note of transformers on where settings came from."""


@dataclass(frozen=True, kw_only=True)
class OriginalSettings:
    """The settings of a model's folder that an export has again."""

    config: Fields = field(default_factory=dict)
    """Keys for `config.json`. An id that was wrong is null: without the key transformers would take one of its own."""
    generation_config: bytes | None = None
    """The file as it came; None if there was none that can be read."""
    generation: Fields = field(default_factory=dict)
    """Settings of generation that stood in `config.json`, where there was no `generation_config.json`."""
    warnings: tuple[str, ...] = ()
    """Remarks on settings that are left out, or that go to another place."""


def original_settings(fields: Fields, generation_config: bytes | None, num_rows: int) -> OriginalSettings:
    """Return the settings that an export has again.

    Args:
        fields: The original `config.json`.
        generation_config: The original `generation_config.json`, if there was one.
        num_rows: Rows of the model's vocabulary.
    """
    told: list[str] = []
    config: Fields = {}
    for key, (kind, read) in _kinds(num_rows).items():
        if key in fields and (fields[key] is not None or key in SPECIAL_IDS):
            value = fields[key] if fields[key] is None else read(fields[key])
            if value != fields[key]:
                told.append(f"{key} {shown(fields[key])} of its {CONFIG} is not {kind}: an export has none")
            if value is not None or key in SPECIAL_IDS:
                config[key] = fields[key] if value == fields[key] else value
    if generation_config is not None and (problem := _problem(generation_config)):
        told.append(f"transformers cannot read its {GENERATION_CONFIG}, which an export leaves out: {problem}")
        generation_config = None
    generation = {
        key: value
        for key, value in fields.items()
        if key in GENERATION and key not in _NOT_OF_THE_MODEL and value is not None
    }
    return OriginalSettings(
        config=config,
        generation_config=generation_config,
        generation=_generation(generation, told, is_beside=generation_config is not None),
        warnings=tuple(told),
    )


def _generation(said: Fields, told: list[str], *, is_beside: bool) -> Fields:
    """Return the settings of generation for an export, from those in `config.json`."""
    if said and is_beside:
        told.append(
            f"its {CONFIG} has settings of generation, {listed(sorted(said))}: transformers reads those of "
            f"{GENERATION_CONFIG} alone, and so an export has only these"
        )
        return {}
    kept: Fields = {}
    for key, value in sorted(said.items()):
        if problem := _problem(json.dumps({key: value}).encode()):
            told.append(
                f"{key} {shown(value)} of its {CONFIG} is refused by transformers, an export leaves it out: {problem}"
            )
        else:
            kept[key] = value
    if kept:
        told.append(
            f"its {CONFIG} has settings of generation, {listed(sorted(kept))}: they change no logits, and an export "
            f"has them in {GENERATION_CONFIG}"
        )
    return kept


def _kinds(num_rows: int) -> Mapping[str, tuple[str, Callable[[object], object]]]:
    """Return the kinds of values of the kept keys: in words, and the value to write, which is None for a wrong one.

    Transformers puts the padding token, and no other, into the embedding: it must have a row.
    """

    def one_id(value: object) -> object:
        found = TOKEN_IDS.plain(value)
        return found if isinstance(found, int) else None

    def padding_id(value: object) -> object:
        found = TOKEN_IDS.plain(value)
        return found if isinstance(found, int) and found < num_rows else None

    return {
        "bos_token_id": ("the id of a token", one_id),
        "eos_token_id": (TOKEN_IDS.meaning, TOKEN_IDS.plain),
        "pad_token_id": (f"the id of a token below {num_rows}", padding_id),
        "unk_token_id": ("the id of a token", one_id),
        "tokenizer_class": ("the name of a class", _name),
        "use_cache": (TRUTH.meaning, TRUTH.plain),
        "attention_dropout": ("a number from 0 to 1", number(0.0, 1.0).plain),
    }


def _name(value: object) -> object:
    return value if isinstance(value, str) and value.isidentifier() else None


def _problem(content: bytes) -> str | None:
    """Return why transformers cannot read a `generation_config.json`; None if it can."""
    try:
        parse_json(content)
    except ValueError as error:
        return f"it is not valid JSON: {error}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / GENERATION_CONFIG).write_bytes(content)
        problem = generation_problem(Path(folder))
        return None if problem is None else problem.replace(f"{folder}/", "")
