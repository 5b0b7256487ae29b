"""A model with fp8 weights in blocks, as DeepSeek publishes V3, to the same model in bf16 or fp32.

A quantized matrix is two tensors: `NAME.weight [R, C]` in fp8 (e4m3), and `NAME.weight_scale_inv [⌈R/b⌉, ⌈C/b⌉]` in
fp32, one number for each block of b by b (128 by 128). A weight is its fp8 number times the number of its block. All
other tensors stay as they are, and so does the division into files. Each tensor is read, computed and written alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from checkpoint_tools import output_folder
from checkpoint_tools.foreign_files import read_whole
from checkpoint_tools.number_formats import require_fits
from checkpoint_tools.safetensors_file import Entry, safetensors_writer
from checkpoint_tools.safetensors_header import Header
from checkpoint_tools.their_tensors import (
    INDEX_NAME,
    MAX_CONFIG_BYTES,
    opened_file,
    read_json,
    require_model_folder,
    tensor_files,
)
from harness.errors import CheckpointError
from harness.progress import Progress, ShowProgress
from harness.run.checkpoints.for_export import GENERATION_CONFIG, MAX_BYTES
from harness.run.files import replace_file
from harness.tokenizers.belonging_files import names_in_model
from harness.version import VERSION

SETTINGS_KEY = "quantization_config"
_WEIGHT, _SCALE = ".weight", ".weight_scale_inv"
_FP8, _SCALE_FORMAT = "F8_E4M3", "F32"
_PLAIN = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_METHOD = {"quant_method": "fp8", "fmt": "e4m3"}
_LARGEST_BLOCK = 2**16
_MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Dequantized:
    """The result: how much was written."""

    out: Path
    num_tensors: int
    num_dequantized: int
    num_bytes: int
    kept_bytes: int
    """Bytes that were there from before an interruption."""
    seconds: float


def dequantize(folder: Path, out: Path, show: ShowProgress, *, dtype: torch.dtype = torch.bfloat16) -> Dequantized:
    """Write the model of a folder without quantization; OUT is there only if all of it went well.

    Raises:
        CheckpointError: The folder is damaged, is not quantized in this way, or a weight does not fit the format.
        UsageError: OUT exists, or lies in the model's folder.
    """
    output_folder.require_free(out, [folder])
    require_model_folder(folder)
    fields = read_json(folder / "config.json", MAX_CONFIG_BYTES)
    block = _block(fields)
    files, headers = tensor_files(folder)
    scales = _scales(folder, headers, block)
    entries = _entries(folder, files, headers, scales, dtype)
    num_bytes = sum(entry.num_bytes for of_file in entries.values() for entry in of_file)
    record = _record(folder, files, dtype)
    with output_folder.begun(out, record) as held:
        partial = held.folder
        _write_small_files(folder, partial, fields, entries, dtype)
        started = time.perf_counter()
        with show("dequantize", num_bytes) as progress:
            kept = sum(_write(folder, partial / name, entries[name], files, block, progress) for name in entries)
        seconds = time.perf_counter() - started
        output_folder.publish(held, out, record)
    return Dequantized(
        out=out,
        num_tensors=sum(map(len, entries.values())),
        num_dequantized=len(scales),
        num_bytes=num_bytes,
        kept_bytes=kept,
        seconds=seconds,
    )


def dequantized(weight_RC: torch.Tensor, scale_rc: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Return fp8 numbers times the number of their block, in fp32: `[R, C]`."""
    rows, columns = weight_RC.shape
    spread = scale_rc.repeat_interleave(block[0], dim=0)[:rows]
    return weight_RC.float() * spread.repeat_interleave(block[1], dim=1)[:, :columns]


def _block(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Return the rows and columns of a block.

    Raises:
        CheckpointError: The model is not quantized, or in another way.
    """
    settings = fields.get(SETTINGS_KEY)
    if not isinstance(settings, dict):
        raise CheckpointError(f"config.json has no {SETTINGS_KEY}: this model is not quantized.")
    problems = [
        f"{key} is {json.dumps(settings.get(key))[:40]}, known is {known}"
        for key, known in _METHOD.items()
        if settings.get(key) != known
    ]
    size = settings.get("weight_block_size")
    is_size = (
        isinstance(size, list) and len(size) == 2 and all(type(n) is int and 1 <= n <= _LARGEST_BLOCK for n in size)
    )
    if not is_size:
        problems.append(f"weight_block_size is {json.dumps(size)[:40]}, known are two numbers, such as [128, 128]")
    if problems or not isinstance(size, list):
        raise CheckpointError(f"config.json: {SETTINGS_KEY} is of a kind that is not known: {'; '.join(problems)}.")
    return size[0], size[1]


def _scales(folder: Path, headers: Header, block: tuple[int, int]) -> set[str]:
    """Return the names of the quantized tensors, after it was checked that each has its scales, and they it.

    Raises:
        CheckpointError: Names those for which it is not so.
    """
    quantized = {name for name, (_, kind) in headers.items() if kind == _FP8}
    problems: list[str] = []
    for name in sorted(quantized):
        shape, scale = headers[name][0], headers.get(_scale_of(name))
        if not name.endswith(_WEIGHT) or len(shape) != 2 or scale is None:
            problems.append(f"{name} is {_FP8} {list(shape)} without {_scale_of(name)}")
            continue
        wanted = tuple(-(-size // each) for size, each in zip(shape, block, strict=True))
        if scale != (wanted, _SCALE_FORMAT):
            problems.append(
                f"{_scale_of(name)} is {scale[1]} {list(scale[0])}, wanted is {_SCALE_FORMAT} {list(wanted)}"
            )
    alone = {name for name in headers if name.endswith(_SCALE)} - {_scale_of(name) for name in quantized}
    problems += [f"{name} belongs to no tensor in {_FP8}" for name in sorted(alone)]
    others = sorted(name for name, (_, kind) in headers.items() if kind not in (*_PLAIN, _FP8))
    problems += [f"{name} is {headers[name][1]}, known are {', '.join((*_PLAIN, _FP8))}" for name in others]
    if problems:
        lines = "\n  ".join(problems[:_MOST_SHOWN])
        raise CheckpointError(f"{folder} is not quantized as its config.json says:\n  {lines}")
    return quantized


def _scale_of(name: str) -> str:
    return name.removesuffix(_WEIGHT) + _SCALE


def _entries(
    folder: Path, files: Mapping[str, str], headers: Header, quantized: set[str], dtype: torch.dtype
) -> dict[str, list[Entry]]:
    """Return the tensors of every file that is written.

    Raises:
        CheckpointError: Nothing is quantized.
    """
    if not quantized:
        raise CheckpointError(f"{folder} holds no tensor in {_FP8}: remove {SETTINGS_KEY} from its config.json.")
    entries: dict[str, list[Entry]] = {}
    for name, file in files.items():
        shape, kind = headers[name]
        if not name.endswith(_SCALE):
            entry = Entry(name=name, shape=tuple(shape), dtype=dtype if kind == _FP8 else _PLAIN[kind])
            entries.setdefault(file, []).append(entry)
    return entries


def _write(
    folder: Path,
    path: Path,
    entries: list[Entry],
    files: Mapping[str, str],
    block: tuple[int, int],
    progress: Progress,
) -> int:
    """Write a file, unless it is there; return its bytes if it was."""
    num_bytes = sum(entry.num_bytes for entry in entries)
    if path.exists():
        progress(num_bytes)
        return num_bytes
    with safetensors_writer(path, entries) as write:
        for entry in entries:
            tensor = _read(folder, entry.name, files)
            if tensor.dtype is torch.float8_e4m3fn:
                tensor = dequantized(tensor, _read(folder, _scale_of(entry.name), files), block)
            require_fits(f"{folder}: {entry.name}", tensor, entry.dtype)
            write(entry.name, tensor.to(entry.dtype))
            progress(entry.num_bytes)
    return 0


def _read(folder: Path, name: str, files: Mapping[str, str]) -> torch.Tensor:
    with opened_file(folder / files[name]) as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def _write_small_files(
    folder: Path, partial: Path, fields: Mapping[str, Any], entries: Mapping[str, list[Entry]], dtype: torch.dtype
) -> None:
    """Write the settings without quantization, the index, and the files of the tokenizer."""
    kept = {key: value for key, value in fields.items() if key not in (SETTINGS_KEY, "dtype", "torch_dtype")}
    _write_json(partial / "config.json", {**kept, "torch_dtype": str(dtype).removeprefix("torch.")})
    if len(entries) > 1 or INDEX_NAME in {path.name for path in folder.iterdir()}:
        named = {entry.name: file for file, of_file in entries.items() for entry in of_file}
        total = sum(entry.num_bytes for of_file in entries.values() for entry in of_file)
        _write_json(partial / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": named})
    for name in (*names_in_model(folder), *([GENERATION_CONFIG] if (folder / GENERATION_CONFIG).exists() else [])):
        (partial / name).parent.mkdir(exist_ok=True)
        replace_file(partial / name, read_whole(folder / name, MAX_BYTES))


def _write_json(path: Path, fields: Mapping[str, object]) -> None:
    replace_file(path, (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def _record(folder: Path, files: Mapping[str, str], dtype: torch.dtype) -> dict[str, object]:
    """Return input, output and settings: an interrupted conversion is resumed only if all are the same."""
    seen = [(name, (folder / name).stat()) for name in sorted(set(files.values()))]
    weights = [(name, status.st_size, status.st_mtime_ns) for name, status in seen]
    return {
        "converted": "dequantize",
        "model": folder.resolve().name,
        "config_xxh3": xxhash.xxh3_64_hexdigest(read_whole(folder / "config.json", MAX_CONFIG_BYTES)),
        "weights_xxh3": xxhash.xxh3_64_hexdigest(repr(weights).encode()),
        "dtype": str(dtype),
        "harness": VERSION,
    }
