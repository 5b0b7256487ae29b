"""Converts synthetic models of two sizes, both ways: speed beside `cp` of the same bytes, and peak memory.

    python -m benchmarks.conversion /tmp/space [--gigabytes 1 4]

The proof is left out: it computes with the model, and its memory is bounded apart from this. Every conversion runs in a
process of its own; files have been written just before, so that nothing waits for a disk to read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from checkpoint_tools.checkpoint_writer import Weights, write_checkpoint
from checkpoint_tools.families.config_json import fields_for
from checkpoint_tools.families.llama import LLAMA
from harness.config.model import ModelConfig
from harness.parameters.table import find_parameter

_SHARD_BYTES = 500 * 10**6
_COMMON = """
import json, sys, time
from pathlib import Path
from harness.config.model import ModelConfig

def peak_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

source, target, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
target.mkdir()
{prepare}
before, started = peak_kib(), time.perf_counter()
{convert}
print(json.dumps({{"seconds": time.perf_counter() - started, "peak": peak_kib(), "before": before}}))
"""
_TO_HF = _COMMON.format(
    prepare=f"""
from checkpoint_tools.conversion_plan import plan_shards
from checkpoint_tools.families.llama import LLAMA
from checkpoint_tools.our_tensors import OurTensors, places_of
from checkpoint_tools.to_hf import write_shards
from checkpoint_tools.torch_dist import read_index
model = ModelConfig.model_validate_json((source / "model.json").read_text())
ours = OurTensors(path=source, manifest=None, model=model, places=places_of(read_index(source), model, source))
shards = plan_shards(LLAMA, model, lambda name: (ours.shape(name), ours.dtype(name)), None, {_SHARD_BYTES})
files = {{entry.name: shard.name for shard in shards for entry in shard.entries}}
(target / "model.safetensors.index.json").write_text(json.dumps({{"weight_map": files}}))
""",
    convert="write_shards(target, ours, shards, workers, lambda num_bytes: None)",
)
_FROM_HF = _COMMON.format(
    prepare="""
from checkpoint_tools.checkpoint_writer import Weights, write_checkpoint
from checkpoint_tools.from_hf import _joined
from checkpoint_tools.their_tensors import open_model
theirs = open_model(source)
moves = {move.ours: move for move in theirs.family.moves(theirs.model)}
weights = Weights(model=theirs.model, names=list(moves), read=lambda name: _joined(theirs, moves[name]))
(target / "finished").mkdir()
""",
    convert='write_checkpoint(target, weights, records=target / "finished", num_workers=workers)',
)


def model_of(gigabytes: float) -> ModelConfig:
    """Return a bf16 model of about this many gigabytes: layers of 48 MB, and embedding and output of 64 MB each."""
    layers = max(1, round((gigabytes * 1e9 - 131e6) / 48e6))
    return ModelConfig(
        num_layers=layers,
        hidden_size=1024,
        num_attention_heads=16,
        num_query_groups=4,
        ffn_hidden_size=6912,
        vocab_size=32000,
    )


def write_source(folder: Path, model: ModelConfig) -> None:
    """Write weights that are cheap to make: one random row, repeated."""
    folder.mkdir(parents=True)
    rows = torch.randn(8192).bfloat16()

    def made(name: str) -> torch.Tensor:
        shape = find_parameter(name, model).shape
        return rows[: shape[-1]].expand(shape).contiguous()

    names = [move.ours for move in LLAMA.moves(model)]
    write_checkpoint(folder, Weights(model=model, names=names, read=made))
    (folder / "model.json").write_text(model.model_dump_json())


def copy_seconds(files: Iterable[Path], target: Path) -> float:
    """Return the seconds that `cp` needs for the same bytes, until they are on the disk."""
    target.mkdir()
    started = time.perf_counter()
    subprocess.run(["cp", *map(str, sorted(files)), str(target)], check=True)
    subprocess.run(["sync", "-f", str(target)], check=True)
    return time.perf_counter() - started


def converted(program: str, source: Path, target: Path, workers: int) -> dict[str, float]:
    """Return seconds and memory of one conversion."""
    command = [sys.executable, "-c", program, str(source), str(target), str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(space: Path, gigabytes: float, workers: int) -> None:
    """Print a line for each direction."""
    model = model_of(gigabytes)
    ours, theirs = space / "checkpoint", space / "exported"
    write_source(ours, model)
    for name, program, source, target in (
        ("to-hf", _TO_HF, ours, theirs),
        ("from-hf", _FROM_HF, theirs, space / "run"),
    ):
        files = [*source.glob("*.distcp"), *source.glob("*.safetensors")]
        num_bytes = sum(file.stat().st_size for file in files)
        copied_s = copy_seconds(files, space / f"copy of {source.name}")
        found = converted(program, source, target, workers)
        sys.stdout.write(
            f"{name} {num_bytes / 1e9:.2f} GB, {workers} workers: {found['seconds']:.1f} s "
            f"({num_bytes / 1e9 / found['seconds']:.2f} GB/s), cp {copied_s:.1f} s "
            f"({num_bytes / 1e9 / copied_s:.2f} GB/s), ratio {copied_s / found['seconds']:.2f}; peak memory "
            f"{found['peak'] / 1024:.0f} MiB, of which {found['before'] / 1024:.0f} MiB were there before\n"
        )
        sys.stdout.flush()
        (theirs / "config.json").write_text(json.dumps(fields_for(model, LLAMA, {})))


def main() -> None:
    """Prints two lines for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space", type=Path, nargs="?", help="a folder with room for four times the largest size")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    for gigabytes in arguments.gigabytes:
        with tempfile.TemporaryDirectory(prefix="conversion-", dir=arguments.space) as folder:
            measure(Path(folder), gigabytes, arguments.workers)


if __name__ == "__main__":
    main()
