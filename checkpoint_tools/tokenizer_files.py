"""The tokenizer of a checkpoint as files for a Hugging Face model's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint_tools import sentencepiece_model, tiktoken_model
from checkpoint_tools.our_tensors import OurTensors
from harness.config.load import load_config
from harness.errors import CheckpointError, HarnessError, UsageError
from harness.tokenizers.identity import difference, recorded_tokenizers, relation_to
from harness.tokenizers.sentencepiece_file import SentencePieceTokenizer
from harness.tokenizers.tekken_file import TekkenTokenizer
from harness.tokenizers.tiktoken_file import TiktokenTokenizer, description_file
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

SOURCE_FOLDER = "source"
"""Folder of a run that holds what `from-hf` kept of the model it began from."""
BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
"""Files that describe a tokenizer.json further; they are copied unread."""
_ADVICE = "Name it with --tokenizer, or give --without-tokenizer"


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """The tokenizer's files to put beside the weights."""

    files: Mapping[str, bytes]
    special_ids: Mapping[str, object] = field(default_factory=dict)
    """Keys for `config.json`."""
    warning: str | None = None
    """Warning for a user who wants to load it."""


def find_tokenizer(ours: OurTensors, named: Path | None) -> TokenizerFiles | None:
    """Return the tokenizer that a checkpoint was trained with; None if it had none and none was named.

    Raises:
        UsageError: It is not where the run had it.
        CheckpointError: It is another one than the checkpoint was trained with.
    """
    recorded = recorded_tokenizers(ours.manifest.fingerprint)
    if not recorded and named is None:
        return None
    path = named or _path_in_run(ours.path)
    if path is None:
        raise UsageError(f"The tokenizer of {ours.path} is not known: there is no readable config.yaml. {_ADVICE}.")
    try:
        tokenizer = open_tokenizer(path)
    except HarnessError as error:
        raise UsageError(f"The tokenizer of {ours.path} cannot be opened: {error} {_ADVICE}.") from error
    if recorded and all(relation_to(identity, tokenizer) == "other" for identity in recorded):
        raise CheckpointError(
            f"{ours.path} was trained with another tokenizer, {recorded[0]}: {difference(recorded[0], tokenizer)}. "
            f"{_ADVICE}."
        )
    files = written_files(tokenizer)
    warning = None
    if "tokenizer.json" not in files:
        warning = (
            f"{tokenizer.path} is not written as a tokenizer.json, for want of one with the same ids: it is copied as "
            "it is. Load it with its own library; transformers would translate it by rules of its own, to other ids."
        )
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.end_of_document_id}
    return TokenizerFiles(files=files, special_ids=ids, warning=warning)


def _path_in_run(checkpoint: Path) -> Path | None:
    """Return `data.tokenizer` of the run that a checkpoint lies in, or the path that `from-hf` kept."""
    run = checkpoint.resolve().parent.parent
    try:
        configured = load_config(run / "config.yaml").data.tokenizer
    except (HarnessError, OSError):
        configured = None
    kept = run / SOURCE_FOLDER
    return configured or (kept if kept.is_dir() else None)


def written_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the files of a tokenizer for a Hugging Face model's folder, by name."""
    content = tokenizer.path.read_bytes()
    if isinstance(tokenizer, SentencePieceTokenizer):
        return {"tokenizer.model": content, **_translated(tokenizer, sentencepiece_model.as_tokenizer_json(content))}
    if isinstance(tokenizer, TiktokenTokenizer):
        described = description_file(tokenizer.path)
        copied = {path.name: path.read_bytes() for path in (tokenizer.path, described) if path.is_file()}
        return {**copied, **_translated(tokenizer, tiktoken_model.as_tokenizer_json(tokenizer))}
    if isinstance(tokenizer, TekkenTokenizer):
        return {"tekken.json": content}
    beside = [tokenizer.path.with_name(name) for name in BESIDE]
    return {"tokenizer.json": content, **{path.name: path.read_bytes() for path in beside if path.is_file()}}


def _translated(tokenizer: Tokenizer, text: str | None) -> dict[str, bytes]:
    """Return a tokenizer as transformers reads it; empty if that would give other ids."""
    if text is None:
        return {}
    symbols = {symbol["id"]: symbol["content"] for symbol in json.loads(text)["added_tokens"]}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": symbols.get(tokenizer.end_of_document_id),
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.json": text.encode(), "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode()}
