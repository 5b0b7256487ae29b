"""The families by name, and which of them a model is written as."""

from __future__ import annotations

from checkpoint_tools.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from checkpoint_tools.families.family import Family
from checkpoint_tools.families.gemma import GEMMA
from checkpoint_tools.families.gemma2 import GEMMA2
from checkpoint_tools.families.gemma3 import GEMMA3
from checkpoint_tools.families.glm4_moe import GLM4_MOE
from checkpoint_tools.families.gpt2 import GPT2
from checkpoint_tools.families.gpt_oss import GPT_OSS
from checkpoint_tools.families.internlm2 import INTERNLM2
from checkpoint_tools.families.llama import LLAMA
from checkpoint_tools.families.minimind import MINIMIND
from checkpoint_tools.families.mistral import MISTRAL
from checkpoint_tools.families.mixtral import MIXTRAL
from checkpoint_tools.families.olmo2 import OLMO2
from checkpoint_tools.families.olmoe import OLMOE
from checkpoint_tools.families.qwen2 import QWEN2
from checkpoint_tools.families.qwen3 import QWEN3
from checkpoint_tools.families.qwen_moe import QWEN2_MOE, QWEN3_MOE
from harness.config.model import ModelConfig
from harness.errors import UsageError

_DENSE = (LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GEMMA, GEMMA2, GEMMA3, GPT2, INTERNLM2, MINIMIND)
_WITH_EXPERTS = (QWEN3_MOE, MIXTRAL, QWEN2_MOE, OLMOE, GLM4_MOE, GPT_OSS, DEEPSEEK_V3, DEEPSEEK_V2)
_FAMILIES = (*_DENSE, *_WITH_EXPERTS)
"""All families. If none is named for writing, the first one that can express the model is taken."""
FAMILIES = {family.model_type: family for family in _FAMILIES}
REFUSED = {
    "gemma3": "it reads pictures too; its model of texts alone is gemma3_text",
    "internlm": "only its attention has biases",
    "phi3": "its fused projections are ordered otherwise",
}
"""Families that are often asked for, and why they are not in the tables."""


def family_for_writing(model: ModelConfig, wanted: str | None) -> Family:
    """Return the family to write a model as: the wanted one, or the first that can express it.

    Raises:
        UsageError: No family, or not the wanted one, can express the model. Names every feature that stands against it.
    """
    if wanted is not None and wanted not in FAMILIES:
        raise UsageError(f"There is no family {wanted!r} to write. Families: {', '.join(FAMILIES)}.")
    candidates = _DENSE if model.num_moe_experts is None else _WITH_EXPERTS
    defaults = tuple(family.model_type for family in candidates if family.is_default)
    objections = {name: FAMILIES[name].objections(model) for name in ((wanted,) if wanted else defaults)}
    for name, found in objections.items():
        if not found:
            return FAMILIES[name]
    lines = "\n".join(f"  {name}: {'; '.join(found)}" for name, found in objections.items())
    raise UsageError(f"This model cannot be written as a Hugging Face model:\n{lines}")
