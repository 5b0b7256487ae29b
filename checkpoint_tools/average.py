"""Averages several checkpoints of one model, into a run that can be trained further or converted.

The mean is taken tensor by tensor in fp32 and written in each tensor's own format. The result is a run directory with
one checkpoint without optimizer state. It has the step of the last checkpoint that was named, the tokenizer's files and
the original settings of the last one that has them, the longest sequences of any, and the worst health of any;
abandoned ones are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import xxhash

from checkpoint_tools import output_folder
from checkpoint_tools.checkpoint_writer import Weights
from checkpoint_tools.families.rotation import rotary_fields
from checkpoint_tools.mean_belongings import MeanBelongings, belongings_of_mean
from checkpoint_tools.our_tensors import OurTensors, open_checkpoint
from checkpoint_tools.run_writer import write_run
from harness.data.fingerprint import fingerprint_filled_in
from harness.errors import CheckpointError, UsageError
from harness.progress import ShowProgress
from harness.run.checkpoints.compare import differences
from harness.run.checkpoints.for_export import longest_seq_length
from harness.run.checkpoints.manifest import Health, Manifest, manifest_text
from harness.run.paths import RunDir
from harness.text import listed
from harness.version import VERSION


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """The result of taking a mean."""

    checkpoint: Path
    warnings: tuple[str, ...] = ()
    """Warnings for a user who continues with the result."""


def average(
    paths: Sequence[Path], out: Path, show: ShowProgress, *, hashes: bool = True, num_workers: int = 4
) -> Averaged:
    """Write the mean of checkpoints.

    Raises:
        UsageError: Fewer than two checkpoints, or OUT exists or lies in one of them.
        CheckpointError: A checkpoint is damaged, abandoned, or computes by another model than the first; or they have
            different tokenizers.
    """
    if len(paths) < 2:
        raise UsageError("A mean needs at least two checkpoints.")
    output_folder.require_free(out, paths)
    opened = [open_checkpoint(path, hashes=hashes) for path in paths]
    for checkpoint in opened:
        _require_living(checkpoint)
    for other in opened[1:]:
        _require_alike(opened[0], other)
    health: Health = "suspect" if any(each.manifest.health == "suspect" for each in opened) else "clean"
    belongings = belongings_of_mean(opened)
    last = opened[-1].manifest
    manifests = [xxhash.xxh3_64_hexdigest(manifest_text(checkpoint.manifest).encode()) for checkpoint in opened]
    lengths = [longest_seq_length(checkpoint.manifest) for checkpoint in opened]
    record = {"averaged": [str(path) for path in paths], "manifests_xxh3": manifests, "harness": VERSION}
    with output_folder.begun(out, record) as held:
        with show("average", sum(_num_bytes(opened[0], name) for name in opened[0].names)) as progress:
            written = write_run(
                held.folder,
                _manifest(last, None if None in lengths else max(filter(None, lengths), default=0), health, belongings),
                Weights(
                    model=opened[0].model,
                    names=opened[0].names,
                    read=lambda name: mean([checkpoint.read(name) for checkpoint in opened]),
                ),
                belongings.files,
                num_workers=num_workers,
                progress=progress,
            )
        output_folder.publish(held, out, record)
    return Averaged(
        checkpoint=RunDir(out).checkpoints / written.checkpoint.name,
        warnings=(*_suspects(opened), *belongings.warnings),
    )


def mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean, computed in fp32, in the format of the first tensor."""
    total = tensors[0].float().clone()
    for tensor in tensors[1:]:
        total += tensor.float()
    return (total / len(tensors)).to(tensors[0].dtype)


def _require_living(ours: OurTensors) -> None:
    if ours.manifest.health == "abandoned":
        raise CheckpointError(
            f"{ours.path} is abandoned: a rollback left it behind. A mean with it would bring back what was given up. "
            "Leave it out."
        )


def _suspects(opened: Sequence[OurTensors]) -> Iterator[str]:
    if suspect := [str(ours.path) for ours in opened if ours.manifest.health == "suspect"]:
        yield f"the mean is suspect, because {listed(suspect)} may be spoilt"


def _require_alike(one: OurTensors, other: OurTensors) -> None:
    before, after = (fingerprint_filled_in(each.manifest.fingerprint) for each in (one, other))
    found = differences(before, after, allow_added_parts=True)
    wrong = [line for line in found if line.startswith("model")]
    rotations = [rotary_fields(each.model) for each in (one, other)]
    if rotations[0] != rotations[1]:  # of phases, which may have their own
        wrong.append(
            "rotation of the last phase: "
            + ", there ".join(f"rotary_base {r['rope_theta']:g}, rope_scaling {r['rope_scaling']}" for r in rotations)
        )
    if wrong or set(one.names) != set(other.names):
        raise CheckpointError(
            f"{other.path} is of another model than {one.path}:\n  " + "\n  ".join(wrong or ["other tensors"])
        )


def _num_bytes(ours: OurTensors, name: str) -> int:
    return torch.empty(ours.shape(name), dtype=ours.dtype(name), device="meta").nbytes


def _manifest(last: Manifest, longest: int | None, health: Health, belongings: MeanBelongings) -> Manifest:
    """Return the manifest of the last checkpoint, without the fields that only hold for its own weights."""
    kept = {"model": last.fingerprint["model"], **belongings.fingerprint}
    return last.model_copy(
        update={
            "optimizer_norms": {},
            "last_losses": (),
            "base_losses": None,
            "phase_losses": None,
            "next_batch_hash": None,
            "parent": None,
            "pinned": False,
            "health": health,
            "saved_at": datetime.now(UTC),
            "longest_seq_length": longest,
            "fingerprint": kept,
            "files": {},
        }
    )
