"""The verbs of `harness checkpoint` that read tensors: inspect and diff."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from checkpoint_tools.foreign_files import is_there
from harness.run.checkpoints.key_option import key_of_checkpoint, signature_key_option
from harness.run.checkpoints.manifest import MANIFEST_NAME, Manifest
from harness.run.checkpoints.verify import verify_before_load
from harness.say import say
from harness.text import size_text, table

if TYPE_CHECKING:
    from checkpoint_tools.difference import Difference

EXIT_DIFFERENT = 1
_EXISTING = click.Path(exists=True, path_type=Path)
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@click.command()
@click.argument("checkpoint", type=_EXISTING)
@signature_key_option
@_AS_JSON
def inspect(checkpoint: Path, key_file: Path | None, as_json: bool) -> None:
    """Show what is in CHECKPOINT: where it comes from, its layout, its place in the data, and every tensor.

    Reads the manifest and the index, not the tensors; needs no GPU and none of the ranks that wrote it. The folder of a
    Hugging Face model is shown too.

    \b
    Examples:
      harness checkpoint inspect runs/tiny/checkpoints/step_0000300
      harness checkpoint inspect exported/tiny
      harness checkpoint inspect runs/tiny/checkpoints/step_0000300 --json | jq '.tensors | keys'
    """
    from checkpoint_tools.difference import num_bytes
    from checkpoint_tools.torch_dist import read_index

    if _is_model_folder(checkpoint):
        say(json.dumps(_model_content(checkpoint), indent=2) if as_json else _model_text(checkpoint))
        return
    manifest = verify_before_load(checkpoint, key=key_of_checkpoint(checkpoint, key_file))
    index = read_index(checkpoint)
    tensors: dict[str, dict[str, Any]] = {
        name: {
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
            "num_chunks": len(tensor.chunks),
            "bytes": num_bytes(tensor),
        }
        for name, tensor in index.items()
    }
    if as_json:
        fields = manifest.model_dump(mode="json", by_alias=True, exclude={"files"})
        say(json.dumps({"path": str(checkpoint), **fields, "tensors": tensors}, indent=2))
        return
    say("\n".join(_origin(checkpoint, manifest)))
    rows = [
        (name, str(t["shape"]), t["dtype"], str(t["num_chunks"]), size_text(t["bytes"])) for name, t in _by(tensors)
    ]
    total = sum(t["bytes"] for t in tensors.values())
    say(f"{len(tensors)} tensors, {size_text(total)}\n")
    say(table([("tensor", "shape", "format", "chunks", "size"), *rows]))


@click.command()
@click.argument("first", type=_EXISTING)
@click.argument("second", type=_EXISTING)
@click.option("--all", "show_all", is_flag=True, help="Also list the tensors that are equal.")
@click.option("--deep", is_flag=True, help="Verify the content of all files first, not only sizes and small files.")
@signature_key_option
@_AS_JSON
def diff(  # noqa: PLR0913 (one argument per option)
    first: Path, second: Path, show_all: bool, deep: bool, key_file: Path | None, as_json: bool
) -> int:
    """Compare every tensor of two checkpoints, weights and optimizer state, whatever their layouts.

    Equal means every bit. Exits with 0 if all are equal and with 1 if anything differs. Tensors are read one chunk
    after the other: checkpoints larger than the memory are no problem. Where one of the two is the folder of a Hugging
    Face model, weights and settings are compared, by our names.

    \b
    Examples:
      harness checkpoint diff runs/a/checkpoints/step_0000300 runs/b/checkpoints/step_0000300
      harness checkpoint diff runs/a/checkpoints/step_0000300 runs/a/checkpoints/step_0000400 --json
      harness checkpoint diff runs/a/checkpoints/step_0000300 exported/a
    """
    from checkpoint_tools.difference import compare, num_bytes
    from checkpoint_tools.torch_dist import read_index
    from harness.progress import shown

    if _is_model_folder(first) or _is_model_folder(second):
        num_different, text = _model_difference(first, second, as_json=as_json)
        say(text)
        return EXIT_DIFFERENT if num_different else 0
    for path in (first, second):
        verify_before_load(path, deep=deep, key=key_of_checkpoint(path, key_file))
    total = sum(map(num_bytes, read_index(first).values()))
    with shown("comparing", total) as progress:
        found = list(compare(first, second, progress))
    different = [item for item in found if item.verdict != "equal"]
    if as_json:
        say(json.dumps({item.name: _as_json(item) for item in found}, indent=2, allow_nan=False))
    else:
        if shown_items := (found if show_all else different):
            header = ("tensor", "verdict", "largest", "mean", "")
            say(table([header, *(_row(item) for item in shown_items)]))
        say(f"{len(found) - len(different)} tensors are equal in every bit, {len(different)} differ")
    return EXIT_DIFFERENT if different else 0


def _origin(path: Path, manifest: Manifest) -> list[str]:
    versions, parent = manifest.versions, manifest.parent
    layout = ", ".join(f"{name} {size}" for name, size in manifest.layout.__dict__.items())
    cursor = ", ".join(f"{name} {json.dumps(value)}" for name, value in manifest.cursor.items())
    norms = ", ".join(f"{name} {value:.6g}" for name, value in manifest.optimizer_norms.items())
    loss = f"{manifest.last_losses[-1][1]:.4f}" if manifest.last_losses else "unknown"
    return [
        f"{path}",
        f"step {manifest.step}, attempt {manifest.attempt}, {manifest.health}{', pinned' if manifest.pinned else ''}, "
        f"from {'initial weights' if parent is None else f'step {parent.step} of attempt {parent.attempt}'}",
        f"saved at {manifest.saved_at:%Y-%m-%d %H:%M:%S %Z} by harness {versions.harness}, megatron-core "
        f"{versions.megatron_core}, torch {versions.torch}, Python {versions.python}",
        f"layout: {layout}",
        f"cursor: {cursor}",
        f"loss {loss}, learning rate {manifest.learning_rate:.6g}, norms of the optimizer's state: {norms or 'none'}",
    ]


def _by(tensors: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return tensors in groups: weights first, then the optimizer's state."""
    return sorted(tensors.items(), key=lambda item: (item[0].startswith("optimizer."), item[0]))


def _row(item: Difference) -> tuple[str, ...]:
    numbers = ("" if value is None else f"{value:.3g}" for value in (item.largest, item.mean))
    return (item.name, item.verdict, *numbers, item.detail)


def _as_json(item: Difference) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(item).items() if name != "name"}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()
    }


def _is_model_folder(path: Path) -> bool:
    """Return whether a folder holds a Hugging Face model and no checkpoint."""
    return is_there(path / "config.json") and not (path / MANIFEST_NAME).is_file()


def _model_content(path: Path) -> dict[str, Any]:
    """Return the contents of a folder: family, model, and every tensor with its shape, format, file and size.

    Raises:
        CheckpointError: It is damaged, or of a model that is not known here.
    """
    from checkpoint_tools.their_tensors import open_model

    theirs = open_model(path)
    tensors: dict[str, dict[str, Any]] = {}
    for name in theirs.names:
        shape, dtype = theirs.described(name)
        tensors[name] = {
            "shape": list(shape),
            "dtype": str(dtype).removeprefix("torch."),
            "file": theirs.files[name],
            "bytes": math.prod(shape) * dtype.itemsize,
        }
    return {
        "path": str(path),
        "family": theirs.family.model_type,
        "architecture": theirs.family.architecture,
        "model": theirs.model.model_dump(mode="json"),
        "tensors": tensors,
    }


def _model_text(path: Path) -> str:
    """Return the contents of a folder as text."""
    found = _model_content(path)
    tensors: dict[str, dict[str, Any]] = found["tensors"]
    rows = [(name, str(t["shape"]), t["dtype"], t["file"], size_text(t["bytes"])) for name, t in tensors.items()]
    fields = ", ".join(f"{name} {json.dumps(value)}" for name, value in found["model"].items() if value is not None)
    total = size_text(sum(tensor["bytes"] for tensor in tensors.values()))
    head = f"{path}\n{found['architecture']}, a Hugging Face model\nmodel: {fields}\n{len(tensors)} tensors, {total}\n"
    return f"{head}\n{table([('tensor', 'shape', 'format', 'file', 'size'), *rows])}"


def _model_difference(first: Path, second: Path, *, as_json: bool) -> tuple[int, str]:
    """Return the number and the names of weights and settings that differ; either model may be a checkpoint.

    Tensors go by our names, without the padding of the vocabulary; a checkpoint's optimizer state is left aside.

    Raises:
        CheckpointError: One of them is damaged, or has tensors that the other has not.
    """
    from checkpoint_tools.compare_models import differences, open_either

    one, other = open_either(first), open_either(second)
    found = differences(one, other)
    if as_json:
        return len(found), json.dumps({item.name: {"verdict": "different", "detail": item.what} for item in found})
    rows = [("weight or setting", "difference"), *((item.name, item.what) for item in found)]
    last = f"{len(one.names)} weights compared, {len(found)} differences"
    return len(found), "\n".join([*([table(rows)] if found else []), last])
