"""The weights and the settings of a Hugging Face model's folder, read without running anything that lies there.

Only `config.json`, `*.safetensors` and its index are opened: no pickles, no code. Links lead to regular files only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from checkpoint_tools.families.config_json import admit, family_of
from checkpoint_tools.families.family import Family, Fields
from checkpoint_tools.foreign_files import POINTER_START, is_there, read_start, read_whole, require_content
from checkpoint_tools.number_formats import require_fits
from checkpoint_tools.safetensors_header import Header, read_header
from harness.config.model import ModelConfig
from harness.errors import CheckpointError, UsageError
from harness.json_text import parse_json
from harness.run.checkpoints.tiling import Shape

MAX_CONFIG_BYTES = 16 * 1024**2
"""Size of a `config.json` and the like. The largest published ones, with names for 22,000 classes, have 2 MB."""
MAX_INDEX_BYTES = 64 * 1024**2
"""Size of an index. That of the largest published model, of 150,000 tensors, has 15 MB."""
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
ADAPTER_NAME = "adapter_config.json"
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_MOST_SHOWN = 200
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,120}\.safetensors")
COMPUTED = ".rotary_emb.inv_freq"
"""Buffers that old versions of transformers saved, and that every version computes anew."""
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TheirTensors:
    """A Hugging Face model's folder, opened for reading one tensor at a time."""

    path: Path
    fields: Fields
    """The keys of its `config.json` that say what the model computes."""
    family: Family
    model: ModelConfig
    files: Mapping[str, str]
    """Name of the file that holds each tensor."""
    headers: Header
    """Shape of each tensor, and its number format as the file spells it."""
    left_out_prefix: str = ""
    """Begin of all names that the files leave out."""
    passed_over: tuple[str, ...] = ()
    """Keys of its `config.json` that change nothing, and that most files lack."""
    beside: tuple[str, ...] = ()
    """Other files that may hold weights; they are not read."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors that are read.

        An output layer beside a tied embedding is not, nor are layers behind the last one that predict further tokens.
        """
        tied = () if self.model.untie_embeddings_and_output_weights else self.family.outputs
        beyond = self._further_layers()
        return tuple(
            name
            for name in self.files
            if name not in tied and not name.endswith((COMPUTED, *self.family.buffers)) and not name.startswith(beyond)
        )

    def _further_layers(self) -> tuple[str, ...]:
        """Return what the names of tensors in such layers begin with."""
        key = self.family.further_layers
        number = self.fields.get(key, 0) if key is not None else 0
        return tuple(f"model.layers.{self.model.num_layers + layer}." for layer in range(number))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the tensors that do not matter."""
        named = set(self.names)
        return tuple(name for name in self.files if name not in named)

    def read(self, name: str) -> torch.Tensor:
        """Read a whole tensor.

        Raises:
            CheckpointError: There is none of that name, or the file is damaged.
        """
        if name not in self.files:
            raise CheckpointError(f"{self.path} has no tensor {name}, which its config.json promises.")
        with opened_file(self.path / self.files[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name.removeprefix(self.left_out_prefix))
        return tensor

    def read_finite(self, name: str) -> torch.Tensor:
        """Read a whole tensor, and check that it holds numbers only.

        Raises:
            CheckpointError: As `read`, and if it holds one that is not finite.
        """
        tensor = self.read(name)
        require_fits(f"{self.path}: {name}", tensor, tensor.dtype)
        return tensor

    def described(self, name: str) -> tuple[Shape, torch.dtype]:
        """Return shape and number format of a tensor, without reading it.

        Raises:
            CheckpointError: As `read`, and for number formats that are no weights.
        """
        if name not in self.files:
            raise CheckpointError(f"{self.path} has no tensor {name}, which its config.json promises.")
        shape, kind = self.headers[name]
        if kind not in _DTYPES:
            raise CheckpointError(f"{self.path}: {name} is {kind}; weights must be {', '.join(_DTYPES)}.")
        return shape, _DTYPES[kind]


def open_model(path: Path) -> TheirTensors:
    """Open a Hugging Face model's folder.

    Raises:
        CheckpointError: Something is missing or damaged, or the model has a feature that is not known here.
        UsageError: It is a file.
    """
    require_model_folder(path)
    fields = read_json(path / "config.json", MAX_CONFIG_BYTES)
    family = family_of(fields)
    found = admit(fields, family)
    files, headers = tensor_files(path)
    prefix = _prefix_left_out(files, family)
    full = {name: name if name in family.outputs else prefix + name for name in files}
    return TheirTensors(
        path=path,
        fields=found.fields,
        family=family,
        model=found.model,
        files={full[name]: file for name, file in files.items()},
        headers={full[name]: described for name, described in headers.items()},
        left_out_prefix=prefix,
        passed_over=found.passed_over,
        beside=tuple(name for name in _weight_files(path) if name not in set(files.values())),
    )


def _prefix_left_out(files: Mapping[str, str], family: Family) -> str:
    """Return what the names of the files lack in front."""
    prefix = family.base_prefix or ""
    return "" if prefix and any(name.startswith(prefix) for name in files) else prefix


def read_json(path: Path, most_bytes: int) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: It is missing, too large, or no JSON object.
    """
    content = read_whole(path, most_bytes)
    try:
        fields = parse_json(content, unique_keys=True)
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds no JSON object.")
    return fields


def require_model_folder(path: Path) -> None:
    """Check that a path is a model's folder, without an adapter that readers treat differently.

    Raises:
        CheckpointError: It is something else.
        UsageError: It is a file.
    """
    if path.is_file():
        raise UsageError(f"{path} is a file. Name the model's folder, with its config.json and its weights.")
    if not is_there(path / "config.json") and (path / "snapshots").is_dir():
        found = sorted(folder.name for folder in (path / "snapshots").iterdir())
        raise CheckpointError(
            f"{path} is a repository in a cache of Hugging Face. Name one of its snapshots: "
            f"{', '.join(str(path / 'snapshots' / name) for name in found) or 'there is none'}."
        )
    if is_there(path / ADAPTER_NAME):
        raise CheckpointError(
            f"{path} has an {ADAPTER_NAME}: some readers would change the weights by the adapter, others not. Merge "
            "the adapter into the model (peft: merge_and_unload), or take its files away."
        )


def tensor_files(path: Path) -> tuple[dict[str, str], Header]:
    """Return the file, and the shape and format, of each tensor of a model's folder.

    Raises:
        CheckpointError: There is none, a file is damaged, or index and files differ.
    """
    if is_there(path / INDEX_NAME):
        named = _named_by_index(path)
    elif is_there(path / SINGLE_NAME):
        named = None
    else:
        raise CheckpointError(f"{path} has neither {SINGLE_NAME} nor {INDEX_NAME}{_instead(_weight_files(path))}.")
    found: dict[str, str] = {}
    headers: dict[str, tuple[Shape, str]] = {}
    for shard in sorted(set(named.values())) if named is not None else [SINGLE_NAME]:
        require_content(path / shard, read_start(path / shard, POINTER_START))
        for tensor, described in read_header(path / shard).items():
            if tensor in found:
                raise CheckpointError(f"{path}: {tensor} is in {found[tensor]} and in {shard}.")
            found[tensor], headers[tensor] = shard, described
        with opened_file(path / shard):  # the library has to agree
            pass
    named = found if named is None else named
    if wrong := sorted(name for name in {*found, *named} if found.get(name) != named.get(name)):
        first = wrong[0][:_MOST_SHOWN]
        raise CheckpointError(f"{path}: index and files differ on {len(wrong)} tensors, first {first}.")
    return found, headers


def _named_by_index(path: Path) -> dict[str, str]:
    """Return the file of each tensor, as the index says."""
    named = read_json(path / INDEX_NAME, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise CheckpointError(f"{path / INDEX_NAME} has no weight_map.")
    for name in named.values():
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            raise CheckpointError(f"{path / INDEX_NAME} names the file {ascii(name)[:80]}, which is not allowed.")
    others = sorted(set(named.values()) - {SINGLE_NAME})
    if others and is_there(path / SINGLE_NAME):
        raise CheckpointError(
            f"{path} has two sets of weights: {SINGLE_NAME}, and an index ({INDEX_NAME}) that names other files, first "
            f"{others[0]}. transformers reads {SINGLE_NAME}, other programs the index. Take away the one that is not "
            "the model."
        )
    return named


def _weight_files(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.name.endswith(_WEIGHT_SUFFIXES))


def _instead(found: Sequence[str]) -> str:
    """Return a hint for a folder whose weights have other names."""
    kept = [name for name in found if name.endswith(".safetensors")]
    if kept:
        return (
            f"; it has {kept[0]}{' and others' if len(kept) > 1 else ''}, which nothing names as the model's weights. "
            f"Fetch the index, or rename the file to {SINGLE_NAME} if it is all of them"
        )
    if not found:
        return ""
    if found[0].endswith(".gguf"):
        return f" ({found[0]} is a GGUF file of llama.cpp, which is not read: take the model that it was made from)"
    return f" ({found[0]} is a pickle, which is never read: save it as safetensors)"


@contextmanager
def opened_file(path: Path) -> Iterator[Any]:
    """Open a file of tensors by its library.

    Raises:
        CheckpointError: It cannot be read, or is damaged.
    """
    try:
        require_content(path, read_start(path, POINTER_START))
        with safe_open(path, framework="pt", device="cpu") as opened:
            yield opened
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or truncated: {error}.") from error
