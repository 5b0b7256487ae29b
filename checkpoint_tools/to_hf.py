"""A checkpoint to a Hugging Face model: read in place, written file by file, proven, then renamed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from checkpoint_tools import output_folder
from checkpoint_tools.conversion_plan import Shard, plan_shards, require_complete
from checkpoint_tools.families.config_json import fields_for
from checkpoint_tools.families.family import Family, Fields
from checkpoint_tools.families.registry import family_for_writing
from checkpoint_tools.families.rotation import dynamic_scaling, rotary_fields
from checkpoint_tools.number_formats import require_fits
from checkpoint_tools.our_tensors import OurTensors, open_checkpoint
from checkpoint_tools.proof import Proof, prove
from checkpoint_tools.safetensors_file import safetensors_writer
from checkpoint_tools.their_tensors import INDEX_NAME, read_json
from checkpoint_tools.tokenizer_files import SOURCE_FOLDER, TokenizerFiles, find_tokenizer
from harness.config.schema import ModelConfig
from harness.errors import UsageError
from harness.progress import Progress, ShowProgress
from harness.run.checkpoints.manifest import MANIFEST_NAME, manifest_text
from harness.run.files import replace_file
from harness.run.paths import RunDir
from harness.version import VERSION

NUM_WORKERS = 4
"""Files written at once; each needs the memory of one tensor and its copy."""


@dataclass(frozen=True, kw_only=True)
class ToHf:
    """Settings of a conversion."""

    checkpoint: Path
    out: Path
    family: str | None = None
    """The family to write; None: by the features of the model."""
    dtype: torch.dtype | None = None
    """Number format to write; None: the checkpoint's."""
    max_shard_bytes: int = 5 * 10**9
    tokenizer: Path | None = None
    """The tokenizer to put beside the weights; None: the run's."""
    without_tokenizer: bool = False
    hashes: bool = True
    """The content of all files of the checkpoint is verified, not only sizes and small files."""
    num_workers: int = NUM_WORKERS
    proof_layers: int | None = None
    """Layers that are compared; None: as many as fit into memory."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The result of a conversion."""

    out: Path
    family: Family
    num_tensors: int
    num_bytes: int
    kept_bytes: int
    """Bytes that were there from before an interruption."""
    seconds: float
    """Reading and writing the rest of the weights, without verification and proof."""
    proof: Proof
    left_out: tuple[str, ...] = ()
    """Source tensors that were not converted, because they are not weights or are copies of others."""
    warnings: tuple[str, ...] = ()
    """Warnings for a user who continues with the result."""


def convert(job: ToHf, show: ShowProgress) -> Converted:
    """Convert and prove; OUT is there only if all of it went well.

    Raises:
        CheckpointError: The checkpoint is damaged, or the result is not the same model.
        UsageError: CHECKPOINT is something else, no family can express the model, OUT exists, or the tokenizer is not
            found.
    """
    _require_checkpoint(job.checkpoint)
    ours = open_checkpoint(job.checkpoint, hashes=job.hashes)
    family = family_for_writing(ours.model, job.family)
    require_complete(ours.names, (move.ours for move in family.moves(ours.model)), f"Checkpoint {ours.path}")
    shards = plan_shards(
        family, ours.model, lambda name: (ours.shape(name), ours.dtype(name)), job.dtype, job.max_shard_bytes
    )
    tokenizer = None if job.without_tokenizer else find_tokenizer(ours, job.tokenizer)
    record = _record(ours, family, shards, tokenizer, job)
    num_bytes = sum(shard.num_bytes for shard in shards)
    with output_folder.begun(job.out, record) as partial:
        _write_settings(partial, ours, family, tokenizer, shards)
        started = time.perf_counter()
        with show("convert", num_bytes) as progress:
            kept_bytes = write_shards(partial, ours, shards, job.num_workers, progress)
        seconds = time.perf_counter() - started
        proof = prove(ours, partial, partial / output_folder.PROOF_NAME, num_layers=job.proof_layers)
        output_folder.publish(partial, job.out, {**record, "proof": proof.as_json()})
    return Converted(
        out=job.out,
        family=family,
        num_tensors=sum(len(shard.entries) for shard in shards),
        num_bytes=num_bytes,
        kept_bytes=kept_bytes,
        seconds=seconds,
        proof=proof,
        left_out=ours.left_out,
        warnings=(tokenizer.warning,) if tokenizer and tokenizer.warning else (),
    )


def _require_checkpoint(path: Path) -> None:
    """Refuse a run directory or a Hugging Face model given in place of a checkpoint; the reader finds other errors."""
    if RunDir(path).checkpoints.is_dir():
        raise UsageError(
            f"{path} is a run directory: name one of its checkpoints. List them: harness checkpoint list {path}"
        )
    if not (path / MANIFEST_NAME).is_file() and (path / "config.json").is_file():
        raise UsageError(f"{path} is a Hugging Face model, no checkpoint. To go the other way: harness convert from-hf")


def write_shards(folder: Path, ours: OurTensors, shards: Sequence[Shard], num_workers: int, progress: Progress) -> int:
    """Write the files that are not there yet, several at once; every tensor of each file exactly once.

    Returns:
        Bytes that were there from before an interruption.
    """
    missing = [shard for shard in shards if not (folder / shard.name).exists()]
    progress(kept_bytes := sum(shard.num_bytes for shard in shards) - sum(shard.num_bytes for shard in missing))
    with ThreadPoolExecutor(max_workers=num_workers) as pool:
        jobs = [pool.submit(_write_shard, folder / shard.name, ours, shard, progress) for shard in missing]
        for job in jobs:
            job.result()
    return kept_bytes


def _write_shard(path: Path, ours: OurTensors, shard: Shard, progress: Progress) -> None:
    with safetensors_writer(path, shard.entries) as write:
        for written in shard.written:
            tensor = ours.read(written.move.ours)
            require_fits(written.move.ours, tensor, written.entries[0].dtype)
            parts = written.move.fusion.split(tensor, ours.model)
            for entry, part in zip(written.entries, parts, strict=True):
                write(entry.name, part.to(entry.dtype))
            progress(written.num_bytes)


def _record(
    ours: OurTensors, family: Family, shards: Sequence[Shard], tokenizer: TokenizerFiles | None, job: ToHf
) -> dict[str, object]:
    """Return the input, output and settings of a conversion: an interrupted one is resumed only if all are the same."""
    formats = sorted({str(entry.dtype).removeprefix("torch.") for shard in shards for entry in shard.entries})
    return {
        "converted": "to-hf",
        "checkpoint": ours.path.name,
        "manifest_xxh3": xxhash.xxh3_64_hexdigest(manifest_text(ours.manifest).encode()),
        "step": ours.manifest.step,
        "family": family.model_type,
        "formats": formats,
        "max_shard_bytes": job.max_shard_bytes,
        "tokenizer_xxh3": {
            name: xxhash.xxh3_64_hexdigest(content) for name, content in (tokenizer.files.items() if tokenizer else ())
        },
        "harness": VERSION,
    }


def _write_settings(
    folder: Path, ours: OurTensors, family: Family, tokenizer: TokenizerFiles | None, shards: Sequence[Shard]
) -> None:
    """Write `config.json`, `generation_config.json`, the index of the weights, and the tokenizer's files."""
    extras = {**(tokenizer.special_ids if tokenizer else {}), **_kept_settings(ours)}
    ids = {key: value for key, value in extras.items() if key.endswith("_token_id") and value is not None}
    formats = {entry.dtype for shard in shards for entry in shard.entries}
    # The name of transformers 4, which 5 reads too.
    widest = str(max(formats, key=lambda dtype: dtype.itemsize)).removeprefix("torch.")
    fields = fields_for(ours.model, family, {**extras, "torch_dtype": widest})
    _write_json(folder / "config.json", fields)
    _write_json(folder / "generation_config.json", {**ids, "do_sample": False})
    if len(shards) > 1:
        files = {entry.name: shard.name for shard in shards for entry in shard.entries}
        total = sum(shard.num_bytes for shard in shards)
        _write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": files})
    if tokenizer is not None:
        for name, content in tokenizer.files.items():
            replace_file(folder / name, content)


def _kept_settings(ours: OurTensors) -> dict[str, object]:
    """Return settings that do not change the function: the special ids of the model it began from, and the lengths."""
    source = ours.path.resolve().parent.parent / SOURCE_FOLDER / "config.json"
    kept = read_json(source) if source.is_file() else {}
    settings: dict[str, object] = {
        key: kept[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in kept
    }
    data = ours.manifest.fingerprint.get("data")
    lengths = [kept.get("max_position_embeddings"), data.get("seq_length") if isinstance(data, dict) else None]
    known = [length for length in lengths if isinstance(length, int)]
    if known:
        settings["max_position_embeddings"] = max(known)
        if known[0] == lengths[0] == max(known) and _rotates_as(ours.model, kept):
            settings["rope_scaling"] = dynamic_scaling(kept)
    return settings


def _rotates_as(model: ModelConfig, kept: Fields) -> bool:
    """Return whether the rotary positions equal those of the original model, which stretches only longer sequences."""
    plain = {"rope_theta": kept.get("rope_theta") or (kept.get("rope_parameters") or {}).get("rope_theta")}
    return dynamic_scaling(kept) is not None and rotary_fields(model) == {**plain, "rope_scaling": None}


def _write_json(path: Path, fields: dict[str, object]) -> None:
    replace_file(path, (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode())
