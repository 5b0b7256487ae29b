"""Real tokenizers that people have, each with something to be careful about."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = ["def f(x):\n\tif x:\n        return  {'a': 1}\n", "The quick brown fox. Hello WORLD!", "a b c d e f g 中"] * 20


def byte_level(
    folder: Path,
    *,
    control: tuple[str, ...] = ("</s>",),
    text_symbols: tuple[str, ...] = (),
    settings: dict[str, object] | None = None,
    begin: str | None = None,
    is_complete: bool = True,
    normalizer: normalizers.Normalizer | None = None,
) -> Path:
    """A byte-level BPE; without `is_complete` only bytes of `TEXTS` have ids."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if is_complete else []
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=list(control), initial_alphabet=alphabet, show_progress=False
        ),
    )
    made.add_tokens([AddedToken(symbol, special=False, normalized=False) for symbol in text_symbols])
    if begin is not None:
        number = made.token_to_id(begin)
        made.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, number)])
    folder.mkdir(exist_ok=True, parents=True)
    made.save(str(folder / "tokenizer.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def words(folder: Path) -> Path:
    """A vocabulary of words with an unknown symbol."""
    vocabulary = {"<unk>": 0, "</s>": 1, "The": 2, "quick": 3, "brown": 4, "fox": 5}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["</s>"])
    folder.mkdir(exist_ok=True, parents=True)
    made.save(str(folder / "tokenizer.json"))
    return folder
