"""A line of text by a converted model, through transformers: greedy, so that the same model writes the same line."""

from __future__ import annotations

from pathlib import Path

import torch

from checkpoint_tools import transformers_model
from checkpoint_tools.their_tensors import open_model
from harness.tokenizers.tokenizer import open_tokenizer

NUM_TOKENS = 24


def write_line(folder: Path, prompt: str) -> str:
    """Return the prompt and the text that the model writes after it, on one line.

    Raises:
        CheckpointError: The folder holds no model that is known here.
        UsageError: The package transformers is not installed.
        DataError: The folder has no tokenizer, or the prompt is no text.
    """
    tokenizer = open_tokenizer(folder)
    (ids,) = tokenizer.encode_documents([prompt])
    model = transformers_model.load(open_model(folder))
    given = torch.tensor([ids or [tokenizer.end_of_document_id]])
    # Not the folder's own settings: they may draw, or punish repetition.
    ends = model.generation_config.eos_token_id
    greedy = type(model.generation_config)(max_new_tokens=NUM_TOKENS, pad_token_id=0, eos_token_id=ends)
    with torch.no_grad():
        written = model.generate(given, attention_mask=torch.ones_like(given), generation_config=greedy)
    return " ".join(tokenizer.decode(written[0].tolist()).split())
