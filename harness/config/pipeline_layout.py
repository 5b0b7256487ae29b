"""The layers of every pipeline stage: as the text of Megatron's launch scripts, or as a list of stages."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from harness.limits import MOST_LAYERS

LAYER_NAMES = {"E": "embedding", "t": "decoder", "m": "mtp", "L": "loss"}
"""Megatron's name of each letter."""
_LETTERS = {name: letter for letter, name in LAYER_NAMES.items()}
_TIMES = r"\*[1-9][0-9]{0,3}"
_ITEM = rf"[EtmL|](?:{_TIMES})?"
_TEXT = re.compile(rf"(?:{_ITEM}|\((?:{_ITEM})+\){_TIMES})+")
_REPEATED = (re.compile(rf"\(((?:{_ITEM})+)\)\*([0-9]+)"), re.compile(r"(.)\*([0-9]+)"))
"""Groups, and letters within and beside them: each is written out in turn."""
_MOST_LETTERS = 4 * MOST_LAYERS
"""Letters of the longest text, and of what it stands for: each layer, and a border behind it."""
_FORMS = (
    "must be text of E (embedding), t (layer), L (loss) and | (next stage), such as Et*3|(tt|)*29L, or a list of "
    "stages, each such text or a list of embedding, decoder and loss"
)


def _read(value: object) -> tuple[str, ...]:
    """Return the letters of every stage, virtual stages too, in the order in which a token passes them.

    Raises:
        PydanticCustomError: It has another form, or leaves embedding or loss where no pipeline has them.
    """
    stages = _stages_in(value)
    letters = "".join(stages)
    if "m" in letters:
        raise PydanticCustomError("pipeline_layout", "has m (a layer that predicts further tokens); no model has any")
    if not stages[0].startswith("E") or letters.count("E") > 1:
        raise PydanticCustomError("pipeline_layout", "must have one E (embedding), at the very beginning")
    if not stages[-1].endswith("L") or letters.count("L") > 1:
        raise PydanticCustomError("pipeline_layout", "must have one L (loss), at the very end")
    if "" in stages:
        raise PydanticCustomError(
            "pipeline_layout",
            "leaves stage {number} of {count} empty; give it a layer, or leave out the | beside it",
            {"number": stages.index("") + 1, "count": len(stages)},
        )
    return stages


def _stages_in(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return _stages_of_text(value)
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _MOST_LETTERS:
        raise PydanticCustomError("pipeline_layout", _FORMS)
    stages: list[str] = []
    for stage in value:
        stages += (
            (_stage_of_names(stage),) if isinstance(stage, list | tuple) else _stages_of_text(stage, several=False)
        )
        _refuse_length(sum(map(len, stages)))
    return tuple(stages)


def _stage_of_names(names: list[object] | tuple[object, ...]) -> str:
    found = [_LETTERS.get(name.strip().lower(), "") if isinstance(name, str) else "" for name in names]
    if "" in found:
        raise PydanticCustomError("pipeline_layout", _FORMS)
    return "".join(found)


def _stages_of_text(text: object, *, several: bool = True) -> tuple[str, ...]:
    plain = text.replace(",", "") if isinstance(text, str) and len(text) <= _MOST_LETTERS else ""
    if not _TEXT.fullmatch(plain):
        raise PydanticCustomError("pipeline_layout", _FORMS)
    for pattern in _REPEATED:
        _refuse_length(sum(len(found[1]) * int(found[2]) for found in pattern.finditer(plain)))
        plain = pattern.sub(lambda found: found[1] * int(found[2]), plain)
    stages = tuple(plain.split("|"))
    if len(stages) > 1 and not several:
        raise PydanticCustomError("pipeline_layout", _FORMS)
    return stages


def _refuse_length(num_letters: int) -> None:
    if num_letters > _MOST_LETTERS:
        raise PydanticCustomError("pipeline_layout", f"stands for more than {MOST_LAYERS} layers")


_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": "^[EtmL|,*()0-9]+$", "maxLength": _MOST_LETTERS},
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string", "pattern": "^[EtmL,*()0-9]+$"},
                    {"type": "array", "items": {"enum": list(_LETTERS)}},
                ]
            },
            "minItems": 1,
        },
    ]
}
PipelineLayout = Annotated[tuple[str, ...], BeforeValidator(_read), WithJsonSchema(_SCHEMA)]
"""Letters of every stage: `("Et", "tt", "tL")`."""
