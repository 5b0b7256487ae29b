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
from checkpoint_tools.kept_settings import KeptSettings, kept_settings
from checkpoint_tools.number_formats import require_fits
from checkpoint_tools.original_settings import SPECIAL_IDS
from checkpoint_tools.our_tensors import OurTensors, open_checkpoint
from checkpoint_tools.proof import Proof, prove
from checkpoint_tools.safetensors_file import safetensors_writer
from checkpoint_tools.their_tensors import INDEX_NAME
from checkpoint_tools.tokenizer_files import TokenizerFiles, find_tokenizer
from checkpoint_tools.transformers_model import require_loadable
from harness.errors import UsageError
from harness.progress import Progress, ShowProgress
from harness.run.checkpoints.for_export import GENERATION_CONFIG, belongings_of
from harness.run.checkpoints.manifest import MANIFEST_NAME, manifest_text
from harness.run.files import broken_link, replace_file
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
    without_mtp: bool = False
    """The modules that predict further tokens are left out."""
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
        UsageError: CHECKPOINT is something else, no family can express the model, OUT exists or lies in CHECKPOINT, or
            the tokenizer is not found or has more ids than the model has rows; or the model has modules that predict
            further tokens, and they are not left out.
    """
    _require_checkpoint(job.checkpoint)
    output_folder.require_free(job.out, [job.checkpoint])
    ours = _with_or_without_mtp(open_checkpoint(job.checkpoint, hashes=job.hashes), without=job.without_mtp)
    family = family_for_writing(ours.model, job.family)
    require_complete(ours.names, (move.ours for move in family.moves(ours.model)), f"Checkpoint {ours.path}")
    shards = plan_shards(
        family, ours.model, lambda name: (ours.shape(name), ours.dtype(name)), job.dtype, job.max_shard_bytes
    )
    belongings = belongings_of(ours.path, ours.manifest)
    kept = kept_settings(ours, belongings)
    tokenizer = None if job.without_tokenizer else find_tokenizer(ours, belongings, job.tokenizer)
    record = _record(ours, family, shards, tokenizer, job)
    num_bytes = sum(shard.num_bytes for shard in shards)
    with output_folder.begun(job.out, record) as held:
        partial = held.folder
        _write_settings(partial, fields_for(ours.model, family, _extras(kept, tokenizer, shards)), kept)
        _write_index(partial, shards)
        for name, content in (tokenizer.files if tokenizer else {}).items():
            (partial / name).parent.mkdir(exist_ok=True)
            replace_file(partial / name, content)
        started = time.perf_counter()
        with show("convert", num_bytes) as progress:
            kept_bytes = write_shards(partial, ours, shards, job.num_workers, progress)
        seconds = time.perf_counter() - started
        require_loadable(partial, family)
        proof = prove(ours, partial, partial / output_folder.PROOF_NAME, num_layers=job.proof_layers)
        output_folder.publish(held, job.out, {**record, "proof": proof.as_json()})
    return Converted(
        out=job.out,
        family=family,
        num_tensors=sum(len(shard.entries) for shard in shards),
        num_bytes=num_bytes,
        kept_bytes=kept_bytes,
        seconds=seconds,
        proof=proof,
        left_out=ours.left_out,
        warnings=(*([family.note] if family.note else []), *kept.warnings, *(tokenizer.warnings if tokenizer else ())),
    )


def _require_checkpoint(path: Path) -> None:
    """Refuse a Hugging Face model, or a run without its disk; the reader of checkpoints finds other errors."""
    if problem := broken_link(RunDir(path).checkpoints):
        raise UsageError(f"{RunDir(path).checkpoints} {problem}.")
    if not (path / MANIFEST_NAME).is_file() and (path / "config.json").is_file():
        raise UsageError(f"{path} is a Hugging Face model, no checkpoint. To go the other way: harness convert from-hf")


def _with_or_without_mtp(ours: OurTensors, *, without: bool) -> OurTensors:
    """Leave the modules that predict further tokens out, or refuse a model that has some."""
    number = ours.model.num_mtp_modules
    if without and not number:
        raise UsageError(f"{ours.path} has no modules that predict further tokens: leave --without-mtp out.")
    if number and not without:
        raise UsageError(
            f"{ours.path} has modules that predict further tokens (model.mtp_num_layers {number}), which cannot be "
            "written. Give --without-mtp to write the model without them: it predicts the next token as before."
        )
    return ours.without_mtp_modules() if without else ours


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
        **({"without_mtp": True} if job.without_mtp else {}),
        "checkpoint": ours.path.name,
        "manifest_xxh3": xxhash.xxh3_64_hexdigest(manifest_text(ours.manifest).encode()),
        "step": ours.manifest.step,
        "family": family.model_type,
        "formats": formats,
        "max_shard_bytes": job.max_shard_bytes,
        "tokenizer_xxh3": {
            name: xxhash.xxh3_64_hexdigest(content) for name, content in (tokenizer.files.items() if tokenizer else ())
        },
        # Of the one that the weights were trained with, so that a tokenizer can be held against the export.
        "tokenizer": ours.manifest.fingerprint.get("tokenizer"),
        "harness": VERSION,
    }


def _extras(kept: KeptSettings, tokenizer: TokenizerFiles | None, shards: Sequence[Shard]) -> Fields:
    """Return the keys of `config.json` that do not change the function."""
    formats = {entry.dtype for shard in shards for entry in shard.entries}
    # The name of transformers 4, which 5 reads too.
    widest = str(max(formats, key=lambda dtype: dtype.itemsize)).removeprefix("torch.")
    ids = tokenizer.special_ids if tokenizer and not kept.has_origin else {}
    return {**ids, **kept.config, "torch_dtype": widest}


def _write_settings(folder: Path, fields: Fields, kept: KeptSettings) -> None:
    """Write `config.json` and `generation_config.json`."""
    _write_json(folder / "config.json", fields)
    if kept.generation_config is not None:
        replace_file(folder / GENERATION_CONFIG, kept.generation_config)
    else:
        ids = {key: fields[key] for key in SPECIAL_IDS if fields.get(key) is not None}
        _write_json(folder / GENERATION_CONFIG, {**ids, "do_sample": False, **kept.generation})


def _write_index(folder: Path, shards: Sequence[Shard]) -> None:
    if len(shards) > 1:
        files = {entry.name: shard.name for shard in shards for entry in shard.entries}
        total = sum(shard.num_bytes for shard in shards)
        _write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": files})


def _write_json(path: Path, fields: dict[str, object]) -> None:
    replace_file(path, (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))
