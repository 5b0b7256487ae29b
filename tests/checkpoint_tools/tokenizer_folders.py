"""Small Hugging Face models with tokenizers of several kinds, as people publish them; and what transformers reads."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from hugging_face_models import SENTENCES, VOCAB_SIZE, Variant, byte_level, write_model

TEXTS = (
    "the lazy fox 12",
    "  two spaces\n\tand a tab ",
    "世界 und Straße 🙂",
    "<s> <|im_start|>hi<|im_end|> </s>",
    "x",
)
CHAT = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"


def sentencepiece_model(num_ids: int = VOCAB_SIZE) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=num_ids,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _chat_in_the_settings(folder: Path) -> None:
    byte_level().save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT, "model_max_length": 99, **names}
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", names)


def _chat_in_files(folder: Path) -> None:
    byte_level().save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"})
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}" + CHAT)


def _vocabulary_beside(folder: Path) -> None:
    """As GPT-2 and Qwen2 publish it: the same tokenizer three times."""
    tokenizer = byte_level()
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "</s>"})


def _sentencepiece_with_added_tokens(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(VOCAB_SIZE - 2))
    added = {"<|im_start|>": VOCAB_SIZE - 2, "<|im_end|>": VOCAB_SIZE - 1}
    write_json(folder / "added_tokens.json", added)
    described = {str(number): {"content": name, "special": True} for name, number in added.items()}
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|im_end|>"}
    write_json(folder / "tokenizer_config.json", {**settings, "chat_template": CHAT, "added_tokens_decoder": described})


def _several_ends(folder: Path) -> None:
    """As Llama 3 has it."""
    _chat_in_the_settings(folder)
    fields = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**fields, "bos_token_id": 1, "eos_token_id": [2, 17], "pad_token_id": 2})
    settings = {"bos_token_id": 1, "eos_token_id": [2, 17], "temperature": 0.6, "top_p": 0.9, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(settings, indent=4) + "\n\n")


KINDS: dict[str, Callable[[Path], None]] = {
    "chat template in the settings": _chat_in_the_settings,
    "chat templates in files": _chat_in_files,
    "vocabulary beside it": _vocabulary_beside,
    "SentencePiece with added tokens": _sentencepiece_with_added_tokens,
    "several ends": _several_ends,
}


def write_with_tokenizer(folder: Path, kind: str, **changes: Any) -> Path:
    """A random model with the tokenizer of a kind."""
    write_model(folder, Variant("chat", "llama", {"vocab_size": VOCAB_SIZE, **changes}))
    KINDS[kind](folder)
    return folder


def files_besides_weights(folder: Path) -> dict[str, bytes]:
    """All files of a model that are neither its weights nor `config.json`, nor the record of a conversion."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors")
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: content for name, content in found.items() if name not in ("config.json", "conversion.json")}


def as_transformers_reads_it(folder: Path) -> dict[str, Any]:
    """Everything that a user of a tokenizer and of the settings sees."""
    transformers = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    return {
        "length": len(tokenizer),
        "class": type(tokenizer).__name__,
        "special tokens": tokenizer.special_tokens_map,
        "ids": [tokenizer(text)["input_ids"] for text in TEXTS],
        "chat": tokenizer.chat_template,
        "longest": tokenizer.model_max_length,
        "generation": transformers.GenerationConfig.from_pretrained(folder).to_dict(),
        **{key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "max_position_embeddings": config.max_position_embeddings,
    }
