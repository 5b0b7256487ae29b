"""A line of text by a converted model, through transformers: drawn with a fixed seed, so that it stays the same."""

from __future__ import annotations

from pathlib import Path

import torch

from checkpoint_tools import transformers_model
from checkpoint_tools.their_tensors import open_model
from harness.tokenizers.tokenizer import open_tokenizer

NUM_TOKENS = 24
TEMPERATURE = 0.8
TOP_P = 0.9
"""A small model that always takes the likeliest token repeats one syllable, and shows nothing of what it has learnt."""
SEED = 1


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
    # Not the folder's own settings: they may punish repetition, say.
    settings = type(model.generation_config)(
        max_new_tokens=NUM_TOKENS,
        pad_token_id=0,
        eos_token_id=model.generation_config.eos_token_id,
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        top_k=0,
    )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        written = model.generate(given, attention_mask=torch.ones_like(given), generation_config=settings)
    return " ".join(tokenizer.decode(written[0].tolist()).split())
