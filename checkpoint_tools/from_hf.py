"""A Hugging Face model to a run that begins from its weights: a checkpoint of step 0 without optimizer state.

```
OUT/checkpoints/step_0000000/    the weights
        tokenizer/  origin/      the files of the model's tokenizer; its config.json and generation_config.json
    continued.yaml               the run that goes on from them, once its placeholders are filled in
    conversion.json              what was converted, and the proof
```

An interrupted conversion continues where it was, also in the proof.
"""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import xxhash

from checkpoint_tools import output_folder
from checkpoint_tools.checkpoint_writer import Weights
from checkpoint_tools.families.config_json import plain_fields
from checkpoint_tools.families.family import Move
from checkpoint_tools.families.remarks import GENERATION
from checkpoint_tools.families.rotation import dynamic_scaling
from checkpoint_tools.foreign_files import is_there, read_whole
from checkpoint_tools.growth import NO_GROWTH, Growth
from checkpoint_tools.model_tokenizers import ModelTokenizers, look_at_tokenizers
from checkpoint_tools.original_settings import OriginalSettings, original_settings
from checkpoint_tools.our_tensors import open_checkpoint
from checkpoint_tools.proof import prove
from checkpoint_tools.run_writer import write_run
from checkpoint_tools.starter_config import STARTER_NAME, starter_text
from checkpoint_tools.their_model import checked_moves, require_stackable
from checkpoint_tools.their_tensors import MAX_CONFIG_BYTES, TheirTensors, open_model
from checkpoint_tools.to_hf import Converted
from checkpoint_tools.transformers_model import require_shapes
from harness.config.identity import identity_of
from harness.config.model import ModelConfig
from harness.data.order.cursor import Cursor
from harness.errors import UsageError
from harness.json_text import parse_json
from harness.parameters.names import fused_name
from harness.parameters.table import parameter_table
from harness.plan.layouts import Layout
from harness.progress import ShowProgress
from harness.run.checkpoints.for_export import (
    CONFIG,
    GENERATION_CONFIG,
    MAX_BYTES,
    ORIGIN_FOLDER,
    TOKENIZER_FOLDER,
    Belongings,
    in_folder,
    put_into,
)
from harness.run.checkpoints.manifest import MANIFEST_NAME, Manifest, Versions
from harness.run.files import replace_file
from harness.tokenizers.belonging_files import files_of_tokenizer, names_in_model, with_settings_of
from harness.tokenizers.identity import relation_to
from harness.version import VERSION


def convert(  # noqa: PLR0913 (one argument per option)
    folder: Path,
    out: Path,
    show: ShowProgress,
    *,
    growth: Growth = NO_GROWTH,
    tokenizer: Path | None = None,
    num_workers: int = 4,
    proof_layers: int | None = None,
) -> Converted:
    """Convert, let the model grow, and prove; OUT is there only if all of it went well.

    With `tokenizer` training goes on with that one, which is the model's own or grew from it.

    Raises:
        CheckpointError: The folder is damaged, has a feature that is not known, or the result is not the same model.
        UsageError: OUT exists or lies in MODEL, or MODEL is a checkpoint.
    """
    if (folder / MANIFEST_NAME).is_file():
        raise UsageError(f"{folder} is a checkpoint of harness. To go the other way: harness convert to-hf")
    output_folder.require_free(out, [folder])
    theirs = open_model(folder)
    model = growth.grown(theirs.model)
    moves = _moves(theirs)
    tokenizers = look_at_tokenizers(folder, tokenizer, model.vocab_size)
    belongings = _belongings(folder, tokenizers)
    settings = _settings(belongings, model.vocab_size)
    record = _record(theirs, growth, tokenizers, belongings)
    num_bytes = sum((folder / name).stat().st_size for name in set(theirs.files.values()))
    with output_folder.begun(out, record) as held:
        partial = held.folder
        with show("convert", num_bytes) as progress:
            written = write_run(
                partial,
                _manifest(model, tokenizers),
                Weights(
                    model=model,
                    names=_names(model),
                    read=growth.reader(lambda name: moves[name].joined(theirs.read_finite, theirs.model), theirs.model),
                ),
                belongings,
                num_workers=num_workers,
                progress=progress,
            )
        replace_file(partial / STARTER_NAME, _starter(model, theirs, growth, tokenizers).encode())
        ours = open_checkpoint(written.checkpoint, hashes=False)
        proof = prove(ours, folder, partial / output_folder.PROOF_NAME, num_layers=proof_layers, growth=growth)
        output_folder.publish(held, out, {**record, "proof": proof.as_json()})
    return Converted(
        out=out,
        family=theirs.family,
        num_tensors=len(theirs.names),
        num_bytes=num_bytes,
        kept_bytes=written.kept_bytes,
        seconds=written.seconds,
        proof=proof,
        left_out=theirs.left_out,
        warnings=(*_warnings(theirs), *settings.warnings, *tokenizers.warnings),
    )


def _starter(model: ModelConfig, theirs: TheirTensors, growth: Growth, tokenizers: ModelTokenizers) -> str:
    longest = theirs.fields.get("max_position_embeddings")
    return starter_text(
        model,
        origin=theirs.path.resolve().name,
        tokenizer=tokenizers.path,
        longest=model.max_position_embeddings or (longest if isinstance(longest, int) else None),
        growth=growth,
    )


def _names(model: ModelConfig) -> list[str]:
    """Return the names that a model's parameters have in a checkpoint."""
    return [fused_name(parameter.name, is_latent=model.multi_latent_attention) for parameter in parameter_table(model)]


def _moves(theirs: TheirTensors) -> dict[str, Move]:
    """Return the tensors by our names, after all was checked that can be known before they are read."""
    moves = checked_moves(theirs)
    require_shapes(theirs)
    require_stackable(theirs, moves.values())
    return moves


def _warnings(theirs: TheirTensors) -> tuple[str, ...]:
    told: list[str] = []
    # Settings of generation go with the model, and are told apart.
    if passed_over := [key for key in theirs.passed_over if key not in GENERATION]:
        told.append(f"its config.json has keys that change nothing, passed over: {', '.join(passed_over)}")
    if theirs.beside:
        told.append(
            f"its folder has other files that may hold weights, which were not read: {', '.join(theirs.beside)}"
        )
    if dynamic_scaling(theirs.fields) is not None:
        longest = theirs.fields.get("max_position_embeddings", "max_position_embeddings")
        told.append(
            f"its rope_scaling is dynamic: it stretches sequences of more than {longest} tokens, training here does "
            "not. to-hf writes the setting again, unless the run trained on longer sequences."
        )
    return tuple(told)


def _belongings(folder: Path, tokenizers: ModelTokenizers) -> Belongings:
    """Return the files that the checkpoint keeps of a model's folder, besides the weights.

    A tokenizer that grew from the folder's own takes the place of its files, and keeps its settings.

    Raises:
        CheckpointError: A link leads nowhere, the disk refuses, or a file is too large.
        DataError: A file of the named tokenizer cannot be read.
    """
    origin = {
        name: read_whole(folder / name, MAX_CONFIG_BYTES)
        for name in (CONFIG, GENERATION_CONFIG)
        if is_there(folder / name)
    }
    files = {name: read_whole(folder / name, MAX_BYTES) for name in names_in_model(folder)}
    named = tokenizers.named
    if named is not None and not (tokenizers.own and relation_to(tokenizers.own[0], named) == "same"):
        files = with_settings_of(files, files_of_tokenizer(named))
    return {**put_into(ORIGIN_FOLDER, origin), **put_into(TOKENIZER_FOLDER, files)}


def _settings(belongings: Belongings, num_rows: int) -> OriginalSettings:
    """Return the settings that an export of the model will have again."""
    files = in_folder(belongings, ORIGIN_FOLDER)
    return original_settings(plain_fields(parse_json(files[CONFIG])), files.get(GENERATION_CONFIG), num_rows)


def _record(
    theirs: TheirTensors, growth: Growth, tokenizers: ModelTokenizers, belongings: Belongings
) -> dict[str, object]:
    """Return the input, output and settings of a conversion: an interrupted one is resumed only if all are the same."""
    weights = [(name, (theirs.path / name).stat()) for name in sorted(set(theirs.files.values()))]
    seen = [(name, status.st_size, status.st_mtime_ns) for name, status in weights]
    return {
        "converted": "from-hf",
        "model": theirs.path.resolve().name,
        "belongings_xxh3": {name: xxhash.xxh3_64_hexdigest(content) for name, content in belongings.items()},
        "weights_xxh3": xxhash.xxh3_64_hexdigest(repr(seen).encode()),
        "family": theirs.family.model_type,
        "growth": {**asdict(growth), "copied_layers": list(growth.copied_layers)},
        **tokenizers.fingerprint(),
        "harness": VERSION,
    }


def _manifest(model: ModelConfig, tokenizers: ModelTokenizers) -> Manifest:
    fields = model.model_dump(mode="json")
    return Manifest(
        step=0,
        attempt=0,
        parent=None,
        health="clean",
        config_hash=xxhash.xxh3_64_hexdigest(repr(fields).encode()),
        versions=Versions(
            harness=VERSION,
            megatron_core=version("megatron-core"),
            torch=version("torch"),
            python=platform.python_version(),
        ),
        layout=Layout(tensor=1, pipeline=1, virtual_pipeline=1, context=1, data=1),
        consumed_samples=0,
        consumed_tokens=0,
        learning_rate=0.0,
        next_batch_hash=None,
        saved_at=datetime.now(UTC),
        save_seconds=0.0,
        cursor=Cursor().to_json(),
        optimizer_norms={},
        last_losses=(),
        longest_seq_length=0,
        fingerprint={"model": identity_of(model), **tokenizers.fingerprint()},
    )
