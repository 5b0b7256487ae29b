"""The tokenizer of a checkpoint as files for a Hugging Face model's folder.

The files lie in the checkpoint. Those that came from a Hugging Face model go back as they came. A SentencePiece or a
tiktoken file of a run's own is translated into a `tokenizer.json` that gives the same ids.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import xxhash

from checkpoint_tools import sentencepiece_model, tiktoken_model
from checkpoint_tools.our_tensors import OurTensors
from harness.config.load import load_config
from harness.errors import CheckpointError, HarnessError, UsageError
from harness.json_text import parse_json
from harness.run.checkpoints.for_export import CONFIG, ORIGIN_FOLDER, TOKENIZER_FOLDER, Belongings, in_folder
from harness.text import listed
from harness.tokenizers.belonging_files import files_of_tokenizer, lost_settings
from harness.tokenizers.document_symbols import SETTINGS_FILE
from harness.tokenizers.identity import TokenizerIdentity, difference, recorded_tokenizers, relation_to
from harness.tokenizers.sentencepiece_file import SentencePieceTokenizer
from harness.tokenizers.tiktoken_file import TiktokenTokenizer
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

_TRANSLATED = "tokenizer.json"
_ADVICE = "Name it with --tokenizer, or give --without-tokenizer"


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """The tokenizer's files to put beside the weights."""

    files: Mapping[str, bytes]
    special_ids: Mapping[str, object] = field(default_factory=dict)
    """Keys for `config.json` of a model that did not begin from a Hugging Face model."""
    warnings: tuple[str, ...] = ()
    """Warnings for a user who wants to load it."""


def find_tokenizer(ours: OurTensors, belongings: Belongings, named: Path | None) -> TokenizerFiles | None:
    """Return the tokenizer that a checkpoint was trained with; None if it had none and none was named.

    Args:
        ours: The checkpoint.
        belongings: Its small files, the tokenizer's among them. A checkpoint of an earlier version has none, and its
            tokenizer is looked for in its run.
        named: A tokenizer to write in place of the checkpoint's files.

    Raises:
        UsageError: It is not where the run had it, or it has more ids than the model has rows.
        CheckpointError: It is another one than the checkpoint was trained with.
    """
    kept, has_origin = _kept(ours, belongings), f"{ORIGIN_FOLDER}/{CONFIG}" in belongings
    recorded = recorded_tokenizers(ours.manifest.fingerprint)
    if named is None and kept:
        return _of_checkpoint(kept, has_origin=has_origin)
    if not recorded and named is None:
        return None
    path = named or _path_in_run(ours.path)
    if path is None:
        raise UsageError(f"The tokenizer of {ours.path} is not known: there is no readable config.yaml. {_ADVICE}.")
    try:
        tokenizer = open_tokenizer(path, needs_end=False)
    except HarnessError as error:
        raise UsageError(f"The tokenizer of {ours.path} cannot be opened: {error} {_ADVICE}.") from error
    if recorded and all(relation_to(identity, tokenizer) == "other" for identity in recorded):
        raise CheckpointError(
            f"{ours.path} was trained with another tokenizer, {recorded[0]}: {difference(recorded[0], tokenizer)}. "
            f"{_ADVICE}."
        )
    told = _remarks(recorded, tokenizer, ours.model.vocab_size)
    own = files_of_tokenizer(tokenizer)
    written = _written(tokenizer, own, has_origin=has_origin)
    if lost := lost_settings(kept, {**written.files, **own}):
        told = (*told, f"{listed(lost)} of the checkpoint are not written, because --tokenizer {named} was given")
    return replace(written, warnings=(*written.warnings, *told))


def kept_tokenizer(ours: OurTensors, belongings: Belongings) -> dict[str, bytes]:
    """Return the tokenizer's files of a checkpoint; of one of an earlier version, those that its run still has.

    Empty if it has none, or they cannot be read, or have become another tokenizer.
    """
    kept, recorded = _kept(ours, belongings), recorded_tokenizers(ours.manifest.fingerprint)
    path = None if kept or not recorded else _path_in_run(ours.path)
    if path is None:
        return kept
    try:
        tokenizer = open_tokenizer(path, needs_end=False)
        is_same = any(relation_to(identity, tokenizer) == "same" for identity in recorded)
        return files_of_tokenizer(tokenizer) if is_same else {}
    except HarnessError:
        return {}


def _remarks(recorded: Sequence[TokenizerIdentity], tokenizer: Tokenizer, num_rows: int) -> tuple[str, ...]:
    """Return remarks on a tokenizer that is not the very one that the checkpoint was trained with.

    Raises:
        UsageError: It has more ids than the model has rows.
    """
    relations = [relation_to(identity, tokenizer) for identity in recorded]
    if "same" in relations:
        return ()
    if tokenizer.vocab_size > num_rows:
        raise UsageError(
            f"The tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids, the model {num_rows} rows: a text could "
            "have an id that the model lacks. Give the tokenizer that the checkpoint was trained with. A model gets "
            f"rows by convert from-hf --vocab-size {tokenizer.vocab_size}."
        )
    if "grown" not in relations:
        return ()
    return (
        f"{tokenizer.path} grew from the tokenizer that the checkpoint was trained with, from "
        f"{recorded[relations.index('grown')].vocab_size} to {tokenizer.vocab_size} ids: the model has not been "
        "trained with the new ones",
    )


def _kept(ours: OurTensors, belongings: Belongings) -> dict[str, bytes]:
    """Return the files in a checkpoint; of an earlier version, those of its run if one of them made it."""
    files = in_folder(belongings, TOKENIZER_FOLDER)
    recorded = recorded_tokenizers(ours.manifest.fingerprint)
    if ours.manifest.longest_seq_length is not None or not recorded:
        return files
    hashes = {xxhash.xxh3_64_hexdigest(content) for content in files.values()}
    return files if any(identity.xxh3 in hashes for identity in recorded) else {}


def _path_in_run(checkpoint: Path) -> Path | None:
    """Return `data.tokenizer` of the run that a checkpoint of an earlier version lies in."""
    for run in dict.fromkeys((checkpoint.absolute().parent.parent, checkpoint.resolve().parent.parent)):
        try:
            return load_config(run / "config.yaml").data.tokenizer
        except (HarnessError, OSError):
            continue
    return None


def _of_checkpoint(kept: Mapping[str, bytes], *, has_origin: bool) -> TokenizerFiles:
    if has_origin and not _is_bare(kept):
        return TokenizerFiles(files=kept)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in kept.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        try:
            return _written(open_tokenizer(Path(folder), needs_end=False), kept, has_origin=has_origin)
        except HarnessError as error:
            told = f"its tokenizer is copied as it is, and could not be opened: {str(error).replace(folder, '')}"
            return TokenizerFiles(files=kept, warnings=(told,))


def _is_bare(files: Mapping[str, bytes]) -> bool:
    """Return whether there is nothing that tells transformers how to load the tokenizer."""
    return _TRANSLATED not in files and SETTINGS_FILE not in files


def _written(tokenizer: Tokenizer, files: Mapping[str, bytes], *, has_origin: bool) -> TokenizerFiles:
    """Return the files of an open tokenizer, translated where transformers would give other ids."""
    warnings: tuple[str, ...] = ()
    if _TRANSLATED not in files and (not has_origin or _is_bare(files)):
        files = {**files, **_translated(tokenizer, files)}
        if _TRANSLATED not in files:
            warnings = (
                f"{tokenizer.path.name} is not written as a tokenizer.json, for want of one with the same ids: it is "
                "copied as it is. Load it with its own library; transformers would translate it by rules of its own, "
                "to other ids.",
            )
    end = tokenizer.symbols.end
    ids = {"bos_token_id": None, "eos_token_id": end.id if end else None}
    return TokenizerFiles(files=files, special_ids=ids, warnings=warnings)


def _translated(tokenizer: Tokenizer, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a tokenizer as transformers reads it, with the settings beside it; empty if that would give other ids."""
    text = None
    if isinstance(tokenizer, SentencePieceTokenizer):
        text = sentencepiece_model.as_tokenizer_json(tokenizer.path.read_bytes())
    elif isinstance(tokenizer, TiktokenTokenizer):
        text = tiktoken_model.as_tokenizer_json(tokenizer)
    if text is None:
        return {}
    symbols = {symbol["id"]: symbol["content"] for symbol in parse_json(text)["added_tokens"]}
    own = _settings(files)
    settings = {
        "eos_token": symbols.get(tokenizer.symbols.end.id) if tokenizer.symbols.end else None,
        "clean_up_tokenization_spaces": False,
        **{key: value for key, value in own.items() if key != "auto_map"},
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {_TRANSLATED: text.encode(), SETTINGS_FILE: (json.dumps(settings, indent=2) + "\n").encode()}


def _settings(files: Mapping[str, bytes]) -> dict[str, object]:
    try:
        found = parse_json(files.get(SETTINGS_FILE, b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
